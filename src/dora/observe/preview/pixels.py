"""The values of one pixel of an image, as text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from dora.observe.preview import drawable
from dora.observe.preview.drawable import DrawableMessage, NotDrawable
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.image_encodings import DEFAULT_ENCODING, PIXEL_ENCODINGS
from dora.wire.message import Message
from dora.wire.metadata import MetadataError, decode_metadata


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
        encoding = PIXEL_ENCODINGS.get(str(metadata.get("encoding", DEFAULT_ENCODING)).lower())
        if encoding is None or not encoding.channels:
            return ""
        width, height = drawn.size()
        flat: Any = drawable.numbers(value)
        flat = flat.view(encoding.sample) if flat.dtype == "uint8" else flat
        channels = len(encoding.channels)
        if flat.size != width * height * channels or not (0 <= x < width and 0 <= y < height):
            return ""
        begin = (y * width + x) * channels
        numbers = " ".join(str(number) for number in flat[begin : begin + channels])
        return numbers if encoding.channels == "L" else f"{encoding.channels} {numbers}"
    except (NotDrawable, MetadataError, PayloadError, ValueError, TypeError, pa.ArrowException):
        return ""
