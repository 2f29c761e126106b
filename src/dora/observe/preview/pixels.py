"""The values of one pixel of an image, as text."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from dora.observe.preview import drawable
from dora.observe.preview.drawable import DrawableMessage, NotDrawable
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.message import Message
from dora.wire.metadata import MetadataError, decode_metadata

_CHANNELS: Final = {
    "rgb8": "RGB",
    "bgr8": "BGR",
    "rgba8": "RGBA",
    "bgra8": "BGRA",
    "mono8": "",
    "mono16": "",
}


def pixel_text(name: str, message: Message, x: int, y: int) -> str:
    """Return the values of a pixel of an uncompressed image or a depth image, "" if it is another message.

    ``x`` counts from the left, ``y`` from the top. Depths are in metres.
    """
    try:
        value, metadata = decode_arrow(message), decode_metadata(message.metadata)
        inner = drawable.field(value, "data")
        if inner is not None and pa.types.is_struct(value.type):
            names = ("width", "height", "encoding")
            metadata |= {key: part[0].as_py() for key in names if (part := drawable.field(value, key))}
            value = inner
        drawn = DrawableMessage(name, value, metadata)
        if metadata.get("primitive") == "depth":
            depths, unit = drawable.depth(drawn)
            height, width = depths.shape
            return f"{float(depths[y, x]) / unit:.3f} m" if 0 <= x < width and 0 <= y < height else ""
        encoding = str(metadata.get("encoding", "bgr8")).lower()
        if encoding not in _CHANNELS:
            return ""
        width, height = drawn.size()
        flat: Any = drawable.numbers(value)
        flat = flat.view(np.uint16) if encoding == "mono16" and flat.dtype == np.uint8 else flat
        channels = max(len(_CHANNELS[encoding]), 1)
        if flat.size != width * height * channels or not (0 <= x < width and 0 <= y < height):
            return ""
        begin = (y * width + x) * channels
        numbers = " ".join(str(number) for number in flat[begin : begin + channels])
        return f"{_CHANNELS[encoding]} {numbers}".strip()
    except (NotDrawable, MetadataError, PayloadError, ValueError, TypeError, pa.ArrowException):
        return ""
