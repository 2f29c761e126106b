"""Render a preview of a message for the dashboard.

The declared type decides how, otherwise the metadata, the fields, the name, or the Arrow type. A preview
is small, however large the message is, and rendering reads only the part that is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dora.observe.formatting import plain
from dora.observe.preview import drawable, images
from dora.observe.preview.drawable import DrawableMessage, NotDrawable, UnknownPrimitive, primitive_of
from dora.wire.image_encodings import IMAGE_ENCODINGS

MAX_ROWS: Final = 50  # of tables and lists
MAX_TEXT: Final = 4000  # characters of one text
MAX_CURVE: Final = 600  # points of a curve
MAX_POINTS: Final = 20_000  # of a cloud
MAX_BOXES: Final = 200
MAX_TRANSFORMS: Final = 500
MAX_SERIES: Final = 16  # numbers that are followed over time; more of them are one curve


@dataclass(frozen=True)
class RenderedPreview:
    """``head`` becomes JSON; ``kind`` is what the browser draws, with ``body`` if there are bytes."""

    kind: str
    head: dict[str, Any]
    body: bytes = b""


def show(name: str, declared: str, value: pa.Array[Any], metadata: Mapping[str, Any]) -> RenderedPreview:
    """Return the preview of a message of the topic ``name`` with the type ``declared`` ("": none)."""
    message = DrawableMessage(name, value, metadata)
    hint = ""
    for recognise in (partial(_by_type, declared), _by_metadata, _by_fields, _by_name):
        try:
            shown = recognise(message)
        except (NotDrawable, UnknownPrimitive, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            # The guess was wrong, but bytes that are called an image are meant to be one.
            if isinstance(error, NotDrawable) and pa.types.is_uint8(value.type):
                given = {"width", "height"} <= metadata.keys() or "encoding" in metadata
                hint = str(error) if given else "its metadata does not give `width` and `height`"
            continue
        if shown is not None:
            return shown
    shown = _by_arrow_type(value)
    return replace(shown, head={**shown.head, "hint": f"no picture: {hint}"}) if hint else shown


# ------------------------------------------------------------------------- declared types


def _by_type(declared: str, message: DrawableMessage) -> RenderedPreview | None:
    base = declared.partition("[")[0]
    if base == "std/core/v1/String":
        return _texts(message.value)
    draw = _STANDARD.get(base.removeprefix("std/")) if len(message.value) else None
    return draw(message) if draw is not None else None


def _field(value: pa.Array[Any], name: str) -> pa.Array[Any]:
    """Return a field of structs; raises `NotDrawable`."""
    found = drawable.field(value, name)
    if found is None:
        raise NotDrawable(f"it has no field `{name}`")
    return found


def _image_type(message: DrawableMessage) -> RenderedPreview:
    value = message.value
    size = {key: _field(value, key)[0].as_py() for key in ("width", "height", "encoding")}
    return _image(DrawableMessage(message.id, _field(value, "data"), {**message.metadata, **size}))


def _size(value: pa.Array[Any]) -> tuple[int, int]:
    """Return width and height, which are fields of the struct."""
    return int(_field(value, "width")[0].as_py()), int(_field(value, "height")[0].as_py())


def _cloud_type(message: DrawableMessage) -> RenderedPreview:
    width, height = _size(message.value)
    data = _bytes(_field(message.value, "points"))
    step = data.size // max(width * height, 1)  # bytes of a point: x, y, z as Float32, and what follows
    if step < 12 or step % 4:
        raise NotDrawable("its points are not x, y and z")
    return _points(data[: step * width * height].view(np.float32).reshape(-1, step // 4)[:, :3])


_SIDES: Final = ("x", "y", "width", "height")


def _box_type(message: DrawableMessage) -> RenderedPreview:
    listed = drawable.field(message.value, "boxes")
    rows: Any = message.value if listed is None else drawable.flattened(listed)
    boxes = [
        [
            *(float(row[side]) for side in _SIDES),
            _label(row.get("label"), row.get("confidence")),
            row.get("label") or "",
            "",
        ]
        for row in rows.slice(0, MAX_BOXES).to_pylist()
    ]
    return RenderedPreview("boxes", {"boxes": boxes, "count": len(rows)})


def _label(label: str | None, confidence: float | None) -> str:
    return " ".join(part for part in (label, None if confidence is None else f"{confidence:.0%}") if part)


def _segmentation_type(message: DrawableMessage) -> RenderedPreview:
    width, height = _size(message.value)
    labels = _bytes(_field(message.value, "mask")).reshape(height, width)
    return _pixels(images.coloured(labels))


def _joint_type(message: DrawableMessage) -> RenderedPreview:
    names, positions = (_field(message.value, name)[0].as_py() for name in ("names", "positions"))
    return _series(positions, names)


def _numbers_of_struct(message: DrawableMessage) -> RenderedPreview:
    row: Any = message.value[0].as_py()
    found = dict(_leaves("", row))
    shown = _series(list(found.values()), list(found))
    place, turn = row.get("position", row.get("translation")), row.get("orientation", row.get("rotation"))
    if isinstance(place, dict) and isinstance(turn, dict):
        shown.head["pose"] = [
            *(float(place[axis]) for axis in "xyz"),
            *(float(turn[axis]) for axis in "xyzw"),
        ]
    return shown


def _transforms(message: DrawableMessage) -> RenderedPreview:
    """Return transforms between frames, each: parent, child, translation, rotation as a quaternion."""
    rows: Any = message.value.slice(0, MAX_TRANSFORMS).to_pylist()
    found = [
        [
            str(row.get("parent") or message.metadata.get("parent_frame_id", "")),
            str(row.get("child") or message.metadata.get("child_frame_id", "")),
            *(float(row["translation"][axis]) for axis in "xyz"),
            *(float(row["rotation"][axis]) for axis in "xyzw"),
        ]
        for row in rows
    ]
    return RenderedPreview("transforms", {"transforms": found, "count": len(message.value)})


def _leaves(path: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, dict):
        return [
            leaf for key, item in value.items() for leaf in _leaves(f"{path}.{key}" if path else key, item)
        ]
    return [(path, float(value))] if isinstance(value, int | float) else []


def _audio_type(message: DrawableMessage) -> RenderedPreview:
    data = _bytes(_field(message.value, "data"))
    return _curve(data[: data.size // 2 * 2].view(np.int16))


def _image(message: DrawableMessage) -> RenderedPreview:
    return _pixels(images.image(message))


_STANDARD: Final[dict[str, Callable[[DrawableMessage], RenderedPreview]]] = {
    "media/v1/Image": _image_type,
    "media/v1/CompressedImage": _image,
    "media/v1/PointCloud": _cloud_type,
    "media/v1/AudioFrame": _audio_type,
    "vision/v1/BoundingBox": _box_type,
    "vision/v1/Detection": _box_type,
    "vision/v1/Segmentation": _segmentation_type,
    "control/v1/JointState": _joint_type,
    **dict.fromkeys(
        (
            "control/v1/Twist",
            "control/v1/Odometry",
            "math/v1/Vector3",
            "math/v1/Quaternion",
            "math/v1/Pose",
            "math/v1/Transform",
        ),
        _numbers_of_struct,
    ),
}


# ---------------------------------------------------------------- metadata, names, Arrow types


def _by_metadata(message: DrawableMessage) -> RenderedPreview | None:
    value, metadata = message.value, message.metadata
    if "primitive" in metadata:
        return _primitive(primitive_of(message.id, metadata), message)
    if {"width", "height"} <= metadata.keys() or str(metadata.get("encoding")) in IMAGE_ENCODINGS:
        return _image(message)
    if pa.types.is_uint8(value.type) and images.file_kind(_bytes(value)[:8].tobytes()):
        return _image(message)
    return None


# Fields of the standard types. They identify structs that declare no type.
_FIELDS: Final[tuple[tuple[frozenset[str], Callable[[DrawableMessage], RenderedPreview]], ...]] = (
    (frozenset(_SIDES), _box_type),
    (frozenset({"width", "height", "encoding", "data"}), _image_type),
    (frozenset({"width", "height", "points"}), _cloud_type),
    (frozenset({"translation", "rotation"}), _transforms),
)


def _by_fields(message: DrawableMessage) -> RenderedPreview | None:
    kind = message.value.type
    inner = drawable.field(message.value, "boxes")
    if inner is not None and pa.types.is_list(inner.type):
        kind = inner.type.value_type  # a `Detection` is a list of boxes
    if not pa.types.is_struct(kind) or not len(message.value):
        return None
    names = {field.name for field in kind}
    return next((draw(message) for fields, draw in _FIELDS if fields <= names), None)


def _by_name(message: DrawableMessage) -> RenderedPreview | None:
    primitive = primitive_of(message.id.rpartition("/")[2], message.metadata)
    # A name is a hint only: a list called `text` may be anything.
    return None if primitive in ("text", "series") else _primitive(primitive, message)


def _primitive(primitive: str, message: DrawableMessage) -> RenderedPreview | None:
    match primitive:
        case "image":
            return _image(message)
        case "depth":
            return _pixels(images.depth(message))
        case "masks":
            return _pixels(images.masks(message))
        case "boxes2d":
            return _boxes(message)
        case "points3d" | "lines3d":
            return _points(drawable.rows(message.value, 3, "points"), line=primitive == "lines3d")
        case "boxes3d":
            return _boxes3d(message)
        case "points2d" | "lines2d":
            flat = drawable.rows(message.value, 2, "points")
            return _points(np.column_stack((flat, np.zeros(len(flat), np.float32))))
        case "text":
            return _texts(message.value)
        case "series" | "jointstate":
            named = message.metadata.get("names", message.metadata.get("joint_names"))
            names = [str(name) for name in named] if isinstance(named, list) else []
            return _series(drawable.numbers(message.value)[:MAX_SERIES].tolist(), names)
        case "pose":
            names = ["x", "y", "z", "qx", "qy", "qz", "qw"]
            place, turn = drawable.pose(message)
            shown = _series([*place.tolist(), *turn.tolist()], names)
            shown.head["pose"] = [*place.tolist(), *turn.tolist()]
            return shown
    return None


def _by_arrow_type(value: pa.Array[Any]) -> RenderedPreview:
    kind = value.type
    if pa.types.is_dictionary(kind):
        indices: Any = value.slice(0, MAX_ROWS)
        value = indices.dictionary_decode()
        kind = value.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _texts(value)
    if pa.types.is_struct(kind):
        return _table(value)
    if pa.types.is_boolean(kind) or (pa.types.is_primitive(kind) and not pa.types.is_temporal(kind)):
        if 0 < len(value) <= MAX_SERIES and not value.null_count:
            return _series([float(item) for item in value.to_pylist() if item is not None], [])
        if len(value) > MAX_SERIES:
            return _curve(_fixed_width(value))
    if pa.types.is_fixed_size_list(kind) and kind.list_size == 3 and len(value) >= 8:
        return _points(drawable.rows(value.slice(0, 10 * MAX_POINTS), 3, "points"))
    return RenderedPreview(
        "values", {"values": [plain(item) for item in value.slice(0, MAX_ROWS).to_pylist()]}
    )


def _pixels(image: images.Image) -> RenderedPreview:
    head = {
        "width": image.width,
        "height": image.height,
        "media_type": image.media_type,
        "shown": image.shown,
    }
    return RenderedPreview("image", head, image.body)


def _boxes(message: DrawableMessage) -> RenderedPreview:
    found = drawable.boxes2d(message)
    corners = found.centers - found.half_sizes
    none = [""] * len(corners)
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in found.colors]
    words = zip(found.labels or none, found.classes or none, colors or none, strict=True)
    boxes = [
        [*map(float, corner), *map(float, 2 * half), *some]
        for corner, half, some in zip(corners, found.half_sizes, words, strict=True)
    ][:MAX_BOXES]
    return RenderedPreview("boxes", {"boxes": boxes, "count": len(corners)})


def _boxes3d(message: DrawableMessage) -> RenderedPreview:
    """Return boxes in space, each: its middle, half its size, its label and its class."""
    found = drawable.boxes3d(message)
    none = [""] * len(found.centers)
    rows = zip(found.centers, found.half_sizes, found.labels or none, found.classes or none, strict=True)
    cubes = [[*map(float, middle), *map(float, half), label, name] for middle, half, label, name in rows]
    return RenderedPreview("points", {"count": 0, "cubes": cubes[:MAX_BOXES]})


def _points(points: npt.NDArray[Any], *, line: bool = False) -> RenderedPreview:
    step = -(-max(len(points), 1) // MAX_POINTS)
    sampled = np.ascontiguousarray(points[::step], np.float32)
    sampled = sampled[np.isfinite(sampled).all(axis=1)]
    head = {"count": len(points), **({"line": True} if line else {})}
    return RenderedPreview("points", head, sampled.tobytes())


def _series(numbers: list[float], names: list[str]) -> RenderedPreview:
    finite = [number if np.isfinite(number) else None for number in numbers[:MAX_SERIES]]
    return RenderedPreview("series", {"names": names[:MAX_SERIES], "values": finite})


def _curve(numbers: npt.NDArray[Any]) -> RenderedPreview:
    """Return an array as a curve: the least and the greatest value of each stretch, so no peak is lost."""
    size = numbers.size
    # Of a very large array, a sample that takes a millisecond to process.
    seen = numbers[:: max(1, size // 200_000)].astype(np.float64)
    known = seen[np.isfinite(seen)]
    if seen.size > MAX_CURVE:
        width = -(-seen.size // (MAX_CURVE // 2))
        padded = np.pad(seen, (0, -seen.size % width), mode="edge").reshape(-1, width)
        curve = np.column_stack((padded.min(axis=1), padded.max(axis=1))).ravel()
    else:
        curve = seen
    return RenderedPreview(
        "curve",
        {
            "curve": [float(item) if np.isfinite(item) else None for item in curve],
            "least": float(known.min()) if known.size else None,
            "greatest": float(known.max()) if known.size else None,
            "mean": float(known.mean()) if known.size else None,
        },
    )


def _fixed_width(value: pa.Array[Any]) -> npt.NDArray[Any]:
    step = max(1, len(value) // 200_000)
    if value.null_count or pa.types.is_boolean(value.type):
        part = value.take(pa.array(range(0, len(value), step))) if step > 1 else value
        return np.array([np.nan if item is None else item for item in part.to_pylist()], np.float64)
    array: npt.NDArray[Any] = value.to_numpy(zero_copy_only=True)
    return array


def _table(value: pa.Array[Any]) -> RenderedPreview:
    columns = [value.type.field(index).name for index in range(value.type.num_fields)]
    part: Any = value.slice(0, MAX_ROWS)
    cells = [
        [plain(item) for item in part.field(index).slice(0, MAX_ROWS).to_pylist()]
        for index in range(len(columns))
    ]
    return RenderedPreview(
        "table", {"columns": columns, "rows": [list(row) for row in zip(*cells, strict=True)]}
    )


def _texts(value: pa.Array[Any]) -> RenderedPreview:
    while pa.types.is_list(value.type) or pa.types.is_large_list(value.type):
        value = drawable.flattened(value)
    part: Any = value.slice(0, MAX_ROWS)
    if pa.types.is_string(part.type) or pa.types.is_large_string(part.type):
        large = pa.types.is_large_string(part.type)
        cut = pc.binary_slice(part.cast(pa.large_binary() if large else pa.binary()), 0, 4 * MAX_TEXT)
        texts = [(item or b"").decode("utf-8", "replace")[:MAX_TEXT] for item in cut.to_pylist()]
    elif pa.types.is_uint8(value.type):
        texts = [_bytes(value)[: 4 * MAX_TEXT].tobytes().decode("utf-8", "replace")[:MAX_TEXT]]
    else:
        raise NotDrawable("it is no text")
    return RenderedPreview("text", {"texts": texts})


def _bytes(value: pa.Array[Any]) -> npt.NDArray[np.uint8]:
    array = images.numbers_of(value)
    if array.dtype != np.uint8:
        raise NotDrawable(f"it has to be bytes, and is {array.dtype}")
    return array
