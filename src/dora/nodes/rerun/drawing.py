"""Turn messages into what Rerun draws: one function for each primitive."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import rerun as rr

from dora.observe.preview import drawable
from dora.observe.preview.drawable import DrawableMessage
from dora.wire.image_encodings import DEFAULT_ENCODING, IMAGE_ENCODINGS, MEDIA_TYPES, PIXEL_ENCODINGS

Drawing = tuple[str, list[Any]]
"""The path of an entity, and the Rerun archetypes to log there."""

POINT_RADIUS = 0.01  # metres
LINE_RADIUS = 0.01
POINT_COLOR = (128, 128, 128)
LINE_COLOR = (0, 255, 0)
POSE_AXES = 0.1  # metres

_PIXEL_FORMATS = {  # of encodings that store brightness and colour apart
    "yuv420": rr.PixelFormat.Y_U_V12_LimitedRange,
    "nv12": rr.PixelFormat.NV12,
    "yuyv": rr.PixelFormat.YUY2,
}


def image(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw an image in one of `IMAGE_ENCODINGS`; without ``encoding`` it is ``bgr8``."""
    encoding = message.word("encoding", DEFAULT_ENCODING, IMAGE_ENCODINGS)
    if encoding in MEDIA_TYPES:  # the viewer reports a file that it cannot decode
        contents = drawable.numbers(message.value, "bytes").tobytes()
        yield message.id, [rr.EncodedImage(contents=contents, media_type=MEDIA_TYPES[encoding])]
        return
    width, height = message.size()
    data = drawable.pixels(message, encoding)
    if channels := PIXEL_ENCODINGS[encoding].channels:
        model, sample = rr.ColorModel[channels], np.dtype(PIXEL_ENCODINGS[encoding].sample).type
        picture = rr.Image(bytes=data, width=width, height=height, color_model=model, datatype=sample)
    else:
        pixel_format = _PIXEL_FORMATS[encoding]
        picture = rr.Image(bytes=data, width=width, height=height, pixel_format=pixel_format)
    yield message.id, [picture]


def depth(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw a depth image; as points in space if its metadata has ``focal`` (or ``focal_length``)."""
    width, height = message.size()
    picture, units_per_metre = drawable.depth(message)
    focal = message.floats("focal") or message.floats("focal_length")
    if focal:
        camera: list[Any] = [
            rr.Pinhole(
                focal_length=(focal[0], focal[-1]),
                principal_point=drawable.principal_point(message),
                resolution=(width, height),
                camera_xyz=rr.ViewCoordinates.RDF,
            )
        ]
        position = message.floats("camera_position")
        orientation = message.floats("camera_orientation")
        if position or orientation:
            camera.append(
                rr.Transform3D(
                    translation=position or (0, 0, 0),
                    quaternion=rr.Quaternion(xyzw=orientation or (0, 0, 0, 1)),
                )
            )
        yield message.id, camera
    yield f"{message.id}/raw", [rr.DepthImage(picture, meter=units_per_metre)]


def text(message: DrawableMessage) -> Iterable[Drawing]:
    """Add lines to a log."""
    for line in drawable.strings(message.value):
        yield message.id, [rr.TextLog(line)]


def boxes2d(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw boxes over an image; none at all remove those before."""
    boxes = drawable.boxes2d(message)
    if not len(boxes.centers):
        yield _nothing(message)
        return
    picture = rr.Boxes2D(
        centers=boxes.centers, half_sizes=boxes.half_sizes, labels=boxes.labels, colors=boxes.colors
    )
    yield message.id, [picture]


def boxes3d(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw boxes in space, as wires or with ``solid`` filled; none at all remove those before."""
    boxes = drawable.boxes3d(message)
    if not len(boxes.centers):
        yield _nothing(message)
        return
    solid = message.metadata.get("solid") is True
    picture = rr.Boxes3D(
        centers=boxes.centers,
        half_sizes=boxes.half_sizes,
        labels=boxes.labels,
        colors=boxes.colors,
        fill_mode=rr.components.FillMode.Solid if solid else rr.components.FillMode.MajorWireframe,
    )
    yield message.id, [picture]


def masks(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw masks as coloured regions over an image; none at all remove those before."""
    labels = drawable.labelled_masks(message)
    if labels is None:
        yield _nothing(message)
    else:
        yield message.id, [rr.SegmentationImage(labels, opacity=0.5)]


def pose(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw a pose as three axes; what is drawn below it moves with it."""
    translation, quaternion = drawable.pose(message)
    yield (
        message.id,
        [
            rr.Transform3D(translation=translation, quaternion=rr.Quaternion(xyzw=quaternion)),
            rr.TransformAxes3D(POSE_AXES),
        ],
    )


def series(message: DrawableMessage) -> Iterable[Drawing]:
    """Add a point to a curve, or to one for each number."""
    numbers = drawable.numbers(message.value)
    if numbers.size:
        yield message.id, [rr.Scalars(numbers.astype(np.float64))]


def points3d(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw points in space."""
    points = drawable.rows(message.value, 3, "points")
    radii = message.floats("radii") or (POINT_RADIUS,)
    if len(radii) not in (1, len(points)):
        radii = (POINT_RADIUS,)
    yield message.id, [rr.Points3D(points, colors=[message.color() or POINT_COLOR], radii=radii)]


def points2d(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw points over an image, in a colour that Rerun chooses, or in ``color``."""
    color = message.color()
    points = drawable.rows(message.value, 2, "points")
    colors = [color] if color else None
    yield message.id, [rr.Points2D(points, colors=colors, radii=message.floats("radii"))]


def lines3d(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw one line in space through all points."""
    radius = (message.floats("radius") or (LINE_RADIUS,))[0]
    strip = drawable.rows(message.value, 3, "points")
    yield message.id, [rr.LineStrips3D([strip], colors=[message.color() or LINE_COLOR], radii=[radius])]


def lines2d(message: DrawableMessage) -> Iterable[Drawing]:
    """Draw one line over an image through all points."""
    strip = drawable.rows(message.value, 2, "points")
    radii = message.floats("radius")
    yield message.id, [rr.LineStrips2D([strip], colors=[message.color() or LINE_COLOR], radii=radii)]


def _nothing(message: DrawableMessage) -> Drawing:
    return message.id, [rr.Clear(recursive=False)]


DRAWERS: dict[str, Callable[[DrawableMessage], Iterable[Drawing]]] = {
    "image": image,
    "depth": depth,
    "text": text,
    "boxes2d": boxes2d,
    "boxes3d": boxes3d,
    "masks": masks,
    "pose": pose,
    "series": series,
    "points3d": points3d,
    "points2d": points2d,
    "lines3d": lines3d,
    "lines2d": lines2d,
}
"""By primitive: all but ``jointstate``, which moves the robots of the settings
(`dora.nodes.rerun.robot`)."""
