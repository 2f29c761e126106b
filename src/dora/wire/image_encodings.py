"""The encodings of images: the metadata ``encoding`` of a message whose values are an image."""

from __future__ import annotations

from typing import Final, NamedTuple

DEFAULT_ENCODING: Final = "bgr8"  # of an image without one: the order of OpenCV


class PixelEncoding(NamedTuple):
    """How the pixels of an uncompressed image are laid out.

    ``channels``: the numbers of a pixel in their order, such as ``RGB``; ``L`` is brightness alone. "" if
    brightness and colour are stored apart. ``size``: bytes of a pixel, on average.
    """

    channels: str
    size: float

    @property
    def sample(self) -> str:
        """The type of one number."""
        return "uint16" if self.channels and self.size > len(self.channels) else "uint8"


PIXEL_ENCODINGS: Final = {
    "bgr8": PixelEncoding("BGR", 3),
    "rgb8": PixelEncoding("RGB", 3),
    "bgra8": PixelEncoding("BGRA", 4),
    "rgba8": PixelEncoding("RGBA", 4),
    "mono8": PixelEncoding("L", 1),
    "mono16": PixelEncoding("L", 2),
    "yuv420": PixelEncoding("", 1.5),
    "nv12": PixelEncoding("", 1.5),
    "yuyv": PixelEncoding("", 2),
}
MEDIA_TYPES: Final = {
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "jpe": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "bmp": "image/bmp",
    "avif": "image/avif",
}
"""Encoding of an image that is a file → its media type."""
IMAGE_ENCODINGS: Final = (*PIXEL_ENCODINGS, *MEDIA_TYPES)
