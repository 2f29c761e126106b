"""Find out how to draw a message, and turn it into arrays of the right shape; no viewer is needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dora.dataflow.problems import did_you_mean, listed
from dora.wire.image_encodings import PIXEL_ENCODINGS

PRIMITIVES = (
    "image",
    "depth",
    "text",
    "boxes2d",
    "boxes3d",
    "masks",
    "jointstate",
    "pose",
    "series",
    "points3d",
    "points2d",
    "lines3d",
    "lines2d",
)
# If a name contains several, the first counts. The last two are outputs of published nodes whose older
# versions do not declare a primitive.
_WORDS = {**{primitive: primitive for primitive in PRIMITIVES}, "bbox": "boxes2d", "mask": "masks"}


class UnknownPrimitive(ValueError):
    """How to draw an input is unknown; ``str(error)`` says how to declare it."""


def primitive_of(input_id: str, metadata: Mapping[str, Any]) -> str:
    """Return one of `PRIMITIVES`; raises `UnknownPrimitive`.

    >>> primitive_of("camera", {"primitive": "image"})
    'image'
    >>> primitive_of("text_whisper", {})
    'text'
    >>> primitive_of("frame", {"width": 640, "height": 480, "encoding": "bgr8"})
    'image'
    """
    named = metadata.get("primitive")
    if named in PRIMITIVES:
        return str(named)
    if named is not None:
        hint = did_you_mean(str(named), PRIMITIVES) or f"there are {listed(PRIMITIVES)}"
        raise UnknownPrimitive(f"its `primitive` is `{named}`, which the viewer does not know; {hint}")
    for word, primitive in _WORDS.items():
        if word in input_id:
            return primitive
    if {"width", "height", "encoding"} <= metadata.keys():
        return "image"
    raise UnknownPrimitive(
        f"its metadata has no `primitive`, and its name contains none; there are {listed(PRIMITIVES)}"
    )


DEFAULT_SIZE = (640, 480)  # of images without a size in their metadata; existing dataflows expect it

Floats = npt.NDArray[np.floating[Any]]


class NotDrawable(ValueError):
    """A message lacks the form that its primitive requires; ``str(error)`` says which one that is."""


@dataclass(frozen=True)
class DrawableMessage:
    """A message to draw. ``default_size`` is width and height of images without."""

    id: str
    value: pa.Array[Any]
    metadata: Mapping[str, Any]
    default_size: tuple[int, int] = DEFAULT_SIZE

    def size(self) -> tuple[int, int]:
        """Return width and height of the image."""
        width, height = self.metadata.get("width"), self.metadata.get("height")
        try:
            width, height = int(width or self.default_size[0]), int(height or self.default_size[1])
        except (TypeError, ValueError):
            width = height = 0
        if width <= 0 or height <= 0:
            raise NotDrawable("`width` and `height` in its metadata have to be numbers greater than zero")
        return width, height

    def word(self, key: str, default: str, known: Collection[str]) -> str:
        """Return an entry of the metadata that is one of the ``known`` words."""
        word = str(self.metadata.get(key, default)).lower()
        if word not in known:
            hint = did_you_mean(word, known) or f"the viewer knows {listed(known)}"
            raise NotDrawable(f"its `{key}` is `{word}`; {hint}")
        return word

    def floats(self, key: str) -> tuple[float, ...] | None:
        """Return an entry of the metadata that is a number or a list of them, None if it is not there."""
        entry = self.metadata.get(key)
        if entry is None:
            return None
        try:
            return tuple(float(item) for item in (entry if isinstance(entry, list | tuple) else [entry]))
        except (TypeError, ValueError):
            raise NotDrawable(f"`{key}` in its metadata has to be a list of numbers") from None

    def color(self) -> tuple[int, int, int] | None:
        """Return red, green and blue, each from 0 to 255, or None if it gives no colour."""
        color = self.floats("color")
        if color is None or len(color) < 3:
            return None
        red, green, blue = (min(max(round(part), 0), 255) for part in color[:3])
        return red, green, blue


def flattened(lists: Any) -> pa.Array[Any]:
    """Return the items of an array of lists."""
    items: pa.Array[Any] = lists.flatten()
    return items


def numbers(value: pa.Array[Any], what: str = "numbers") -> npt.NDArray[Any]:
    """Return all numbers of an array, of its lists too, flat; a missing one is NaN."""
    while pa.types.is_nested(value.type) and not pa.types.is_struct(value.type):
        value = flattened(value)
    if pa.types.is_null(value.type):
        return np.empty(0, np.float32)
    if not pa.types.is_primitive(value.type) or pa.types.is_temporal(value.type):
        raise NotDrawable(f"it has to be an array of {what}, and is one of {value.type}")
    array: npt.NDArray[Any] = value.to_numpy(zero_copy_only=False)
    return array


def rows(value: pa.Array[Any], width: int, what: str) -> Floats:
    """Return numbers as rows of ``width``."""
    flat = numbers(value).astype(np.float32)
    if flat.size % width:
        raise NotDrawable(f"{what} are {width} numbers each, and {flat.size} is no multiple of that")
    return flat.reshape(-1, width)


def strings(value: pa.Array[Any]) -> list[str]:
    """Return the texts of an array; bytes are read as UTF-8."""
    while pa.types.is_list(value.type) or pa.types.is_large_list(value.type):
        value = flattened(value)
    if pa.types.is_uint8(value.type):
        return [numbers(value).tobytes().decode("utf-8", "replace")]
    texts = [item for item in value.to_pylist() if item is not None]
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in texts]


def field(value: pa.Array[Any], *names: str) -> pa.Array[Any] | None:
    """Return the first of these fields of a struct array that is there."""
    structs: Any = value
    if not pa.types.is_struct(value.type):
        return None
    return next((structs.field(name) for name in names if value.type.get_field_index(name) >= 0), None)


# ------------------------------------------------------------------------------ images


def pixels(message: DrawableMessage, encoding: str) -> bytes:
    """Return the bytes of an uncompressed image in one of `PIXEL_ENCODINGS`, checked against its size.

    An image with numbers of two bytes may also come as plain bytes.
    """
    sample, bytes_per_pixel = PIXEL_ENCODINGS[encoding].sample, PIXEL_ENCODINGS[encoding].size
    width, height = message.size()
    array = numbers(message.value, "bytes")
    if array.dtype not in (np.dtype(sample), np.dtype(np.uint8)):
        raise NotDrawable(
            f"an image in {encoding} has to be an array of {np.dtype(sample)}, and is one of {array.dtype}"
        )
    wanted = int(width * height * bytes_per_pixel)
    if array.nbytes != wanted:
        given = {"width", "height"} <= message.metadata.keys()
        where = "" if given else "; its metadata does not give `width` and `height`"
        raise NotDrawable(
            f"an image of {width} × {height} in {encoding} has {wanted} bytes, and it has "
            f"{array.nbytes}{where}"
        )
    return array.tobytes()


def depth(message: DrawableMessage) -> tuple[npt.NDArray[Any], float]:
    """Return a depth image (height, width) and how many of its units are a metre.

    Floats are metres, integers millimetres.
    """
    width, height = message.size()
    array = numbers(message.value)
    if array.size != width * height:
        raise NotDrawable(
            f"a depth image of {width} × {height} has {width * height} numbers, and it has {array.size}"
        )
    image = array.reshape(height, width)
    if np.issubdtype(image.dtype, np.floating):
        return image.astype(np.float32, copy=False), 1.0
    return image.astype(np.uint16, copy=False), 1000.0


def principal_point(message: DrawableMessage) -> tuple[float, float]:
    """Return where the optical axis meets a depth image, by default its middle.

    Published cameras call it ``resolution``, unless that is really the resolution.
    """
    width, height = message.size()
    for key in ("principal_point", "resolution"):
        point = message.floats(key)
        if point is not None and len(point) == 2 and point != (width, height):
            return point[0], point[1]
    return width / 2, height / 2


def labelled_masks(message: DrawableMessage) -> npt.NDArray[np.uint16] | None:
    """Return masks as one image (height, width) of labels: the n-th mask is n, the background 0.

    Where masks overlap, the later one shows. None if there is no mask.
    """
    inside = field(message.value, "masks")
    array = numbers(message.value if inside is None else inside)
    if array.size == 0:
        return None
    width, height = message.size()
    if array.size % (width * height):
        raise NotDrawable(
            f"masks of {width} × {height} have {width * height} numbers each, and {array.size} is no "
            "multiple of that"
        )
    labels = np.zeros((height, width), np.uint16)
    for number, mask in enumerate(array.reshape(-1, height, width), 1):
        labels[mask > 0] = number
    return labels


# ------------------------------------------------------------------------------- boxes


@dataclass(frozen=True)
class Boxes:
    """Boxes by their middles and half their sizes; labels, classes and colours for all of them or none.

    A label is the class with its confidence. An empty list, unlike None, takes away what earlier boxes had.
    """

    centers: Floats
    half_sizes: Floats
    labels: list[str]
    classes: list[str]
    colors: npt.NDArray[np.uint8]


Form = Callable[[Floats, Floats], tuple[Floats, Floats]]
"""Makes middles and half sizes of the two halves of each box's numbers."""


def _corners(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    return (low + high) / 2, (high - low) / 2


def _center_size(center: Floats, size: Floats) -> tuple[Floats, Floats]:
    return center, size / 2


def _center_half_size(center: Floats, half_size: Floats) -> tuple[Floats, Floats]:
    return center, half_size


_FORMS_2D: dict[str, Form] = {"xyxy": _corners, "xywh": _center_size}
_FORMS_3D: dict[str, Form] = {
    "center_half_size": _center_half_size,
    "center_size": _center_size,
    "min_max": _corners,
}


def boxes2d(message: DrawableMessage) -> Boxes:
    """Return boxes in ``format`` ``xyxy`` (two corners) or ``xywh`` (the middle and the size).

    Without a format, rows of six numbers as detectors send them are recognised: two corners, a
    confidence from 0 to 1, the number of a class. The metadata ``class_names`` names the classes, in the
    order of their numbers.
    """
    detections = None if "format" in message.metadata else _detections(message.value)
    if detections is None:
        return _boxes(message, 2, "xyxy", _FORMS_2D)
    centers, half_sizes = _corners(detections[:, :2], detections[:, 2:4])
    names = _class_names(message.metadata)
    classes = [names.get(int(kind), str(int(kind))) for kind in detections[:, 5]]
    confidences = detections[:, 4]
    labels = [f"{name} {confidence:.0%}" for name, confidence in zip(classes, confidences, strict=True)]
    return Boxes(centers, half_sizes, labels, classes, _colors(message, len(detections)))


def _class_names(metadata: Mapping[str, Any]) -> dict[int, str]:
    names = metadata.get("class_names")
    return {number: str(name) for number, name in enumerate(names)} if isinstance(names, list) else {}


def _detections(value: pa.Array[Any]) -> Floats | None:
    """Return rows of x0, y0, x1, y1, confidence and class, if that is what the values are."""
    if not pa.types.is_floating(value.type) or not len(value) or len(value) % 6 or value.null_count:
        return None
    rows_of_six = numbers(value).reshape(-1, 6)
    confidences, kinds = rows_of_six[:, 4], rows_of_six[:, 5]
    if ((confidences < 0) | (confidences > 1) | (kinds < 0) | (kinds != np.floor(kinds))).any():
        return None
    return rows_of_six if (rows_of_six[:, 2:4] >= rows_of_six[:, :2]).all() else None


def boxes3d(message: DrawableMessage) -> Boxes:
    """Return boxes in ``format`` ``center_half_size``, ``center_size`` or ``min_max``."""
    return _boxes(message, 3, "center_half_size", _FORMS_3D)


def _boxes(message: DrawableMessage, dimensions: int, default: str, forms: Mapping[str, Form]) -> Boxes:
    name = message.word("format", default, forms)
    value = message.value
    if pa.types.is_struct(value.type):
        found = field(value, "bbox", "boxes")
        if found is None:
            raise NotDrawable(f"boxes in a struct need the field `bbox`, and it has {_fields(value)}")
        value = found
    pairs = rows(value, 2 * dimensions, f"boxes in {name}")
    labels, classes = _labels(message.value, len(pairs))
    centers, half_sizes = forms[name](pairs[:, :dimensions], pairs[:, dimensions:])
    return Boxes(
        centers=centers,
        half_sizes=half_sizes,
        labels=labels,
        classes=classes,
        colors=_colors(message, len(pairs)),
    )


def _fields(value: pa.Array[Any]) -> str:
    return listed(field.name for field in value.type) or "none"


def _labels(value: pa.Array[Any], count: int) -> tuple[list[str], list[str]]:
    """Return labels and classes of so many boxes."""
    names, confidences = field(value, "labels", "label"), field(value, "conf", "confidence")
    classes = texts = strings(names) if names is not None else []
    if confidences is not None:
        percents = [f"{confidence:.0%}" for confidence in numbers(confidences)]
        if not texts:
            texts = percents
        elif len(percents) == len(texts):
            texts = [f"{text} {percent}" for text, percent in zip(texts, percents, strict=True)]
    return texts if len(texts) == count else [], classes if len(classes) == count else []


def _colors(message: DrawableMessage, count: int) -> npt.NDArray[np.uint8]:
    own = field(message.value, "colors")
    if own is not None:
        colors = rows(own, 3, "colours")
        if len(colors) == count:
            return colors.astype(np.uint8)
    one = message.color()
    return np.full((0 if one is None else count, 3), one or 0, np.uint8)


# ------------------------------------------------------------------------------- poses


def pose(message: DrawableMessage) -> tuple[Floats, Floats]:
    """Return a translation and a quaternion (x, y, z, w).

    Seven numbers are both, three are a translation; six are a translation and roll, pitch and yaw, in
    radians.
    """
    array = numbers(message.value).astype(np.float32)
    if array.size == 7:
        return array[:3], array[3:]
    if array.size == 6:
        return array[:3], _from_euler(*map(float, array[3:]))
    if array.size == 3:
        return array, np.array([0, 0, 0, 1], np.float32)
    raise NotDrawable(
        f"a pose is `x y z qx qy qz qw`, `x y z roll pitch yaw` or `x y z`, and it has {array.size} numbers"
    )


def _from_euler(roll: float, pitch: float, yaw: float) -> Floats:
    """Return the quaternion of turns about the fixed axes x, y and z, in this order."""
    (sr, cr), (sp, cp), (sy, cy) = ((np.sin(a / 2), np.cos(a / 2)) for a in (roll, pitch, yaw))
    return np.array(
        [
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
            cr * cp * cy + sr * sp * sy,
        ],
        np.float32,
    )
