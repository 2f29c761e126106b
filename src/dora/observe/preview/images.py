"""Pixels for a browser: downsampled to the size of a screen, and compressed if a library is installed.

Also the values of one pixel, as text.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dora.observe.preview import drawable
from dora.observe.preview.drawable import DrawableMessage, NotDrawable
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.image_encodings import DEFAULT_ENCODING, MEDIA_TYPES, PIXEL_ENCODINGS
from dora.wire.message import Message
from dora.wire.metadata import MetadataError, decode_metadata

MAX_SIDE: Final = 960  # pixels
MAX_FILE: Final = 4 << 20  # bytes of a compressed image that is passed on as it is; fits into one delivery
_QUALITY: Final = 80  # of JPEG

Pixels = npt.NDArray[np.uint8]

_MAGIC: Final = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"RIFF", "webp"),
    (b"BM", "bmp"),
)


class Image(NamedTuple):
    """A preview of an image: its true size, and a file or raw pixels of perhaps a smaller one."""

    width: int
    height: int
    body: bytes
    media_type: str  # "rgb": three bytes a pixel, rows of ``shown`` width
    shown: tuple[int, int]


def file_kind(data: bytes) -> str:
    """Return the encoding that the first bytes of an image file show, "" if they show none.

    >>> file_kind(b"\\xff\\xd8\\xff\\xe0"), file_kind(b"hello")
    ('jpeg', '')
    """
    return next((name for magic, name in _MAGIC if data.startswith(magic)), "")


def numbers_of(value: pa.Array[Any]) -> npt.NDArray[Any]:
    """Return all numbers of an array without copying them, of binary values the bytes of the first."""
    if pa.types.is_binary(value.type) or pa.types.is_large_binary(value.type):
        return np.frombuffer(value[0].as_buffer(), np.uint8) if len(value) else np.empty(0, np.uint8)
    return drawable.numbers(value, "bytes")


def image(message: DrawableMessage) -> Image:
    """Return an image in the encoding that its metadata says, ``bgr8`` without; raises `NotDrawable`."""
    flat = numbers_of(message.value)
    named = str(message.metadata.get("encoding", "")).lower()
    # Pixels may begin like a file; an encoding of pixels decides.
    looked_at = flat.dtype == np.uint8 and named not in PIXEL_ENCODINGS
    kind = file_kind(flat[:8].tobytes()) if looked_at else ""
    named = named or kind or DEFAULT_ENCODING
    if kind or named in MEDIA_TYPES:
        return _file(flat, MEDIA_TYPES[kind or named])
    width, height = message.size()
    if (encoding := PIXEL_ENCODINGS.get(named)) is None:
        raise NotDrawable(f"its `encoding` is `{named}`, which the dashboard does not know")
    channels = encoding.channels
    if not channels:  # the brightness alone is shown
        return _packed(_luma(flat, width, height, named), width, height)
    if flat.dtype == np.uint8 and encoding.sample != "uint8" and flat.size % 2 == 0:
        flat = flat.view(encoding.sample)
    rows = _shaped(flat, width, height, len(channels), named)
    small = _downsampled(rows)
    if small.dtype == np.uint16:
        small = (small >> 8).astype(np.uint8)
    order = [0] if channels == "L" else [channels.index(color) for color in "RGB"]
    return _packed(small[:, :, order], width, height)


def depth(message: DrawableMessage) -> Image:
    """Return a depth image: near is bright, what is not known is black."""
    width, height = message.size()
    rows = _shaped(drawable.numbers(message.value), width, height, 1, "depth")
    small = np.nan_to_num(_downsampled(rows)[:, :, 0].astype(np.float32), posinf=0, neginf=0)
    known = small[small > 0]
    if known.size:
        low, high = np.percentile(known, (2, 98))
        bright = 255 - np.clip((small - low) / max(high - low, 1e-9), 0, 1) * 225
        small = np.where(small > 0, bright, 0)
    return _packed(small.astype(np.uint8)[:, :, None], width, height)


def masks(message: DrawableMessage) -> Image:
    """Return masks as one image, each in a colour of its own; raises `NotDrawable` if there is none."""
    labels = drawable.labelled_masks(message)
    if labels is None:
        raise NotDrawable("there is no mask in it")
    return coloured(labels)


def coloured(labels: npt.NDArray[Any]) -> Image:
    """Return an image of labels, 0 being the background."""
    height, width = labels.shape
    small = _downsampled(labels[:, :, None])[:, :, 0]
    return _packed(_PALETTE[small % len(_PALETTE)] * (small > 0)[:, :, None], width, height)


_PALETTE: Final = np.array(
    [
        (90, 90, 90),
        (37, 99, 235),
        (234, 88, 12),
        (22, 163, 74),
        (192, 38, 211),
        (202, 138, 4),
        (8, 145, 178),
    ],
    np.uint8,
)


def _file(flat: npt.NDArray[Any], media_type: str) -> Image:
    if flat.nbytes > MAX_FILE:
        raise NotDrawable(f"an image file of {flat.nbytes:,} bytes is too large for a preview")
    return Image(0, 0, flat.tobytes(), media_type, (0, 0))


def _shaped(
    flat: npt.NDArray[Any], width: int, height: int, channels: int, encoding: str
) -> npt.NDArray[Any]:
    if flat.size != width * height * channels:
        raise NotDrawable(
            f"an image of {width} × {height} in {encoding} has {width * height * channels:,} numbers, "
            f"and it has {flat.size:,}"
        )
    return flat.reshape(height, width, channels)


def _luma(flat: npt.NDArray[Any], width: int, height: int, encoding: str) -> Pixels:
    wanted = int(width * height * PIXEL_ENCODINGS[encoding].size)
    if flat.dtype != np.uint8 or flat.size != wanted:
        raise NotDrawable(f"an image of {width} × {height} in {encoding} has {wanted:,} bytes")
    if encoding == "yuyv":
        return _downsampled(flat.reshape(height, width, 2)[:, :, :1])
    return _downsampled(flat[: width * height].reshape(height, width, 1))


def _downsampled(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return every n-th pixel, which reads only a part of a large image."""
    step = -(-max(rows.shape[:2]) // MAX_SIDE)
    return rows[::step, ::step]


def _packed(pixels: Pixels, width: int, height: int) -> Image:
    shown = (pixels.shape[1], pixels.shape[0])
    pixels = np.ascontiguousarray(pixels)
    match library():
        case "cv2":
            import cv2

            turned = pixels[:, :, ::-1] if pixels.shape[2] == 3 else pixels
            _, data = cv2.imencode(
                ".jpg", np.ascontiguousarray(turned), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
            )
            return Image(width, height, data.tobytes(), "image/jpeg", shown)
        case "PIL.Image":
            import io

            from PIL import Image as Pillow

            file = io.BytesIO()
            Pillow.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]).save(
                file, "JPEG", quality=_QUALITY
            )
            return Image(width, height, file.getvalue(), "image/jpeg", shown)
    rgb = pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    return Image(width, height, rgb.tobytes(), "rgb", shown)


@cache
def library() -> str:
    """Import a library that can compress and return its name; "" if none is installed."""
    for name in ("cv2", "PIL.Image"):
        try:
            import_module(name)
        except ImportError:
            continue
        return name
    return ""


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
