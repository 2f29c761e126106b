"""The settings of a camera: `parameters` of its node."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Pixels = Annotated[int, Meta(ge=16, le=16384)]

PATTERN = "pattern"


class CameraSettings(msgspec.Struct, frozen=True):
    """``source`` is the number or path of a device, a video file, or ``pattern``.

    ``rate`` is in hertz, ``width`` and ``height`` are in pixels. None: as the source has it; the pattern
    has 640 × 480 pixels at 30 Hz. ``frames``: end after so many. ``loop``: begin a file again at its end.
    """

    source: int | str = 0
    rate: Annotated[float, Meta(gt=0, le=1000)] | None = None
    width: Pixels | None = None
    height: Pixels | None = None
    encoding: Literal["bgr8", "rgb8", "jpeg"] = "bgr8"
    loop: bool = False
    frames: Annotated[int, Meta(ge=1)] | None = None
