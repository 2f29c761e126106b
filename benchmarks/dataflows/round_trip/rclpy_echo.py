"""`echo.py` for rclpy: return every message, until the other program has ended."""

import rclpy
from rclpy.executors import ExternalShutdownException
from std_msgs.msg import UInt8MultiArray

rclpy.init()
node = rclpy.create_node("echo")
publisher = node.create_publisher(UInt8MultiArray, "pong", 10)
node.create_subscription(UInt8MultiArray, "ping", publisher.publish, 10)
try:
    rclpy.spin(node)
except ExternalShutdownException:
    pass
