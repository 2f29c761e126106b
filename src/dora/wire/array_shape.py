"""The shape and dtype of a NumPy array, in the metadata of its message.

Arrow arrays are flat, and existing receivers expect flat values. So the shape travels in the metadata, as
``shape``: a list of integers, one for each axis, the slowest first. One-dimensional arrays have no such
key, and cost nothing. ``dtype`` is there for the types that Arrow does not have: fixed-width text and
bytes, complex numbers (their values are pairs of floats), and structured types.

A picture, ``uint8`` of (H, W), (H, W, 1) or (H, W, 3), also gets the keys that published nodes read:
``width``, ``height`` and ``encoding``.

Programs often pass on the metadata of what they have received. A NumPy array describes itself, so entries
that describe the received array are replaced, or removed if the new one needs none. Arrow data says nothing
of a shape: there, the sender's entries stay.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Final

from dora.wire.metadata import MetadataError, decode_metadata

if TYPE_CHECKING:
    import numpy as np

SHAPE: Final = "shape"
DTYPE: Final = "dtype"
DESCRIBING: Final = frozenset((SHAPE, DTYPE))  # metadata without these keys describes no array
_MARKS: Final = (b"\xa5shape", b"\xa5dtype")  # the keys in msgpack
_RESTORED: Final = "USc"  # kinds of dtypes that Arrow changes
_MAX_ITEM: Final = 1 << 16  # bytes of a text: a foreign message may claim any number
_MAX_COPY: Final = 1 << 28  # bytes of a whole copy: each short text becomes an item of the claimed size

# Number of channels → encoding. OpenCV's order is the one that published viewers take without an encoding.
_DEFAULT_ENCODING: Final = {1: "mono8", 3: "bgr8"}
_CHANNELS: Final = {"mono8": 1, "bgr8": 3, "rgb8": 3}


def picture_channels(shape: Sequence[int]) -> int:
    """Return how many channels a picture of this shape has, 0 if it is no picture.

    >>> picture_channels((480, 640, 3)), picture_channels((480, 640)), picture_channels((480, 640, 2))
    (3, 1, 0)
    """
    if len(shape) not in (2, 3) or not all(shape):
        return 0
    channels = shape[2] if len(shape) == 3 else 1
    return channels if channels in _DEFAULT_ENCODING else 0


def describe(data: object, metadata: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the metadata with which data is sent: see `describe_shape`, and its ``dtype``.

    Data that is no NumPy array has the sender's metadata. Metadata that is no mapping is returned as it is:
    it is refused where it is encoded.
    """
    numpy = sys.modules.get("numpy")
    if (
        numpy is None
        or not isinstance(data, numpy.ndarray)
        or not (metadata is None or isinstance(metadata, Mapping))
    ):
        return metadata
    described = describe_shape(data.shape, data.dtype.str, metadata)
    dtype = _dtype_in_metadata(data.dtype)
    if dtype is not None:
        described[DTYPE] = dtype
    return described


def describe_shape(shape: Sequence[int], dtype: str, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata with ``shape``, and for a picture ``width``, ``height`` and ``encoding``.

    ``dtype``: NumPy's name with the byte order, such as ``"|u1"``. One dimension needs no ``shape``.

    Entries that describe a received array go. The sender's own stay: a ``shape`` that is no list of
    integers, a ``dtype`` that `describe` does not write, and the size and encoding of pixels in another
    layout.
    """
    described = dict(metadata or {})
    if DTYPE in described and _dtype_of(described[DTYPE]) is not None:
        del described[DTYPE]
    received = described.get(SHAPE, [])
    if not _is_shape(received):
        return described
    described.pop(SHAPE, None)
    if len(shape) != 1:
        described[SHAPE] = list(shape)
    if described.get("primitive", "image") != "image":
        return described
    channels = picture_channels(shape) if dtype == "|u1" else 0
    size = {"height": shape[0], "width": shape[1]} if channels else {}
    encoding = described.get("encoding")
    if received and _describes_picture(described, received):
        same_encoding = _CHANNELS.get(str(encoding)) == picture_channels(received)
        if channels:
            described |= size
            if same_encoding and picture_channels(received) != channels:
                encoding = None
        elif same_encoding and (dtype, list(shape)) != ("|u1", [prod(received)]):
            # The flat pixels of such a picture keep its size: existing receivers read it there.
            for key in ("height", "width", "encoding"):
                del described[key]
    if (
        channels
        and all(described.get(key, extent) == extent for key, extent in size.items())
        and (encoding is None or _CHANNELS.get(str(encoding)) == channels)
    ):
        described |= size
        described["encoding"] = encoding or _DEFAULT_ENCODING[channels]
    return described


def _describes_picture(metadata: Mapping[str, Any], shape: Sequence[int]) -> bool:
    """Return whether width and height fit a picture of this shape."""
    size = [metadata.get("height"), metadata.get("width")]
    return bool(picture_channels(shape)) and size == list(shape[:2])


def shape_of(metadata: Mapping[str, Any], count: int) -> tuple[int, ...] | None:
    """Return the shape of ``count`` values, None if the metadata has none that fits."""
    shape = metadata.get(SHAPE)
    if shape is None or not _is_shape(shape) or prod(shape) != count:
        return None
    return tuple(shape)


def restore(flat: np.ndarray[Any, Any], section: bytes) -> np.ndarray[Any, Any]:
    """Return the values of a message with the shape and the dtype that its metadata section tells.

    An entry that does not fit the values is ignored. Raises nothing: a foreign message may hold anything.
    """
    if not any(mark in section for mark in _MARKS):  # many times faster than decoding
        return flat
    try:
        metadata = decode_metadata(section)
    except MetadataError:
        return flat
    return restore_described(flat, metadata)


def restore_described(flat: np.ndarray[Any, Any], metadata: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Return values with the shape and the dtype that their metadata tells, where these fit."""
    dtype = _dtype_of(metadata.get(DTYPE))
    if dtype is not None:
        flat = _as_dtype(flat, dtype)
    shape = shape_of(metadata, flat.size)
    try:
        return flat if shape is None else flat.reshape(shape)
    except ValueError:  # too many dimensions, or a huge one beside a dimension of 0
        return flat


def _is_shape(value: object) -> bool:
    return isinstance(value, list | tuple) and all(type(extent) is int and extent >= 0 for extent in value)


def _dtype_in_metadata(dtype: np.dtype[Any]) -> str | list[list[str]] | None:
    """Return the entry for a dtype, None if the Arrow type tells it."""
    if dtype.fields is None:
        return dtype.newbyteorder("=").str if dtype.kind in _RESTORED else None
    return [[name, field[0].newbyteorder("=").str] for name, field in dtype.fields.items()]


def _dtype_of(entry: object) -> np.dtype[Any] | None:
    """Return the dtype of an entry, None for one that `describe` does not write."""
    import numpy as np

    try:
        if isinstance(entry, str):
            dtype = np.dtype(entry)
            return dtype if dtype.kind in _RESTORED and dtype.itemsize <= _MAX_ITEM else None
        if isinstance(entry, list) and entry:
            fields = [(str(name), np.dtype(str(text))) for name, text in entry]
            return None if any(dtype.hasobject or dtype.fields for _, dtype in fields) else np.dtype(fields)
    except (TypeError, ValueError, SyntaxError):  # NumPy parses shapes in the text as Python
        pass
    return None


def _as_dtype(flat: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    try:
        if dtype.kind == "c":
            return flat.view(dtype) if flat.dtype.kind == "f" else flat
        if dtype.itemsize * flat.size > _MAX_COPY:
            return flat
        if dtype.fields is None:
            return flat.astype(dtype)
        rows = [tuple(row[name] for name in dtype.fields) for row in flat]
        return np.array(rows, dtype)
    except (TypeError, ValueError, LookupError, OverflowError, MemoryError):
        return flat
