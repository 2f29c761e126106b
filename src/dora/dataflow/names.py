"""Valid ids of nodes, operators, inputs, outputs and machines, and valid parameters."""

from __future__ import annotations

import math
import re
from typing import Any, Final

import msgspec

NODE_ID = r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*"
DATA_ID = r"[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*"
MACHINE_ID = r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,62}"

_node_id = re.compile(NODE_ID).fullmatch
_data_id = re.compile(DATA_ID).fullmatch
_machine_id = re.compile(MACHINE_ID).fullmatch


def node_id_fault(text: str) -> str:
    """Return why ``text`` cannot be the id of a node, as the end of a sentence; "" if it can.

    >>> node_id_fault("my camera")
    'holds the character ` `; only letters (a-z), digits, `_`, `.` and `-` are allowed'
    """
    if text == "dora":
        return "is reserved"
    if _node_id(text):
        return ""
    if not text:
        return "is empty"
    if text.startswith("."):
        return "starts with a dot"
    return _bad_character(text, "", "`_`, `.` and `-`")


def rotated_from(node_id: str) -> str:
    """Return the node of which a rotated log file has the name that the log file of this node has.

    "" if there is none.

    >>> rotated_from("cam.1"), rotated_from("cam.left")
    ('cam', '')
    """
    base, _, number = node_id.rpartition(".")
    return base if number.isdecimal() else ""


def data_id_fault(text: str) -> str:
    """Return why ``text`` cannot be the id of an input or output; "" if it can."""
    if _data_id(text):
        return ""
    if not text:
        return "is empty"
    if text.startswith("/") or text.endswith("/"):
        return "starts or ends with a slash"
    if "//" in text:
        return "has two slashes in a row"
    return _bad_character(text, "/", "`_`, `.`, `-` and `/`")


def machine_id_fault(text: str) -> str:
    """Return why ``text`` cannot be the id of a machine; "" if it can."""
    if _machine_id(text):
        return ""
    return (
        "has to be of 1 to 63 letters (a-z), digits, `_`, `.` and `-`, and begin with none of the last two"
    )


def _bad_character(text: str, also: str, allowed: str) -> str:
    bad = next(c for c in text if not (c.isascii() and c.isalnum()) and c not in "_.-" + also)
    return f"holds the character `{bad}`; only letters (a-z), digits, {allowed} are allowed"


# Parameters of nodes: named JSON values that may change while the dataflow runs.

MAX_KEY: Final = 256  # bytes
MAX_VALUE: Final = 64 * 1024  # bytes, as JSON
MAX_DEPTH: Final = 64  # lists and mappings in each other; functions that read them are recursive


def key_fault(key: str) -> str:
    """Return why a text cannot name a parameter, as the end of a sentence; "" if it can."""
    if not key.strip():
        return "is empty"
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    return f"has {size} bytes, more than {MAX_KEY}" if size > MAX_KEY else ""


def value_fault(value: Any) -> str:
    """Return why a value cannot be one of a parameter, as the end of a sentence; "" if it can.

    >>> value_fault({"gain": [0.5, None]}), value_fault(float("nan"))
    ('', 'has nan, which JSON does not know')
    """
    if strange := _not_json(value):
        return strange
    try:
        size = len(msgspec.json.encode(value))
    except UnicodeEncodeError:
        return "has a text that is not UTF-8"
    return f"has {size} bytes as JSON, more than {MAX_VALUE}" if size > MAX_VALUE else ""


def parameter_fault(key: str, value: Any) -> str:
    """Return why a parameter cannot have this name or this value, as a sentence; "" if it can."""
    if fault := key_fault(key):
        return f"the key of a parameter {fault}"
    fault = value_fault(value)
    return f"the value of parameter `{key}` {fault}" if fault else ""


def _not_json(value: Any, depth: int = 0) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"has {value}, which JSON does not know"
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return f"has the integer {value}, which does not fit into 64 bits"
    if isinstance(value, (dict, list, tuple)):
        if depth == MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} levels deep"
        items = value.values() if isinstance(value, dict) else value
        return next((fault for item in items if (fault := _not_json(item, depth + 1))), "")
    if value is not None and not isinstance(value, (bool, int, float, str)):
        return f"has a value of type {type(value).__name__}, which JSON does not know"
    return ""
