"""Ids of nodes, operators, inputs, outputs and machines: what they may look like."""

from __future__ import annotations

import re

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
