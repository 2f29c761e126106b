"""Statistics of an episode, and of several together."""

from __future__ import annotations

import numpy as np
import pytest

from dora.nodes.lerobot.stats import QUANTILES, PixelStatistics, from_lists, merge, of_numbers, to_lists

RANDOM = np.random.default_rng(1)


def test_numbers_have_statistics_for_each_dimension() -> None:
    numbers = RANDOM.normal(size=(500, 3)).astype(np.float32)
    found = of_numbers(numbers)
    assert found["mean"] == pytest.approx(numbers.mean(axis=0), abs=1e-6)
    assert found["std"] == pytest.approx(numbers.std(axis=0), abs=1e-6)
    assert found["min"] == pytest.approx(numbers.min(axis=0))
    assert found["q90"] == pytest.approx(np.quantile(numbers, 0.9, axis=0), abs=1e-6)
    assert found["count"] == [500]


def test_the_statistics_of_pixels_are_exact() -> None:
    images = RANDOM.integers(10, 200, (5, 48, 64, 3)).astype(np.uint8)
    pixels = PixelStatistics()
    for image in images:
        pixels.add(image)
    found = pixels.statistics()
    values = images.reshape(-1, 3) / 255
    for key, numbers in {
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        **{
            f"q{round(100 * quantile):02d}": np.quantile(values, quantile, axis=0, method="inverted_cdf")
            for quantile in QUANTILES
        },
    }.items():
        assert found[key].shape == (3, 1, 1)
        assert found[key].reshape(-1) == pytest.approx(numbers), key
    assert found["count"] == [5]


def test_a_large_image_counts_by_a_part_of_its_pixels() -> None:
    pixels = PixelStatistics()
    pixels.add(np.full((1080, 1920, 3), 51, np.uint8))
    assert pixels.statistics()["mean"].reshape(-1) == pytest.approx([0.2] * 3)


def test_parts_have_the_statistics_of_the_whole() -> None:
    first, second = RANDOM.normal(1, 2, (100, 2)), RANDOM.normal(-3, 1, (300, 2))
    merged = merge(of_numbers(first), of_numbers(second))
    whole = of_numbers(np.concatenate([first, second]))
    for key in ("min", "max", "mean", "std", "count"):
        assert merged[key] == pytest.approx(whole[key]), key
    weighted = (of_numbers(first)["q50"] * 100 + of_numbers(second)["q50"] * 300) / 400
    assert merged["q50"] == pytest.approx(weighted)


def test_statistics_survive_a_file() -> None:
    found = {"action": of_numbers(RANDOM.normal(size=(4, 2)))}
    assert {key: list(numbers) for key, numbers in from_lists(to_lists(found))["action"].items()} == {
        key: list(numbers) for key, numbers in found["action"].items()
    }
