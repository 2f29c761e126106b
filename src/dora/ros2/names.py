"""Names of nodes, topics and services: their rules, their full form, and their form over DDS.

And the names of the metadata that tell where a message comes from.
"""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NODE_NAME_MAX: Final = 255  # characters, as in rmw

# In front of names over DDS, so that ROS and other programs share a domain:
# https://design.ros2.org/articles/topic_and_service_names.html
TOPIC_PREFIX: Final = "rt"
REQUEST_PREFIX: Final = "rq"
REPLY_PREFIX: Final = "rr"


# Metadata of a message that is one of ROS.
ROS2_TYPE: Final = "ros2_type"  # "sensor_msgs/msg/Image"
ROS2_TOPIC: Final = "ros2_topic"  # "/camera/image_raw"


def check_node_name(name: str) -> str:
    """Return a name of a node as it is; raises `ValueError` with the rule that it breaks."""
    if not _TOKEN.fullmatch(name) or len(name) > _NODE_NAME_MAX:
        raise ValueError(
            f"`{name}` is no name of a ROS node: letters, digits and `_`, a letter or `_` first, "
            f"at most {_NODE_NAME_MAX}"
        )
    return name


def check_namespace(namespace: str) -> str:
    """Return a namespace in its full form, ``/`` for an empty one; raises `ValueError`.

    >>> check_namespace("robot/arm")
    '/robot/arm'
    """
    full = "/" + namespace.strip("/")
    if full == "/":
        return full
    _check_tokens(full[1:], f"`{namespace}` is no ROS namespace")
    return full


def full_node_name(name: str, namespace: str) -> str:
    """Return the name of a node with its namespace.

    >>> full_node_name("talker", "/"), full_node_name("talker", "/robot")
    ('/talker', '/robot/talker')
    """
    return f"/{name}" if namespace == "/" else f"{namespace}/{name}"


def resolve(name: str, node_name: str, namespace: str) -> str:
    """Return the full name of a topic or service; raises `ValueError` for a name that breaks the rules.

    A name that begins with ``/`` is full already, ``~`` stands for the node, everything else is below the
    namespace.

    >>> resolve("chatter", "talker", "/"), resolve("~/state", "talker", "/robot"), resolve("/a", "b", "/c")
    ('/chatter', '/robot/talker/state', '/a')
    """
    if name == "~" or name.startswith("~/"):
        full = full_node_name(node_name, namespace) + name[1:]
    elif name.startswith("/"):
        full = name
    else:
        full = full_node_name(name, namespace)
    _check_tokens(full[1:], f"`{name}` is no name of a ROS topic or service")
    return full


def _check_tokens(name: str, what: str) -> None:
    for token in name.split("/"):
        if not _TOKEN.fullmatch(token):
            raise ValueError(
                f"{what}: between two `/` are letters, digits and `_`, a letter or `_` first, not `{token}`"
            )


def ros_topic(dds_topic: str) -> str | None:
    """Return the ROS name of a DDS topic, None if it is none of ROS's topics.

    >>> ros_topic("rt/chatter"), ros_topic("rq/addRequest"), ros_topic("ros_discovery_info")
    ('/chatter', None, None)
    """
    prefix, slash, name = dds_topic.partition("/")
    return "/" + name if slash and prefix == TOPIC_PREFIX else None


def ros_service(dds_topic: str) -> tuple[str, bool] | None:
    """Return the service of a DDS topic and whether it has the requests; None if it is none of a service.

    >>> ros_service("rq/addRequest"), ros_service("rr/addReply")
    (('/add', True), ('/add', False))
    """
    prefix, slash, name = dds_topic.partition("/")
    if slash and prefix == REQUEST_PREFIX and name.endswith("Request"):
        return "/" + name.removesuffix("Request"), True
    if slash and prefix == REPLY_PREFIX and name.endswith("Reply"):
        return "/" + name.removesuffix("Reply"), False
    return None


def ros_type(dds_type: str) -> str:
    """Return the ROS name of a DDS type; a name of another form as it is.

    The types of the two halves of a service give the service.

    >>> ros_type("std_msgs::msg::dds_::String_"), ros_type("std_srvs::srv::dds_::SetBool_Request_")
    ('std_msgs/msg/String', 'std_srvs/srv/SetBool')
    """
    start, mark, name = dds_type.rpartition("::dds_::")
    if not mark or not name.endswith("_"):
        return dds_type
    name = name[:-1]
    if start.endswith("::srv"):
        name = name.removesuffix("_Request").removesuffix("_Response")
    return f"{start.replace('::', '/')}/{name}"
