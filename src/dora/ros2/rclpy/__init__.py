"""The rclpy engine: the ROS that is installed on this machine, in a process of its own.

It has what Cyclone DDS in Python has not: services, and so actions and parameters, over every RMW. Its
process runs `dora.ros2.rclpy.server` with the Python of ROS, which need not be ours.
"""
