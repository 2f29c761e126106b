"""The DDS engine: topics over Cyclone DDS, which meets every other DDS of ROS 2.

It has no services: ROS's pairing of requests and responses over Fast DDS needs what the Python interface
of Cyclone does not give (`dora.ros2.rclpy` has them).
"""
