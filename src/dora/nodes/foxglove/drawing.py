"""Turn messages into Foxglove's, where the form in which a recording stores them is not enough.

Images, depth images, point clouds, poses, transforms and plain numbers have a schema of Foxglove, or one
that it plots, in recordings already (`dora.recording.mcap.channels`). Here are the other primitives: boxes,
points and lines over an image or in space, texts and joints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np
from foxglove.messages import (
    Color,
    CubePrimitive,
    Duration,
    ImageAnnotations,
    JointState,
    JointStates,
    LinePrimitive,
    LinePrimitiveLineType,
    Log,
    LogLevel,
    Point2,
    Point3,
    PointsAnnotation,
    PointsAnnotationType,
    Pose,
    Quaternion,
    SceneEntity,
    SceneUpdate,
    TextAnnotation,
    TextPrimitive,
    Timestamp,
    Vector3,
)

from dora.observe.preview import drawable
from dora.observe.preview.drawable import DrawableMessage, NotDrawable
from dora.wire.metadata import as_nanoseconds

LINE: Final = Color(r=0.0, g=1.0, b=0.0, a=1.0)
_WIDTH: Final = 2.0  # pixels, of lines over an image
_RADIUS: Final = 0.01  # metres, of lines in space
_FONT: Final = 14.0  # pixels, of labels over an image
_LETTERS: Final = 0.1  # metres, of labels in space
_LEVELS: Final = {
    "error": LogLevel.Error,
    "warn": LogLevel.Warning,
    "info": LogLevel.Info,
    "debug": LogLevel.Debug,
    "trace": LogLevel.Debug,
}


def timestamp(time_ns: int) -> Timestamp:
    """Return a time of Foxglove; ``time_ns`` is nanoseconds since the Unix epoch."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return Timestamp(seconds, nanoseconds)


def log_record(time_ns: int, level: str, name: str, text: str, file: str = "", line: int = 0) -> Log:
    """Return a line of a log; ``level`` is one of dora's."""
    return Log(
        timestamp=timestamp(time_ns),
        level=_LEVELS.get(level, LogLevel.Info),
        name=name,
        message=text,
        file=file,
        line=line,
    )


def text(message: DrawableMessage) -> Iterable[Log]:
    """Return one line of a log for each text."""
    for line in drawable.strings(message.value):
        yield log_record(time_of(message.metadata), "info", message.id, line)


def boxes2d(message: DrawableMessage) -> Iterable[ImageAnnotations]:
    """Return rectangles over an image, with their labels."""
    boxes = drawable.boxes2d(message)
    low, high = boxes.centers - boxes.half_sizes, boxes.centers + boxes.half_sizes
    colors = _colors(boxes.colors, len(low))
    corners = [
        [(left, top), (right, top), (right, bottom), (left, bottom)]
        for (left, top), (right, bottom) in zip(low.tolist(), high.tolist(), strict=True)
    ]
    time = timestamp(time_of(message.metadata))
    yield ImageAnnotations(
        timestamp=time,
        points=[
            PointsAnnotation(
                timestamp=time,
                type=PointsAnnotationType.LineLoop,
                points=[Point2(x=x, y=y) for x, y in box],
                outline_color=color,
                thickness=_WIDTH,
            )
            for box, color in zip(corners, colors, strict=True)
        ],
        texts=[
            TextAnnotation(
                timestamp=time,
                position=Point2(x=box[0][0], y=box[0][1]),
                text=label,
                font_size=_FONT,
                text_color=color,
            )
            for box, color, label in zip(corners, colors, boxes.labels, strict=False)
        ],
    )


def points2d(message: DrawableMessage) -> Iterable[ImageAnnotations]:
    """Return points over an image."""
    yield _annotation(message, PointsAnnotationType.Points)


def lines2d(message: DrawableMessage) -> Iterable[ImageAnnotations]:
    """Return one line over an image through all points."""
    yield _annotation(message, PointsAnnotationType.LineStrip)


def _annotation(message: DrawableMessage, kind: PointsAnnotationType) -> ImageAnnotations:
    time = timestamp(time_of(message.metadata))
    points = PointsAnnotation(
        timestamp=time,
        type=kind,
        points=[Point2(x=x, y=y) for x, y in drawable.rows(message.value, 2, "points").tolist()],
        outline_color=_color(message.color()),
        thickness=_WIDTH,
    )
    return ImageAnnotations(timestamp=time, points=[points])


def boxes3d(message: DrawableMessage) -> Iterable[SceneUpdate]:
    """Return boxes in space, with their labels; they replace the boxes of the message before."""
    boxes = drawable.boxes3d(message)
    centers, sizes = boxes.centers.tolist(), (2 * boxes.half_sizes).tolist()
    colors = _colors(boxes.colors, len(centers), 0.4)
    yield _scene(
        message,
        cubes=[
            CubePrimitive(pose=_pose(center), size=Vector3(x=x, y=y, z=z), color=color)
            for center, (x, y, z), color in zip(centers, sizes, colors, strict=True)
        ],
        texts=[
            TextPrimitive(pose=_pose(center), billboard=True, font_size=_LETTERS, color=LINE, text=label)
            for center, label in zip(centers, boxes.labels, strict=False)
        ],
    )


def lines3d(message: DrawableMessage) -> Iterable[SceneUpdate]:
    """Return one line in space through all points; it replaces the line of the message before."""
    points = drawable.rows(message.value, 3, "points").tolist()
    radius = (message.floats("radius") or (_RADIUS,))[0]
    line = LinePrimitive(
        type=LinePrimitiveLineType.LineStrip,
        pose=_pose((0.0, 0.0, 0.0)),
        thickness=2 * radius,
        points=[Point3(x=x, y=y, z=z) for x, y, z in points],
        color=_color(message.color()),
    )
    yield _scene(message, lines=[line])


def _scene(message: DrawableMessage, **parts: Any) -> SceneUpdate:
    """Return an entity with the name of the topic, which replaces the one before."""
    entity = SceneEntity(
        timestamp=timestamp(time_of(message.metadata)),
        frame_id=str(message.metadata.get("frame_id", "world")),
        id=message.id,
        lifetime=Duration(0, 0),
        **parts,
    )
    return SceneUpdate(entities=[entity])


def joints(message: DrawableMessage) -> Iterable[JointStates]:
    """Return the positions of joints, in radians or metres.

    The metadata ``joint_names`` names them, in the order of their numbers; without it they are
    ``joint_0``, ``joint_1`` and so on.
    """
    positions = drawable.numbers(message.value).astype(np.float64).tolist()
    names = message.metadata.get("joint_names")
    if not isinstance(names, list):
        names = [f"joint_{number}" for number in range(len(positions))]
    if len(names) != len(positions):
        raise NotDrawable(f"`joint_names` has {len(names)} names, and there are {len(positions)} joints")
    yield JointStates(
        timestamp=timestamp(time_of(message.metadata)),
        joints=[
            JointState(name=str(name), position=position)
            for name, position in zip(names, positions, strict=True)
        ],
    )


Drawer = Callable[[DrawableMessage], Iterable[Any]]

DRAWERS: Final[dict[str, Drawer]] = {
    "text": text,
    "boxes2d": boxes2d,
    "points2d": points2d,
    "lines2d": lines2d,
    "boxes3d": boxes3d,
    "lines3d": lines3d,
    "jointstate": joints,
}
"""By primitive: those that a recording stores as plain values."""


def time_of(metadata: Mapping[str, Any]) -> int:
    """Return the ``timestamp`` of a message in nanoseconds since the Unix epoch; 0: it has none."""
    sent = metadata.get("timestamp")
    return as_nanoseconds(sent) if isinstance(sent, datetime) else 0


def _pose(position: Iterable[float]) -> Pose:
    x, y, z = position
    return Pose(position=Vector3(x=x, y=y, z=z), orientation=Quaternion(x=0.0, y=0.0, z=0.0, w=1.0))


def _color(color: tuple[int, int, int] | None, alpha: float = 1.0) -> Color:
    red, green, blue = (0, 255, 0) if color is None else color
    return Color(r=red / 255, g=green / 255, b=blue / 255, a=alpha)


def _colors(colors: Any, count: int, alpha: float = 1.0) -> list[Color]:
    """Return a colour for each of so many boxes."""
    given = colors.tolist()
    return [_color(tuple(given[number]) if given else None, alpha) for number in range(count)]
