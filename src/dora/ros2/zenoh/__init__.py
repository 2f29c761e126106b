"""The Zenoh engine: the wire of rmw_zenoh, so its nodes and ours see each other.

The format follows the design document of rmw_zenoh
(https://github.com/ros2/rmw_zenoh/blob/rolling/docs/design.md).
"""
