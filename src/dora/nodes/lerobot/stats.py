"""Statistics of features: of an episode, and of a data set from its episodes.

Each is a record ``min``, ``max``, ``mean``, ``std``, ``q01``, ``q10``, ``q50``, ``q90``, ``q99`` with a
number for each dimension, and ``count``. For images they have the shape 3 × 1 × 1 and values from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]
Statistics = dict[str, Numbers]

QUANTILES: Final = (0.01, 0.1, 0.5, 0.9, 0.99)
_KEYS: Final = tuple(f"q{round(100 * quantile):02d}" for quantile in QUANTILES)
_SAMPLED_SIDE: Final = 160  # pixels: of a larger image, each second (third, …) row and column counts


def of_numbers(rows: Numbers) -> Statistics:
    """Return the statistics of an array of rows × dimensions."""
    numbers = rows.reshape(len(rows), -1).astype(np.float64)
    return {
        "min": numbers.min(axis=0),
        "max": numbers.max(axis=0),
        "mean": numbers.mean(axis=0),
        "std": numbers.std(axis=0),
        "count": np.array([len(numbers)]),
        **dict(zip(_KEYS, np.quantile(numbers, QUANTILES, axis=0), strict=True)),
    }


class PixelStatistics:
    """Counts the values of pixels, from which their statistics follow exactly."""

    def __init__(self) -> None:
        self._histogram = np.zeros((3, 256), np.int64)
        self._images = 0

    def add(self, image: npt.NDArray[np.uint8]) -> None:
        """Add an image of height × width × 3."""
        step = max(1, min(image.shape[:2]) // _SAMPLED_SIDE)
        sampled = image[::step, ::step]
        for channel in range(3):
            values = sampled[:, :, channel].reshape(-1)
            self._histogram[channel] += np.bincount(values, minlength=256)
        self._images += 1

    def statistics(self) -> Statistics:
        """Return the statistics of all images, at least one."""
        values = np.arange(256) / 255.0
        shares = self._histogram / self._histogram.sum(axis=1, keepdims=True)
        mean = shares @ values
        deviation = np.sqrt(np.maximum(0.0, shares @ values**2 - mean**2))
        below = np.cumsum(shares, axis=1)
        seen = self._histogram > 0
        result = {
            "min": values[seen.argmax(axis=1)],
            "max": values[255 - seen[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": deviation,
        }
        for key, quantile in zip(_KEYS, QUANTILES, strict=True):
            result[key] = values[(below >= quantile - 1e-12).argmax(axis=1)]
        shaped = {key: numbers.reshape(3, 1, 1) for key, numbers in result.items()}
        return {**shaped, "count": np.array([self._images])}


def merge(before: Statistics, added: Statistics) -> Statistics:
    """Return the statistics of both together.

    Mean and deviation are exact (the parallel algorithm of Chan, Golub and LeVeque, 1979). A quantile is
    the mean of both quantiles, weighted by their counts, as LeRobot computes it.
    """
    first, second = int(before["count"][0]), int(added["count"][0])
    share = second / (first + second)
    distance = added["mean"] - before["mean"]
    variance = (1 - share) * before["std"] ** 2 + share * added["std"] ** 2
    merged = {
        "min": np.minimum(before["min"], added["min"]),
        "max": np.maximum(before["max"], added["max"]),
        "mean": before["mean"] + share * distance,
        "std": np.sqrt(variance + share * (1 - share) * distance**2),
        "count": np.array([first + second]),
    }
    for key in _KEYS:
        if key in before and key in added:
            merged[key] = (1 - share) * before[key] + share * added[key]
    return merged


def to_lists(statistics: Mapping[str, Statistics]) -> dict[str, dict[str, Any]]:
    """Return statistics as JSON has them."""
    return {
        name: {key: numbers.tolist() for key, numbers in record.items()}
        for name, record in statistics.items()
    }


def from_lists(lists: Mapping[str, Mapping[str, Any]]) -> dict[str, Statistics]:
    """Return what `to_lists` was given."""
    return {
        name: {key: np.asarray(numbers) for key, numbers in record.items()}
        for name, record in lists.items()
    }
