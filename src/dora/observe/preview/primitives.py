"""Which primitive an input is: its metadata says so, or else its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dora.dataflow.problems import did_you_mean, listed

PRIMITIVES = (
    "image",
    "depth",
    "text",
    "boxes2d",
    "boxes3d",
    "masks",
    "jointstate",
    "pose",
    "series",
    "points3d",
    "points2d",
    "lines3d",
    "lines2d",
)
# Of several that occur in a name, the first counts. The last ones are outputs of published nodes that
# say their primitive only in newer versions.
_WORDS = {**{primitive: primitive for primitive in PRIMITIVES}, "bbox": "boxes2d", "mask": "masks"}


class UnknownPrimitive(ValueError):
    """It cannot be told how an input is to be drawn; ``str(error)`` says what would tell it."""


def primitive_of(input_id: str, metadata: Mapping[str, Any]) -> str:
    """Return one of `PRIMITIVES`; raises `UnknownPrimitive`.

    >>> primitive_of("camera", {"primitive": "image"})
    'image'
    >>> primitive_of("text_whisper", {})
    'text'
    """
    named = metadata.get("primitive")
    if named in PRIMITIVES:
        return str(named)
    if named is not None:
        hint = did_you_mean(str(named), PRIMITIVES) or f"there are {listed(PRIMITIVES)}"
        raise UnknownPrimitive(f"its `primitive` is `{named}`, which the viewer does not know; {hint}")
    for word, primitive in _WORDS.items():
        if word in input_id:
            return primitive
    raise UnknownPrimitive(
        f"its metadata has no `primitive`, and its name does not tell one; there are {listed(PRIMITIVES)}"
    )
