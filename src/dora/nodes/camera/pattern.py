"""The test pattern: colours that move, and the number of the frame, which can be read from the image
again.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

BITS: Final = 16  # of the number: a block for each along the upper edge, the lowest bit at the left
_HEIGHT: Final = 8  # the blocks take an eighth of the image
_SPEED: Final = 4  # pixels a frame

Image = npt.NDArray[np.uint8]


class Pattern:
    """Images of one size, in pixels. The same number makes the same image."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        across = np.arange(2 * width) * 256 // width
        down = np.arange(height)[:, None] * 256 // height
        red, green, blue = np.broadcast_arrays(across % 256, down, (across + down) % 256)
        self._wide: Image = np.stack([red, green, blue], axis=2).astype(np.uint8)
        self._block_of = np.arange(width) * BITS // width

    def draw(self, number: int) -> Image:
        """Return the image of a frame: height × width × 3, red, green, blue."""
        offset = number * _SPEED % self._width
        image = self._wide[:, offset : offset + self._width].copy()
        bits = (number >> np.arange(BITS)) & 1
        image[: self._height // _HEIGHT] = (255 * bits[self._block_of])[None, :, None]
        return image


def number_of(image: npt.NDArray[Any]) -> int:
    """Return the number of a frame, modulo 65536, from its image of height × width × 3 with values to 255.

    The image may have been compressed or scaled.
    """
    height, width = image.shape[:2]
    row = image[height // (2 * _HEIGHT)].astype(np.float64).mean(axis=1)
    middles = (2 * np.arange(BITS) + 1) * width // (2 * BITS)
    return int(((row[middles] > 127) << np.arange(BITS)).sum())
