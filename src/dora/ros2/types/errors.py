"""Errors of message types.

::

    DoraError
    ├── TypeNotFound        no definition of this name; says where it was looked for, and what is near
    ├── DefinitionError     the text of a definition cannot be read, or has a form that ROS does not send
    └── MalformedMessage    received bytes are no message of the type
    UnsupportedData (a DoraError)
    └── ValueMismatch       a value does not fit the message type: field, expected, got
"""

from __future__ import annotations

from dora.errors import DoraError, UnsupportedData

__all__ = ["DefinitionError", "MalformedMessage", "TypeNotFound", "ValueMismatch"]


class TypeNotFound(DoraError):
    """No definition has this name."""


class DefinitionError(DoraError):
    """The text of a definition cannot be read."""


class MalformedMessage(DoraError):
    """Received bytes are no message of the type. A receiver counts and drops them."""


class ValueMismatch(UnsupportedData):
    """A value does not fit the message type."""

    def __init__(self, type_name: str, field: str, expected: str, got: str) -> None:
        self.type_name, self.field, self.expected, self.got = type_name, field, expected, got
        place = f"field {field!r} of {type_name}" if field else type_name
        super().__init__(f"{place}: expected {expected}, got {got}")

    def __reduce__(self) -> tuple[type[ValueMismatch], tuple[str, str, str, str]]:
        return ValueMismatch, (self.type_name, self.field, self.expected, self.got)
