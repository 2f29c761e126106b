"""The Python interface of dora-rs to ROS 2: contexts, nodes, topics, services, actions, parameters.

Programs use it as `dora.Ros2Context`, `dora.Ros2Node` and so on.
"""
