"""Previews as HTML, which a notebook shows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dora.observe.preview.html import as_html, png
from dora.observe.preview.render import show


def html(
    value: pa.Array[Any],
    metadata: dict[str, Any],
    series: dict[str, Any] | None = None,
    *,
    name: str = "topic",
) -> str:
    shown = show(name, "", value, metadata)
    head = {**shown.head, "kind": shown.kind, "type": str(value.type), "length": len(value)}
    return as_html(head, shown.body, series or {}, 20.0)


def test_an_image_without_its_size_is_a_curve_and_says_what_is_missing() -> None:
    value = pa.array(np.zeros(120 * 160 * 3, np.uint8))
    curve = html(value, {}, name="camera/image")
    assert "no picture: " in curve and "its metadata does not give `width` and `height`" in curve
    assert "<polyline" in curve
    assert "no picture" not in html(value, {}, name="camera/bytes")
    assert "no picture" not in html(value, {"width": 160, "height": 120}, name="camera/image")


def test_a_png_has_the_pixels() -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 255, (7, 11, 3), np.uint8)
    read = cv2.imdecode(np.frombuffer(png(pixels), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(read[:, :, ::-1], pixels)


def test_an_image_without_a_library_that_compresses_is_a_png(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.observe.preview.images.library", lambda: "")
    size = {"width": 4, "height": 2, "encoding": "rgb8"}
    assert 'src="data:image/png;base64,iVBOR' in html(pa.array(bytes(24), pa.uint8()), size)


def test_a_line_is_scaled_to_the_plot_and_has_gaps() -> None:
    plot = html(pa.array([1.0, 2.0]), {}, {"x": [0.0, None, 10.0, 5.0], "<y>": [1.0]})
    assert re.findall(r'points="([^"]*)"', plot) == ["4.0,196.0", "425.3,4.0 636.0,100.0", "4.0,176.8"]
    assert "0 … 10" in plot and "&lt;y&gt; 1" in plot


PLACE = {"x": 0.0, "y": 0.0, "z": 0.0}
TURNED = {"translation": PLACE, "rotation": {**PLACE, "w": 1.0}}


@pytest.mark.parametrize(
    ("value", "metadata", "expected"),
    [
        (pa.array(np.arange(1000.0)), {}, "<polyline"),
        (pa.array([5.0] * 100), {}, "<div>5 … 5 &nbsp; 100 numbers<"),
        (pa.array(["<b>bold</b>"]), {}, "&lt;b&gt;bold"),
        (pa.array([{"a": 1.23456, "b": None}]), {}, "<td>1.235</td><td>None</td>"),
        (pa.array([[1], [2]]), {}, "[1], [2]"),
        (pa.nulls(0), {}, "<pre"),
        (pa.array(np.random.default_rng(0).normal(size=90)), {"primitive": "points3d"}, "data:image/png"),
        (pa.array([1.0, 2, 3, 4]), {"primitive": "boxes2d", "format": "xyxy"}, "<th>label</th>"),
        (
            pa.array([1.0, 2, 3, 4, 5, 6]),
            {"primitive": "boxes3d"},
            "<td>1</td><td>2</td><td>3</td><td>4</td>",
        ),
        (pa.array([TURNED]), {}, "<td>0</td><td>0</td><td>0</td><td>1</td></tr>"),
    ],
    ids=[
        "curve",
        "constant",
        "text",
        "struct",
        "list",
        "nothing",
        "points",
        "boxes",
        "cubes",
        "transforms",
    ],
)
def test_every_kind_of_preview_is_drawn(
    value: pa.Array[Any], metadata: dict[str, Any], expected: str
) -> None:
    assert expected in html(value, metadata)
