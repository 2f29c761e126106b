"""The types of the standard packages, for a machine without ROS.

Messages come from the type stores of `rosbags`, which has one for each distribution of ROS. It has no
services and no actions: the folder `interfaces` brings these, with the few messages that all services and
actions need.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

from dora.ros2.types.definition import (
    DUMMY,
    Constant,
    MessageDefinition,
    MessageField,
    MessageFieldType,
    Shape,
)
from dora.ros2.types.errors import DefinitionError

INTERFACES: Final = Path(__file__).parent / "interfaces"
"""Files of standard packages, in the layout ``package/kind/Name.kind``."""

DISTRIBUTIONS: Final = ("humble", "iron", "jazzy", "kilted", "lyrical")
DEFAULT_DISTRIBUTION: Final = "kilted"
"""Its types are the types of Jazzy, too; Kilted has one more."""

INSTALL: Final = 'pip install "dora-dataflow[ros2]"'

# Default values of standard messages, which rosbags leaves out; all that are not zero.
_DEFAULTS: Final = {
    ("geometry_msgs/msg/Quaternion", "w"): 1.0,
    ("sensor_msgs/msg/NavSatStatus", "status"): -2,
}

# `Nodetype` of rosbags.
_BASE, _NAME, _ARRAY = 1, 2, 3


@cache
def standard_messages(distribution: str) -> dict[str, Any] | None:
    """Return all messages of a distribution, in the form of rosbags; None if rosbags is not installed.

    Raises `DefinitionError` for a distribution that rosbags does not have.
    """
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise DefinitionError(
            f"no message types are known of the ROS distribution {distribution!r}; known are {known}"
        )
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        return None
    return get_typestore(Stores(f"ros2_{distribution}")).fielddefs


def standard_message(name: str, distribution: str) -> MessageDefinition | None:
    """Return a message of a standard package, or None if there is none with this name."""
    found = (standard_messages(distribution) or {}).get(name)
    if found is None:
        return None
    constants, fields = found
    return MessageDefinition(
        name,
        tuple(
            MessageField(one, _type(description), _DEFAULTS.get((name, one)))
            for one, description in fields
            if one != DUMMY
        ),
        tuple(Constant(one, "uint8" if kind == "char" else kind, value) for one, kind, value in constants),
    )


def _type(description: Any) -> MessageFieldType:
    node, rest = description
    if node == _BASE:
        kind, bound = rest
        return MessageFieldType("uint8" if kind == "char" else kind, bound=bound)
    if node == _NAME:
        return MessageFieldType("message", rest)
    inner, count = rest
    shape: Shape = "array" if node == _ARRAY else "sequence"
    return _type(inner)._replace(shape=shape, size=count)
