"""Previews as HTML, for places without the dashboard's page: the output of a notebook."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from html import escape
from typing import Any, Final

import numpy as np
import numpy.typing as npt

WIDTH: Final = 640  # pixels of a plot
HEIGHT: Final = 200
_COLORS: Final = ("#2563eb", "#ea580c", "#16a34a", "#c026d3", "#ca8a04", "#0891b2", "#6b7280", "#dc2626")

Curve = Sequence[float | None]


def as_html(head: dict[str, Any], body: bytes, series: dict[str, Curve], seconds: float) -> str:
    """Return a preview as HTML.

    ``head`` and ``body`` come from a `RenderedPreview`, with ``kind`` and ``type``. ``series``: the
    numbers of the last ``seconds``, by name, if they are followed over time.
    """
    hint = f"<div>{escape(head['hint'])}</div>" if "hint" in head else ""
    return hint + _drawn(head, body, series, seconds)


def _drawn(head: dict[str, Any], body: bytes, series: dict[str, Curve], seconds: float) -> str:
    match head["kind"]:
        case "image":
            return _image(head, body)
        case "series":
            return _plot(series, f"the last {seconds:.0f} s")
        case "curve":
            return _plot({"": head["curve"]}, f"{head['length']:,} numbers")
        case "points" if "cubes" in head:
            return _table(["x", "y", "z", "half_x", "half_y", "half_z", "label", "class"], head["cubes"])
        case "points":
            return _points(np.frombuffer(body, np.float32).reshape(-1, 3))
        case "boxes":
            return _table(["x", "y", "width", "height", "label"], [box[:5] for box in head["boxes"]])
        case "transforms":
            return _table(["parent", "child", "x", "y", "z", "qx", "qy", "qz", "qw"], head["transforms"])
        case "table":
            return _table(head["columns"], head["rows"])
        case "text":
            return _text("\n".join(head["texts"]))
        case "values":
            return _text(", ".join(map(str, head["values"])))
    return _text(head["problem"])


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Return an image (height, width, 3) as a PNG file; no library is needed."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.concatenate((np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)), axis=1)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)),
            chunk(b"IEND", b""),
        )
    )


def _image(head: dict[str, Any], body: bytes) -> str:
    media_type = head["media_type"]
    if media_type == "rgb":
        width, height = head["shown"]
        media_type, body = "image/png", png(np.frombuffer(body, np.uint8).reshape(height, width, 3))
    data = base64.b64encode(body).decode()
    return f'<img style="max-width: 100%" src="data:{media_type};base64,{data}">'


def _points(points: npt.NDArray[np.float32]) -> str:
    """Return a cloud from above: x to the right, y upward, bright where there are many points."""
    if not len(points):
        return _text("no points")
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=(HEIGHT, HEIGHT))
    bright = np.where(counts, 90 + 165 * np.sqrt(counts / counts.max()), 0)[::-1].astype(np.uint8)
    body = np.repeat(bright[:, :, None], 3, axis=2).tobytes()
    return _image({"media_type": "rgb", "shown": (HEIGHT, HEIGHT)}, body)


def _plot(curves: dict[str, Curve], caption: str) -> str:
    """Return lines over the same axis, with the least and the greatest value."""
    known = [value for curve in curves.values() for value in curve if value is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    lines = [
        f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{points}"/>'
        for (_, curve), color in zip(curves.items(), _COLORS * 2, strict=False)
        for points in _stretches(curve, low, high)
    ]
    names = [
        f'<span style="color: {color}">{escape(name)} {_number(curve[-1])}</span>'
        for (name, curve), color in zip(curves.items(), _COLORS * 2, strict=False)
        if name and curve
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="width: 100%; max-width: {WIDTH}px; '
        f'border: 1px solid #9ca3af">{"".join(lines)}</svg>'
        f"<div>{' &nbsp; '.join([*names, f'{_number(low)} … {_number(high)}', caption])}</div>"
    )


def _stretches(curve: Curve, low: float, high: float) -> list[str]:
    """Return the points of each stretch of a curve without gaps."""
    step = (WIDTH - 8) / max(len(curve) - 1, 1)
    scale = (HEIGHT - 8) / (high - low) if high > low else 0.0
    found: list[list[str]] = [[]]
    for index, value in enumerate(curve):
        if value is None:
            found.append([])
        else:
            y = HEIGHT - 4 - (value - low) * scale if scale else HEIGHT / 2
            found[-1].append(f"{4 + index * step:.1f},{y:.1f}")
    return [" ".join(points) for points in found if points]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    cells = (
        "".join(
            f"<td>{escape(_number(item) if isinstance(item, float) else str(item))}</td>" for item in row
        )
        for row in rows
    )
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _text(text: str) -> str:
    return f'<pre style="white-space: pre-wrap">{escape(text)}</pre>'
