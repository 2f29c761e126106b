"""Images of messages as frames of PyAV, and frames as messages.

An image is a flat array of bytes; its metadata has ``width``, ``height`` and ``encoding``. A NumPy array
of height × width × channels without that metadata is an image as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final, NamedTuple

import av
import numpy as np
import numpy.typing as npt

from dora.dataflow.problems import listed
from dora.node.events import Input
from dora.wire.image_encodings import DEFAULT_ENCODING, PIXEL_ENCODINGS

Bytes = npt.NDArray[np.uint8]

# Encoding → pixel format of FFmpeg.
_PIXELS: Final[Mapping[str, str]] = {
    "rgb8": "rgb24",
    "bgr8": "bgr24",
    "rgba8": "rgba",
    "bgra8": "bgra",
    "mono8": "gray",
    "yuyv": "yuyv422",
    "yuv420": "yuv420p",
    "nv12": "nv12",
}
_CODECS: Final[Mapping[str, str]] = {
    "jpeg": "mjpeg",
    "jpg": "mjpeg",
    "png": "png",
    "webp": "webp",
    "bmp": "bmp",
}
ENCODINGS: Final = (*_PIXELS, *_CODECS)
_ANY_TIME_BASE: Final = Fraction(1, 30)  # an encoder refuses to open without one


class BadImage(ValueError):
    """A message is no image that can be used; ``str(error)`` says why."""


class ImageData(NamedTuple):
    """The bytes of an image. ``width`` and ``height`` are in pixels; 0 if only the decoder knows them."""

    data: Bytes
    encoding: str
    width: int
    height: int

    def frame(self) -> av.VideoFrame:
        """Return the image as a frame of its own; raises `BadImage`."""
        if self.encoding in _CODECS:
            return _decode(self)
        name, size = _PIXELS[self.encoding], PIXEL_ENCODINGS[self.encoding].size
        columns = int(size)  # of bytes; planes of colour are further rows
        shape = (int(self.height * size / columns), self.width * columns)
        if self.data.size != shape[0] * shape[1]:
            raise BadImage(
                f"an image of {self.width} × {self.height} in {self.encoding} has {shape[0] * shape[1]} "
                f"bytes, and it has {self.data.size}"
            )
        if columns == 1:
            return av.VideoFrame.from_ndarray(self.data.reshape(shape), format=name)
        pixels = self.data.reshape(self.height, self.width, columns)
        return av.VideoFrame.from_ndarray(pixels, format=name)


def is_image(event: Input) -> bool:
    """Return whether a message is an image, by its metadata or its shape."""
    metadata = event.metadata
    if metadata.get("primitive") == "image" or {"width", "height"} <= metadata.keys():
        return bool(metadata.get("primitive", "image") == "image")
    if str(metadata.get("encoding", "")).lower() in ENCODINGS:
        return True
    shape = metadata.get("shape")
    return isinstance(shape, list) and len(shape) == 3 and bool(event.numpy().dtype == "uint8")


def image_of(event: Input) -> ImageData:
    """Return a view of the image of a message; raises `BadImage`."""
    metadata, array = event.metadata, event.numpy()
    encoding = str(metadata.get("encoding", DEFAULT_ENCODING)).lower()
    if encoding not in ENCODINGS:
        raise BadImage(f"its `encoding` is `{encoding}`; it can be {listed(ENCODINGS)}")
    if array.dtype != np.uint8:
        raise BadImage(f"an image consists of bytes (uint8), and this message of {array.dtype}")
    height, width = array.shape[:2] if array.ndim == 3 else (0, 0)
    try:
        width, height = int(metadata.get("width") or width), int(metadata.get("height") or height)
    except (TypeError, ValueError):
        width = height = -1
    if width < 0 or height < 0 or (not width and encoding in _PIXELS):
        raise BadImage("`width` and `height` in its metadata have to be whole numbers greater than zero")
    return ImageData(np.ascontiguousarray(array).reshape(-1), encoding, width, height)


def message_of(frame: av.VideoFrame, encoding: str) -> tuple[Any, dict[str, Any]]:
    """Return data and metadata of a frame, as the encoding ``rgb8``, ``bgr8`` or ``jpeg``."""
    if encoding == "jpeg":
        data: Bytes = np.frombuffer(encode_jpeg(frame), np.uint8)
    else:
        data = to_array(frame, encoding).reshape(-1)
    metadata = {
        "primitive": "image",
        "width": frame.width,
        "height": frame.height,
        "encoding": encoding,
    }
    return data, metadata


def to_array(frame: av.VideoFrame, encoding: str = "rgb8") -> Bytes:
    """Return a frame as an array of height × width × channels, in an encoding of pixels."""
    array: Any = frame.to_ndarray(format=_PIXELS[encoding])
    return np.asarray(array, np.uint8)


def encode_jpeg(frame: av.VideoFrame, quality: int = 4) -> bytes:
    """Return a frame as a JPEG file. ``quality`` is FFmpeg's scale of quantisers: 2 (best) to 31."""
    codec = av.CodecContext.create("mjpeg", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "yuvj420p"
    codec.time_base = _ANY_TIME_BASE
    codec.qmin = codec.qmax = quality
    full = frame.reformat(format="yuvj420p", dst_color_range="JPEG")
    full.pts = 0
    return b"".join(bytes(packet) for packet in (*codec.encode(full), *codec.encode(None)))


def _decode(image: ImageData) -> av.VideoFrame:
    codec = av.CodecContext.create(_CODECS[image.encoding], "r")
    assert isinstance(codec, av.VideoCodecContext)
    try:
        frames = [*codec.decode(av.Packet(image.data.tobytes())), *codec.decode(None)]
    except (av.FFmpegError, ValueError):
        frames = []  # the error of FFmpeg has a number and no reason
    if not frames:
        raise BadImage(f"it is no image in {image.encoding}")
    return frames[0]
