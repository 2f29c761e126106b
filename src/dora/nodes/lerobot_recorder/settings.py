"""The settings of a recorder: `parameters` of its node."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from dora.nodes.lerobot.video import Codec

Positive = Annotated[float, Meta(gt=0)]


class FeatureSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The feature that an input becomes. ``rate`` (hertz) is what is expected of it, by default ``fps``."""

    name: str = ""
    names: list[str] | None = None
    rate: Positive | None = None


class RecorderSettings(msgspec.Struct, frozen=True):
    """``memory`` is in megabytes, ``patience`` in seconds."""

    dataset: str = "out/dataset"
    fps: Annotated[int, Meta(ge=1, le=1000)] = 30
    task: str = "no task"
    robot: str | None = None
    resume: bool = False
    on_gap: Literal["mark", "discard"] = "mark"
    codec: Codec = "h264"
    features: dict[str, str | FeatureSettings] = {}
    memory: Annotated[int, Meta(ge=1)] = 256
    patience: Annotated[float, Meta(ge=0, le=60)] = 0.5

    def feature(self, input_id: str) -> FeatureSettings:
        """Return what is set for an input."""
        setting = self.features.get(input_id, "")
        return FeatureSettings(setting) if isinstance(setting, str) else setting
