"""Messages of other programs in the form in which nodes of dora send the same thing.

A message is a mapping of its fields by name: nested messages are mappings, lists of numbers are NumPy
arrays or lists, bytes are ``bytes`` or arrays of ``uint8``. The result is what `dora.observe.preview`
draws: an Arrow array, and the metadata that says what it is.

The schemas ``foxglove.*`` are described at https://docs.foxglove.dev/docs/sdk/schemas, the messages of ROS
at https://github.com/ros2/common_interfaces and https://github.com/ros-perception/vision_msgs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MOST_NAMED: Final = 16  # numbers of a message that are curves with names
_STAMPS: Final = ("header", "stamp", "timestamp")  # fields that are no content

Fields = Mapping[str, Any]


class ForeignValue(NamedTuple):
    """A message as a node of dora would send it. ``stamp_ns`` is its own time; 0: it has none."""

    data: pa.Array[Any] | npt.NDArray[Any]
    metadata: dict[str, Any]
    stamp_ns: int = 0


def convert(schema: str, fields: Fields) -> ForeignValue:
    """Return a message of a schema, such as ``foxglove.RawImage`` or ``sensor_msgs/msg/PointCloud2``.

    One of an unknown schema becomes numbers with names if it has no more than 16 and nothing else,
    otherwise a struct. Raises ``ValueError``, ``LookupError`` and ``TypeError`` for a message without the
    fields of its schema.
    """
    known = _KNOWN.get(_short(schema))
    value = known(fields) if known is not None else _other(fields)
    frame = _frame(fields)
    metadata = {**({"frame_id": frame} if frame else {}), **value.metadata}
    return value._replace(metadata=metadata, stamp_ns=_stamp(fields))


def is_known(schema: str) -> bool:
    """Return whether a schema has a form of its own."""
    return _short(schema) in _KNOWN


def log_line(fields: Fields) -> tuple[int, str, str, str]:
    """Return time, level, name and text of ``foxglove.Log`` or ``rcl_interfaces/msg/Log``."""
    level = int(fields.get("level", 0))
    names = _ROS_LEVELS if "msg" in fields else FOXGLOVE_LEVELS
    return _stamp(fields), names.get(level, "info"), str(fields.get("name", "")), _text_of(fields)


def is_log(schema: str) -> bool:
    """Return whether messages of a schema are lines of a log."""
    return _short(schema) in ("foxglove.Log", "rcl_interfaces/Log")


FOXGLOVE_LEVELS: Final = {1: "debug", 2: "info", 3: "warn", 4: "error", 5: "error"}
_ROS_LEVELS: Final = {10: "debug", 20: "info", 30: "warn", 40: "error", 50: "error"}


def _short(schema: str) -> str:
    """Return a name without ``msg``; the messages of Foxglove have one name in ROS and elsewhere."""
    name = schema.replace("/msg/", "/")
    return name.replace("foxglove_msgs/", "foxglove.").replace("foxglove/", "foxglove.")


def _stamp(fields: Fields) -> int:
    header = fields.get("header")
    stamp = fields.get("timestamp") or fields.get("stamp") or (header or {}).get("stamp")
    if not isinstance(stamp, Mapping):
        return 0
    seconds = stamp.get("sec", stamp.get("seconds", 0))
    return int(seconds) * 1_000_000_000 + int(
        stamp.get("nsec", stamp.get("nanosec", stamp.get("nanos", 0)))
    )


def _frame(fields: Fields) -> str:
    header = fields.get("header")
    return str(
        fields.get("frame_id") or (header.get("frame_id", "") if isinstance(header, Mapping) else "")
    )


def _bytes(data: Any) -> npt.NDArray[np.uint8]:
    if isinstance(data, bytes | bytearray | memoryview):
        return np.frombuffer(data, np.uint8)
    return np.asarray(data, np.uint8)


# ------------------------------------------------------------------------------ images

_ENCODINGS: Final = {
    "8UC1": "mono8",
    "8UC3": "bgr8",
    "8UC4": "bgra8",
    "yuv422_yuy2": "yuyv",
}
_DEPTHS: Final[dict[str, npt.DTypeLike]] = {"16UC1": "u2", "32FC1": "f4", "mono16": "u2"}
_PIXELS: Final = {"mono8": 1, "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "yuyv": 2}


def _raw_image(fields: Fields) -> ForeignValue:
    width, height, step = (int(fields[name]) for name in ("width", "height", "step"))
    named = str(fields["encoding"])
    encoding = _ENCODINGS.get(named, named)
    data = _bytes(fields["data"])
    depth = np.dtype(_DEPTHS[named]) if named in _DEPTHS else None
    row = width * (depth.itemsize if depth is not None else _PIXELS.get(encoding, 0))
    if row and step > row:
        data = data[: step * height].reshape(height, step)[:, :row].reshape(-1)
    metadata: dict[str, Any] = {"width": width, "height": height, "encoding": encoding}
    if depth is not None:
        stored = depth.newbyteorder(">" if fields.get("is_bigendian") else "<")
        values = np.ascontiguousarray(data).view(stored).astype(depth, copy=False)
        return ForeignValue(values, {**metadata, "primitive": "depth"})
    return ForeignValue(data, metadata)


def _compressed_image(fields: Fields) -> ForeignValue:
    words = str(fields["format"]).lower()
    names = ("jpeg", "jpg", "png", "webp", "avif")
    encoding = next((name for name in names if name in words), words)
    return ForeignValue(
        _bytes(fields["data"]),
        {"encoding": "jpeg" if encoding == "jpg" else encoding, "primitive": "image"},
    )


# ------------------------------------------------------------------------------ in space

_FOXGLOVE_TYPES: Final = {1: "u1", 2: "i1", 3: "u2", 4: "i2", 5: "u4", 6: "i4", 7: "f4", 8: "f8"}
_ROS_TYPES: Final = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


def _cloud(fields: Fields) -> ForeignValue:
    own = "point_stride" in fields
    stride = int(fields["point_stride"] if own else fields["point_step"])
    types = _FOXGLOVE_TYPES if own else _ROS_TYPES
    order = ">" if fields.get("is_bigendian") else "<"
    data = _bytes(fields["data"])
    if stride <= 0:
        raise ValueError("its points have no size")
    count = data.size // stride
    named = {
        str(item["name"]): (int(item["offset"]), types[int(item["type" if own else "datatype"])])
        for item in fields["fields"]
        if int(item["type" if own else "datatype"]) in types
    }
    axes = []
    for axis in "xyz":
        offset, kind = named[axis]
        if offset + np.dtype(kind).itemsize > stride:
            raise ValueError(f"its field `{axis}` is not inside of a point")
        axes.append(
            np.ndarray((count,), np.dtype(order + kind), np.ascontiguousarray(data), offset, (stride,))
            if count
            else np.empty(0, np.float32)
        )
    return _points(np.column_stack(axes).astype(np.float32))


def _points(points: npt.NDArray[Any]) -> ForeignValue:
    finite = np.isfinite(points).all(axis=1)
    return ForeignValue(points[finite].astype(np.float32).reshape(-1), {"primitive": "points3d"})


def _scan(fields: Fields) -> ForeignValue:
    ranges = np.asarray(fields["ranges"], np.float64)
    first = float(fields.get("start_angle", fields.get("angle_min", 0.0)))
    last = float(fields.get("end_angle", fields.get("angle_max", 0.0)))
    angles = np.linspace(first, last, ranges.size) if ranges.size else ranges
    flat = np.column_stack((ranges * np.cos(angles), ranges * np.sin(angles), np.zeros(ranges.size)))
    return _points(flat)


def _numbers(value: Any, axes: str) -> list[float]:
    return [float(value.get(axis, 0.0)) for axis in axes]


def _pose_of(value: Fields) -> list[float]:
    turn = value.get("orientation") or {}
    quaternion = _numbers(turn, "xyzw")
    return _numbers(value.get("position") or {}, "xyz") + (
        quaternion if any(quaternion) else [0.0, 0.0, 0.0, 1.0]
    )


def _pose(fields: Fields) -> ForeignValue:
    inner = fields.get("pose", fields)
    while "position" not in inner and isinstance(inner.get("pose"), Mapping):
        inner = inner["pose"]  # with covariance
    return ForeignValue(np.array(_pose_of(inner)), {"primitive": "pose"})


def _path(fields: Fields) -> ForeignValue:
    poses = [item.get("pose", item) for item in fields["poses"]]
    points = np.array([_pose_of(item)[:3] for item in poses], np.float32).reshape(-1, 3)
    return ForeignValue(points.reshape(-1), {"primitive": "lines3d"})


def _transforms(fields: Fields) -> ForeignValue:
    found = []
    for item in fields.get("transforms", [fields]):
        inner = item.get("transform", item)
        header = item.get("header") or {}
        found.append(
            {
                "parent": str(item.get("parent_frame_id", header.get("frame_id", ""))),
                "child": str(item["child_frame_id"]),
                "translation": dict(zip("xyz", _numbers(inner["translation"], "xyz"), strict=True)),
                "rotation": dict(zip("xyzw", _numbers(inner["rotation"], "xyzw"), strict=True)),
            }
        )
    return ForeignValue(pa.array(found, _TRANSFORM), {})


_DOUBLE: Final = pa.float64()
_TRANSFORM: Final = pa.struct(
    [
        ("parent", pa.string()),
        ("child", pa.string()),
        ("translation", pa.struct([(axis, _DOUBLE) for axis in "xyz"])),
        ("rotation", pa.struct([(axis, _DOUBLE) for axis in "xyzw"])),
    ]
)


def _scene(fields: Fields) -> ForeignValue:
    """Return the cubes and spheres of a scene as boxes, or else its first line."""
    boxes: list[float] = []
    labels: list[str] = []
    for entity in fields["entities"]:
        for item in (*entity.get("cubes", ()), *entity.get("spheres", ())):
            boxes += [*_pose_of(item["pose"])[:3], *_numbers(item["size"], "xyz")]
            labels.append(str(entity.get("id", "")))
    if boxes:
        value = pa.array([{"bbox": boxes, "labels": labels}])
        return ForeignValue(value, {"primitive": "boxes3d", "format": "center_size"})
    for entity in fields["entities"]:
        for item in entity.get("lines", ()):
            points = np.array([_numbers(point, "xyz") for point in item["points"]], np.float32)
            return ForeignValue(points.reshape(-1), {"primitive": "lines3d"})
    return _other(fields)


# ------------------------------------------------------------------------------ boxes, texts


def _annotations(fields: Fields) -> ForeignValue:
    """Return the rectangles around the shapes on an image, each with the nearest text inside or on it."""
    texts = [
        (float(item["position"]["x"]), float(item["position"]["y"]), str(item["text"]))
        for item in fields.get("texts", ())
    ]
    boxes = []
    for item in fields.get("points", ()):
        points = np.array([(point["x"], point["y"]) for point in item["points"]], np.float64).reshape(-1, 2)
        if len(points) >= 2:
            boxes.append(_box(*points.min(axis=0), *points.max(axis=0)))
    for item in fields.get("circles", ()):
        x, y, half = (
            float(item["position"]["x"]),
            float(item["position"]["y"]),
            float(item["diameter"]) / 2,
        )
        boxes.append(_box(x - half, y - half, x + half, y + half))
    for x, y, text in texts:
        near = min(boxes, key=lambda box: math.hypot(box["x"] - x, box["y"] - y), default=None)
        if near is not None and not near["label"]:
            near["label"] = text
    return ForeignValue(pa.array(boxes, _BOX), {})


def _detections(fields: Fields) -> ForeignValue:
    boxes = []
    for item in fields["detections"]:
        center, box = item["bbox"]["center"], item["bbox"]
        place = center.get("position", center)
        width, height = float(box["size_x"]), float(box["size_y"])
        left, top = float(place["x"]) - width / 2, float(place["y"]) - height / 2
        best = max(
            (result.get("hypothesis", result) for result in item.get("results", ())),
            key=lambda one: float(one.get("score", 0.0)),
            default=None,
        )
        label = "" if best is None else str(best.get("class_id", best.get("id", "")))
        boxes.append(_box(left, top, left + width, top + height, label))
        if best is not None:
            boxes[-1]["confidence"] = float(best.get("score", 0.0))
    return ForeignValue(pa.array(boxes, _BOX), {})


_BOX: Final = pa.struct(
    [
        *((side, _DOUBLE) for side in ("x", "y", "width", "height")),
        ("label", pa.string()),
        ("confidence", _DOUBLE),
    ]
)


def _box(left: float, top: float, right: float, bottom: float, label: str = "") -> dict[str, Any]:
    return {
        "x": float(left),
        "y": float(top),
        "width": float(right - left),
        "height": float(bottom - top),
        "label": label,
        "confidence": None,
    }


def _text_of(fields: Fields) -> str:
    return str(fields.get("message", fields.get("msg", fields.get("data", ""))))


def _text(fields: Fields) -> ForeignValue:
    return ForeignValue(pa.array([_text_of(fields)]), {"primitive": "text"})


def _joints(fields: Fields) -> ForeignValue:
    if "joints" in fields:
        names = [str(item["name"]) for item in fields["joints"]]
        positions = [float(item.get("position") or 0.0) for item in fields["joints"]]
    else:
        names, positions = list(map(str, fields["name"])), [float(item) for item in fields["position"]]
    if len(names) != len(positions) or not names:
        return _other(fields)
    return ForeignValue(np.array(positions), {"primitive": "series", "names": names})


def _other(fields: Fields) -> ForeignValue:
    content = {key: value for key, value in fields.items() if key not in _STAMPS} or dict(fields)
    leaves = list(_leaves("", content))
    if 0 < len(leaves) <= MOST_NAMED and all(
        isinstance(value, int | float | np.number) for _, value in leaves
    ):
        numbers = np.array([float(value) for _, value in leaves])
        return ForeignValue(numbers, {"primitive": "series", "names": [name for name, _ in leaves]})
    return ForeignValue(pa.array([_listed(content)]), {})


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), item)
    else:
        yield path, value


def _listed(value: Any) -> Any:
    """Return a value that Arrow takes: lists in place of most arrays, of long ones the beginning."""
    if isinstance(value, Mapping):
        return {str(key): _listed(item) for key, item in value.items()}
    # Arrow takes integers for signed ones, and refuses those that are too large for that.
    if isinstance(value, np.ndarray):
        return value[:100] if value.dtype == np.uint64 else value[:100].tolist()
    if isinstance(value, int) and value >= 1 << 63:
        return np.uint64(value) if value < 1 << 64 else str(value)
    if isinstance(value, list):
        return [_listed(item) for item in value[:100]]
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return value


_KNOWN: Final[dict[str, Callable[[Fields], ForeignValue]]] = {
    "foxglove.RawImage": _raw_image,
    "foxglove.CompressedImage": _compressed_image,
    "foxglove.PointCloud": _cloud,
    "foxglove.LaserScan": _scan,
    "foxglove.PoseInFrame": _pose,
    "foxglove.PosesInFrame": _path,
    "foxglove.FrameTransform": _transforms,
    "foxglove.FrameTransforms": _transforms,
    "foxglove.ImageAnnotations": _annotations,
    "foxglove.JointStates": _joints,
    "foxglove.SceneUpdate": _scene,
    "foxglove.Log": _text,
    "sensor_msgs/Image": _raw_image,
    "sensor_msgs/CompressedImage": _compressed_image,
    "sensor_msgs/PointCloud2": _cloud,
    "sensor_msgs/LaserScan": _scan,
    "sensor_msgs/JointState": _joints,
    "geometry_msgs/Pose": _pose,
    "geometry_msgs/PoseStamped": _pose,
    "geometry_msgs/PoseWithCovarianceStamped": _pose,
    "geometry_msgs/TransformStamped": _transforms,
    "nav_msgs/Odometry": _pose,
    "nav_msgs/Path": _path,
    "tf2_msgs/TFMessage": _transforms,
    "vision_msgs/Detection2DArray": _detections,
    "rcl_interfaces/Log": _text,
    "std_msgs/String": _text,
}
