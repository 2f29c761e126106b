"""The shape and dtype of a NumPy array, in the metadata of its message.

Arrow arrays are flat, and existing receivers expect flat values. So the shape travels in the metadata, as
``shape``: a list of integers, one for each axis, the slowest first. One-dimensional arrays have no such
key, and cost nothing. ``dtype`` is there for the types that Arrow does not have: fixed-width text and
bytes, complex numbers (their values are pairs of floats), and structured types.

A picture, ``uint8`` of (H, W), (H, W, 1) or (H, W, 3), also gets the keys that published nodes read:
``width``, ``height`` and ``encoding``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Final

from dora.wire.metadata import MetadataError, decode_metadata

if TYPE_CHECKING:
    import numpy as np

SHAPE: Final = "shape"
DTYPE: Final = "dtype"
_MARKS: Final = (b"\xa5shape", b"\xa5dtype")  # the keys in msgpack
_RESTORED: Final = "USc"  # kinds of dtypes that Arrow changes
_MAX_ITEM: Final = 1 << 16  # bytes of a text: a foreign message may claim any number

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


def describe(array: np.ndarray[Any, Any], metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the metadata with which an array is sent: see `describe_shape`, and its ``dtype``."""
    described = dict(metadata or {})
    if array.ndim != 1:
        described = describe_shape(array.shape, array.dtype.str, described)
    dtype = _dtype_in_metadata(array.dtype)
    if dtype is not None:
        described[DTYPE] = dtype
    return described


def describe_shape(shape: Sequence[int], dtype: str, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata with ``shape``, and for a picture ``width``, ``height`` and ``encoding``.

    ``dtype``: NumPy's name with the byte order, such as ``"|u1"``.

    The sender's own entries stay: a ``shape`` that is no list of integers, and the size and encoding of
    pixels in another layout. Programs often pass on the metadata of what they have received; entries that
    describe the received picture are replaced.
    """
    described = dict(metadata or {})
    old = described.get(SHAPE, [])
    if not _is_shape(old):
        return described
    described[SHAPE] = list(shape)
    channels = picture_channels(shape) if dtype == "|u1" else 0
    if not channels or described.get("primitive", "image") != "image":
        return described
    size = {"height": shape[0], "width": shape[1]}
    encoding = described.get("encoding")
    if picture_channels(old) and [described.get(key) for key in size] == list(old[:2]):
        described |= size  # it was the size of the received picture
        if _CHANNELS.get(str(encoding)) == picture_channels(old) != channels:
            encoding = None
    if all(described.get(key, extent) == extent for key, extent in size.items()) and (
        encoding is None or _CHANNELS.get(str(encoding)) == channels
    ):
        described |= size
        described["encoding"] = encoding or _DEFAULT_ENCODING[channels]
    return described


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
    return flat if shape is None else flat.reshape(shape)


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
    except (TypeError, ValueError):
        pass
    return None


def _as_dtype(flat: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    try:
        if dtype.kind == "c":
            return flat.view(dtype) if flat.dtype.kind == "f" else flat
        if dtype.fields is None:
            return flat.astype(dtype)
        rows = [tuple(row[name] for name in dtype.fields) for row in flat]
        return np.array(rows, dtype)
    except (TypeError, ValueError, LookupError, OverflowError):
        return flat
