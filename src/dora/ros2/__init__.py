"""ROS 2 without ROS.

Message types: `InterfaceLibrary` finds a type by name. The type says how its messages look in Arrow,
decodes them and encodes them.

>>> from dora.ros2 import InterfaceLibrary
>>> text = InterfaceLibrary().message("example_interfaces/String")
>>> text.encode({"data": "hello"}).hex()
'000100000600000068656c6c6f00'
>>> text.decode(text.encode({"data": "hello"})).to_pylist()
[{'data': 'hello'}]

``dora.ros2.engine`` is the interface of the engines, ``dora.ros2.choose`` says which one is taken. The
classes of dora-rs for ROS 2, such as ``dora.Ros2Context``, are in ``dora.ros2.api``.
"""

from dora.ros2.types.errors import DefinitionError, MalformedMessage, TypeNotFound, ValueMismatch
from dora.ros2.types.images import image_message, image_of
from dora.ros2.types.library import InterfaceLibrary
from dora.ros2.types.message_type import ActionType, MessageType, ServiceType

__all__ = [
    "ActionType",
    "DefinitionError",
    "InterfaceLibrary",
    "MalformedMessage",
    "MessageType",
    "ServiceType",
    "TypeNotFound",
    "ValueMismatch",
    "image_message",
    "image_of",
]
