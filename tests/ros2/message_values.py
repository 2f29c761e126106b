"""Values of messages for Hypothesis: what a program may send, as dictionaries that JSON can carry."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dora.ros2 import InterfaceLibrary, MessageType
from dora.ros2.types.definition import INTEGERS, MessageField, MessageFieldType

# No zero: in C, a string ends there. No surrogates: they are no text.
_CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


def values_of(
    kind: MessageType, library: InterfaceLibrary, longest: int = 4
) -> st.SearchStrategy[dict[str, Any]]:
    """Return values of a type, with sequences of at most so many elements; some fields are left out."""
    return _message(kind.fields, library, longest)


def _message(
    fields: tuple[MessageField, ...], library: InterfaceLibrary, longest: int
) -> st.SearchStrategy[dict[str, Any]]:
    # Arrays of messages in messages make big values; those inside are short.
    found = {one.name: _field(one.type, library, longest) for one in fields}
    return st.fixed_dictionaries({}, optional=found)


def _field(kind: MessageFieldType, library: InterfaceLibrary, longest: int) -> st.SearchStrategy[Any]:
    if kind.kind == "message":
        one = _message(library.definition(kind.nested).fields, library, min(longest, 2))
    else:
        one = _primitive(kind)
    if kind.shape == "one":
        return one
    if kind.shape == "array":
        return st.lists(one, min_size=kind.size, max_size=kind.size)
    return st.lists(one, max_size=min(kind.size or longest, longest))


def _primitive(kind: MessageFieldType) -> st.SearchStrategy[Any]:
    if kind.kind == "bool":
        return st.booleans()
    if kind.kind in ("string", "wstring"):
        if kind.bound:  # in bytes, for rclpy
            return st.text("abc", max_size=kind.bound)
        return st.text(_CHARACTERS, max_size=12)
    if kind.kind == "float32":
        return st.floats(width=32, allow_nan=False, allow_infinity=False)
    if kind.kind == "float64":
        return st.floats(allow_nan=False, allow_infinity=False)
    return st.integers(*INTEGERS[kind.kind])
