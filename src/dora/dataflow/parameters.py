"""Parameters of nodes: named JSON values that may change while the dataflow runs."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

MAX_KEY: Final = 256  # bytes
MAX_VALUE: Final = 64 * 1024  # bytes, as JSON
MAX_DEPTH: Final = 64  # lists and mappings in each other


def key_fault(key: str) -> str:
    """Return why a text cannot name a parameter, as the end of a sentence; "" if it can."""
    if not key.strip():
        return "is empty"
    size = len(key.encode(errors="replace"))
    return f"has {size} bytes, more than {MAX_KEY}" if size > MAX_KEY else ""


def value_fault(value: Any) -> str:
    """Return why a value cannot be one of a parameter, as the end of a sentence; "" if it can.

    >>> value_fault({"gain": [0.5, None]}), value_fault(float("nan"))
    ('', 'has nan, which JSON does not know')
    """
    if strange := _not_json(value):
        return strange
    size = len(msgspec.json.encode(value))
    return f"has {size} bytes as JSON, more than {MAX_VALUE}" if size > MAX_VALUE else ""


def _not_json(value: Any, depth: int = 0) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f"has {value}, which JSON does not know"
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**64:
        return f"has the integer {value}, which does not fit into 64 bits"
    if isinstance(value, (dict, list)):
        if depth == MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} levels deep"
        items = value.values() if isinstance(value, dict) else value
        return next((fault for item in items if (fault := _not_json(item, depth + 1))), "")
    return ""
