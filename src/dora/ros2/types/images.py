"""Images of ROS in the form of dora: flat bytes, with width, height and encoding in the metadata.

Published nodes, the page, Rerun and recordings know this form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from dora.ros2.types.errors import MalformedMessage, ValueMismatch

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["COMPRESSED_IMAGE", "IMAGE", "image_message", "image_of"]

IMAGE: Final = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE: Final = "sensor_msgs/msg/CompressedImage"

# Encodings that dora names otherwise.
_FROM_ROS: Final = {
    "8UC1": "mono8",
    "8UC3": "bgr8",
    "8UC4": "bgra8",
    "16UC1": "mono16",
    "yuv422_yuy2": "yuyv",
}
_TO_ROS: Final = {"yuyv": "yuv422_yuy2"}

# Bytes of a pixel, besides the encodings of OpenCV: 8 to 64 bits, their kind, and the number of channels.
_OPENCV: Final = re.compile(r"(8|16|32|64)[USF]C(\d{1,4})", re.ASCII)
_PIXELS: Final = {
    "mono8": 1,
    **dict.fromkeys(("mono16", "yuyv", "yuv422"), 2),
    **dict.fromkeys(("rgb8", "bgr8"), 3),
    **dict.fromkeys(("rgba8", "bgra8"), 4),
    **dict.fromkeys(("rgb16", "bgr16"), 6),
    **dict.fromkeys(("rgba16", "bgra16"), 8),
    **{f"bayer_{order}{bits}": bits // 8 for order in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)},
}
_WIDE: Final = {"mono16", "rgb16", "bgr16", "rgba16", "bgra16"} | {  # values of two bytes
    name for name in _PIXELS if name.endswith("16") and name.startswith("bayer")
}
_FILES: Final = {"jpeg": "jpeg", "jpg": "jpeg", "png": "png", "webp": "webp", "avif": "avif"}


def image_of(message: pa.StructArray) -> tuple[pa.Array[Any], dict[str, Any]]:
    """Return the pixels of an ``Image``, or the file in a ``CompressedImage``, and its metadata.

    ``message`` is what `MessageType.decode` returns. The pixels are a flat ``uint8`` array: not a copy,
    unless rows have bytes at their end that are no pixels, or values of several bytes are big-endian. The
    metadata has ``encoding``, and of an ``Image`` also ``width`` and ``height``. ``8UC3`` becomes ``bgr8``,
    ``8UC1`` ``mono8``, ``16UC1`` ``mono16``, ``yuv422_yuy2`` ``yuyv``; other encodings keep their name. Of
    a ``CompressedImage`` it is ``jpeg`` or ``png``.

    Raises `MalformedMessage` if there are fewer bytes than rows, or a part of a value.
    """
    data: Any = message.field("data").values  # type: ignore[attr-defined]
    if message.type.get_field_index("format") >= 0:
        return data, {"encoding": _file_encoding(message.field("format")[0].as_py())}
    values = {
        name: message.field(name)[0].as_py()
        for name in ("width", "height", "step", "encoding", "is_bigendian")
    }
    width, height, step = values["width"], values["height"], values["step"]
    encoding = _FROM_ROS.get(values["encoding"], values["encoding"])
    metadata = {"width": width, "height": height, "encoding": encoding}
    if step * height > len(data):
        raise MalformedMessage(
            f"a received message is no image: {height} rows of {step} bytes need {step * height} bytes, "
            f"it has {len(data)}"
        )
    row = width * _pixel(encoding)
    if row > step and height:
        raise MalformedMessage(
            f"a received message is no image: {width} pixels of {encoding} need {row} bytes, "
            f"but a row has {step}"
        )
    if row and step > row:
        rows: np.ndarray[Any, Any] = data.to_numpy()[: step * height].reshape(height, step)
        data = _array(rows[:, :row].reshape(-1))
    elif len(data) > step * height:
        data = data.slice(0, step * height)
    if values["is_bigendian"] and (size := _value_size(encoding)) > 1:
        if len(data) % size:
            raise MalformedMessage(
                f"a received message is no image: {encoding} has values of {size} bytes, "
                f"but there are {len(data)}"
            )
        data = _array(data.to_numpy().view(f">u{size}").astype(f"<u{size}").view("u1"))
    return data, metadata


def _pixel(encoding: str) -> int:
    """Return the bytes of a pixel, 0 if they are not known.

    >>> _pixel("rgb8"), _pixel("32FC2"), _pixel("jpeg")
    (3, 8, 0)
    """
    if found := _OPENCV.fullmatch(encoding):
        return int(found[1]) // 8 * int(found[2])
    return _PIXELS.get(encoding, 0)


def _value_size(encoding: str) -> int:
    """Return the bytes of a value of a pixel, 1 if they are not known."""
    if found := _OPENCV.fullmatch(encoding):
        return int(found[1]) // 8
    return 2 if encoding in _WIDE else 1


def image_message(
    data: pa.Array[Any] | np.ndarray[Any, Any],
    metadata: Mapping[str, Any],
    header: Mapping[str, Any] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return the name of a message type and the value that it encodes, for an image in dora's form.

    ``data`` has the bytes of all pixels, or of a file. With ``encoding`` ``jpeg``, ``png``, ``webp`` or
    ``avif``, the type is ``CompressedImage``; otherwise ``Image``, and the metadata needs ``width`` and
    ``height``. Without an ``encoding``, it is ``bgr8``. ``header`` has the ``stamp`` and the ``frame_id``.

    Raises `ValueMismatch` if ``data`` has no numbers, or the size does not fit the number of bytes.
    """
    import numpy as np

    if not _has_numbers(data):
        got = f"an array of {data.dtype if isinstance(data, np.ndarray) else data.type}"
        raise ValueMismatch(IMAGE, "data", "the bytes of an image", got)
    numbers = data if isinstance(data, np.ndarray) else data.to_numpy(zero_copy_only=False)
    pixels = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8)
    encoding = str(metadata.get("encoding") or "bgr8")
    if encoding in _FILES:
        return COMPRESSED_IMAGE, {"header": header or {}, "format": _FILES[encoding], "data": pixels}
    size = []
    for name in ("width", "height"):
        value = metadata.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            got = "nothing" if value is None else repr(value)
            raise ValueMismatch(IMAGE, name, "the size of the image in the metadata, in pixels", got)
        size.append(value)
    width, height = size
    step = len(pixels) // height if height else 0
    wanted = width * _pixel(encoding) or step
    if wanted * height != len(pixels):
        expected = f"{wanted * height} bytes for {width} × {height} pixels of {encoding}"
        raise ValueMismatch(IMAGE, "data", expected, f"{len(pixels)} bytes")
    return IMAGE, {
        "header": header or {},
        "height": height,
        "width": width,
        "encoding": _TO_ROS.get(encoding, encoding),
        "step": step,
        "data": pixels,
    }


def _has_numbers(data: pa.Array[Any] | np.ndarray[Any, Any]) -> bool:
    import numpy as np
    import pyarrow as pa

    if isinstance(data, np.ndarray):
        return data.dtype.kind in "biuf"
    types = pa.types
    return types.is_integer(data.type) or types.is_floating(data.type) or types.is_boolean(data.type)


def _file_encoding(text: str) -> str:
    """Return the kind of a file: image_transport writes ``rgb8; jpeg compressed bgr8``."""
    words = text.lower().replace(";", " ").split()
    return next((_FILES[word] for word in words if word in _FILES), text)


def _array(values: np.ndarray[Any, Any]) -> pa.Array[Any]:
    import pyarrow as pa

    found: pa.Array[Any] = pa.array(values)
    return found
