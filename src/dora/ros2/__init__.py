"""ROS 2 without ROS: nodes, topics and services of the ROS graph, over an engine of this wing.

`dora.ros2.engine` is the interface of the engines, `dora.ros2.choose` says which one is taken.
"""
