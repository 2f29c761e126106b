"""The program of a node with a `ros2` block: it connects inputs and outputs with ROS 2."""
