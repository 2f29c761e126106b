"""Find out which primitive an input is: from its metadata, otherwise from its name."""

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
# If a name contains several, the first counts. The last two are outputs of published nodes whose older
# versions do not declare a primitive.
_WORDS = {**{primitive: primitive for primitive in PRIMITIVES}, "bbox": "boxes2d", "mask": "masks"}


class UnknownPrimitive(ValueError):
    """How to draw an input is unknown; ``str(error)`` says how to declare it."""


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
        f"its metadata has no `primitive`, and its name contains none; there are {listed(PRIMITIVES)}"
    )
