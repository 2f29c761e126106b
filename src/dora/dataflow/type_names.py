"""What types are called: ``std/media/v1/Image``, ``my/v1/Reading``, ``…/AudioFrame[sample_type=f32]``.

The part before the last slash is where the type is defined: a part of the standard library, or a file
``types/my/v1.yml`` beside the dataflow. Parameters narrow a type; one that is not given can be
anything.
"""

from __future__ import annotations

import re

import msgspec

STANDARD = "std/"
MAX_TYPE = 1000  # characters of a name

_word = r"[A-Za-z0-9_.\-]+"
_type = re.compile(rf"((?:{_word}/)*)({_word})(?:\[(.*)\])?").fullmatch
_parameter = re.compile(rf" *({_word}) *= *([^=,\[\]]*[^=,\[\] ]) *").fullmatch


class TypeFault(ValueError):
    """A text that is no type: the sentence, and the mend."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class TypeName(msgspec.Struct, frozen=True):
    base: str  # "std/media/v1/Image"
    parameters: tuple[tuple[str, str], ...] = ()  # sorted

    def __str__(self) -> str:
        if not self.parameters:
            return self.base
        return f"{self.base}[{','.join(f'{name}={value}' for name, value in self.parameters)}]"

    @property
    def short(self) -> str:
        """The name without where it is defined."""
        return self.base.rpartition("/")[2]

    def agrees(self, other: TypeName) -> bool:
        """Tell whether both are the same type, and no parameter that both give differs."""
        if self.base != other.base:
            return False
        mine = dict(self.parameters)
        return all(mine.get(name, value) == value for name, value in other.parameters)


def parse_type(text: str) -> TypeName:
    """Return the type that a text names; raises `TypeFault`. Whether it exists is another question.

    >>> str(parse_type("std/media/v1/AudioFrame[sample_type=f32, channels=2]"))
    'std/media/v1/AudioFrame[channels=2,sample_type=f32]'
    """
    if len(text) > MAX_TYPE:
        raise TypeFault(f"the name of a type has at most {MAX_TYPE} characters")
    match = _type(text.strip())
    if match is None:
        raise TypeFault(f"`{text}` is not the name of a type", "types look like `std/core/v1/Float32`")
    parameters: dict[str, str] = {}
    for part in match[3].split(",") if match[3] else ():
        found = _parameter(part)
        if found is None:
            raise TypeFault(
                f"`{part.strip()}` is not a parameter of a type",
                f"write `{match[2]}[name=value]`, with commas between several",
            )
        parameters[found[1]] = found[2]
    return TypeName(match[1] + match[2], tuple(sorted(parameters.items())))
