"""From messages to arrays: shapes, defaults, and what is said about messages of another form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dora.observe.preview import drawable
from dora.observe.preview.drawable import DrawableMessage, NotDrawable


def message(value: Any, **metadata: Any) -> DrawableMessage:
    return DrawableMessage("x", value if isinstance(value, pa.Array) else pa.array(value), metadata)


def test_numbers_come_out_of_lists_and_gaps() -> None:
    assert drawable.numbers(pa.array([[1.0, 2.0], [], [3.0]])).tolist() == [1, 2, 3]
    assert drawable.numbers(pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2))).tolist() == [1, 2, 3, 4]
    assert drawable.numbers(pa.array([True, False])).tolist() == [True, False]
    assert drawable.numbers(pa.nulls(0)).tolist() == []
    assert np.isnan(drawable.numbers(pa.array([1.0, None]))[1])
    with pytest.raises(NotDrawable, match="has to be an array of numbers, and is one of string"):
        drawable.numbers(pa.array(["a"]))


def test_texts_come_as_strings_or_bytes() -> None:
    assert drawable.strings(pa.array(["a", None, "b"])) == ["a", "b"]
    assert drawable.strings(pa.array(list("hé".encode()), pa.uint8())) == ["hé"]
    assert drawable.strings(pa.array([b"a"])) == ["a"]


def test_a_size_is_given_by_the_message_or_by_default() -> None:
    assert message([1], width=4, height=3).size() == (4, 3)
    assert message([1]).size() == (640, 480)
    assert DrawableMessage("x", pa.array([1]), {"width": 4}, default_size=(320, 240)).size() == (4, 240)
    with pytest.raises(NotDrawable, match="`width` and `height`"):
        message([1], width=-1, height=3).size()


def test_pixels_are_checked_against_the_size() -> None:
    image = message(pa.array(bytes(12), pa.uint8()), width=2, height=2)
    assert drawable.pixels(image, "rgb8") == bytes(12)
    with pytest.raises(NotDrawable, match=r"of 2 × 2 in rgba8 has 16 bytes, and it has 12$"):
        drawable.pixels(image, "rgba8")
    with pytest.raises(NotDrawable, match="its metadata does not give `width` and `height`"):
        drawable.pixels(message(pa.array(bytes(12), pa.uint8())), "rgb8")
    with pytest.raises(NotDrawable, match="has to be an array of uint8, and is one of int64"):
        drawable.pixels(message([1, 2, 3], width=1, height=1), "rgb8")
    wide = message(np.array([256, 1], np.uint16), width=2, height=1)
    assert drawable.pixels(wide, "mono16") == b"\0\1\1\0"


def test_depth_is_in_metres_or_millimetres() -> None:
    image, units = drawable.depth(message(np.array([1.0, 2.0]), width=2, height=1))
    assert (image.dtype, image.tolist(), units) == (np.float32, [[1, 2]], 1.0)
    image, units = drawable.depth(message(np.array([1000, 2000], np.uint16), width=1, height=2))
    assert (image.dtype, image.tolist(), units) == (np.uint16, [[1000], [2000]], 1000.0)
    with pytest.raises(NotDrawable, match="has 4 numbers, and it has 2"):
        drawable.depth(message([1.0, 2.0], width=2, height=2))


def test_published_cameras_call_the_principal_point_resolution() -> None:
    assert drawable.principal_point(message([1], width=4, height=2)) == (2, 1)
    assert drawable.principal_point(message([1], width=4, height=2, resolution=[4, 2])) == (2, 1)
    assert drawable.principal_point(message([1], width=4, height=2, resolution=[1, 1])) == (1, 1)
    assert drawable.principal_point(message([1], width=4, height=2, principal_point=[3.0, 1.5])) == (3, 1.5)


def test_masks_become_one_image_of_labels() -> None:
    two = message([True, True, False, False, False, True, True, False], width=2, height=2)
    labels = drawable.labelled_masks(two)
    assert labels is not None
    assert labels.tolist() == [[1, 2], [2, 0]]
    soft = drawable.labelled_masks(message([-1.5, 0.2], width=2, height=1))
    assert soft is not None
    assert soft.tolist() == [[0, 1]]
    named = drawable.labelled_masks(message([{"masks": [1.0, 0.0], "labels": ["cat"]}], width=2, height=1))
    assert named is not None
    assert named.tolist() == [[1, 0]]
    assert drawable.labelled_masks(message(pa.array([], pa.float32()))) is None
    with pytest.raises(NotDrawable, match="6 is no multiple"):
        drawable.labelled_masks(message([True] * 6, width=2, height=2))


@pytest.mark.parametrize(
    ("format", "numbers"),
    [("xyxy", [10, 20, 30, 60]), ("xywh", [20, 40, 20, 40]), (None, [10.0, 20.0, 30.0, 60.0])],
)
def test_boxes_in_two_dimensions(format: str | None, numbers: list[float]) -> None:
    metadata = {} if format is None else {"format": format}
    boxes = drawable.boxes2d(message(numbers, **metadata))
    assert boxes.centers.tolist() == [[20, 40]]
    assert boxes.half_sizes.tolist() == [[10, 20]]
    assert boxes.labels == []
    assert len(boxes.colors) == 0


@pytest.mark.parametrize(
    ("format", "numbers"),
    [
        ("center_half_size", [1, 2, 3, 1, 1, 2]),
        ("center_size", [1, 2, 3, 2, 2, 4]),
        ("min_max", [0, 1, 1, 2, 3, 5]),
    ],
)
def test_boxes_in_three_dimensions(format: str, numbers: list[float]) -> None:
    boxes = drawable.boxes3d(message(numbers, format=format, color=[255, 0, 300]))
    assert boxes.centers.tolist() == [[1, 2, 3]]
    assert boxes.half_sizes.tolist() == [[1, 1, 2]]
    assert boxes.colors.tolist() == [[255, 0, 255]]


def test_boxes_come_in_a_struct_of_lists_or_one_struct_each() -> None:
    numbers = np.array([0, 0, 2, 2, 4, 4, 8, 8], np.float32)
    conf = np.array([0.5, 0.876], np.float32)
    lists = message([{"bbox": numbers, "conf": conf, "labels": ["cat", "dog"]}])
    each = message(
        [
            {"bbox": [0.0, 0.0, 2.0, 2.0], "conf": 0.5, "labels": "cat"},
            {"bbox": [4.0, 4.0, 8.0, 8.0], "conf": 0.876, "labels": "dog"},
        ]
    )
    for boxes in map(drawable.boxes2d, (lists, each)):
        assert boxes.centers.tolist() == [[1, 1], [6, 6]]
        assert boxes.labels == ["cat 50%", "dog 88%"]


def test_boxes_may_lack_labels_and_bring_colours() -> None:
    numbers = [0.0, 0, 0, 1, 1, 1]
    boxes = drawable.boxes3d(message([{"bbox": numbers, "colors": [1, 2, 3]}]))
    assert boxes.labels == []
    assert boxes.colors.tolist() == [[1, 2, 3]]
    assert drawable.boxes2d(message([{"bbox": [0.0, 0, 1, 1], "labels": ["a", "b"]}])).labels == []
    assert len(drawable.boxes2d(message(pa.array([], pa.float32()))).centers) == 0


@pytest.mark.parametrize(
    ("value", "metadata", "sentence"),
    [
        ([1.0, 2, 3], {}, "boxes in xyxy are 4 numbers each, and 3 is no multiple"),
        ([1.0, 2, 3, 4], {"format": "xyxz"}, "its `format` is `xyxz`; did you mean `xyxy`?"),
        ([1.0, 2, 3, 4], {"format": 1}, "its `format` is `1`; the viewer knows `xyxy` and `xywh`"),
        ([{"box": [1.0, 2, 3, 4]}], {}, "need the field `bbox`, and it has `box`"),
    ],
)
def test_boxes_of_another_form(value: Any, metadata: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NotDrawable) as caught:
        drawable.boxes2d(message(value, **metadata))
    assert sentence in str(caught.value)


def test_poses_have_seven_six_or_three_numbers() -> None:
    translation, quaternion = drawable.pose(message([1.0, 2, 3, 0, 0, 1, 0]))
    assert translation.tolist() == [1, 2, 3]
    assert quaternion.tolist() == [0, 0, 1, 0]
    assert drawable.pose(message([1.0, 2, 3]))[1].tolist() == [0, 0, 0, 1]
    _, turned = drawable.pose(message([0.0, 0, 0, 0, 0, np.pi / 2]))
    assert turned == pytest.approx([0, 0, 0.5**0.5, 0.5**0.5], abs=1e-6)
    with pytest.raises(NotDrawable, match="and it has 2 numbers"):
        drawable.pose(message([1.0, 2.0]))


def test_colours_and_lists_of_numbers() -> None:
    assert message([1], color=[1, 2, 3]).color() == (1, 2, 3)
    assert message([1], color=[1]).color() is None
    assert message([1]).color() is None
    assert message([1], radius=2).floats("radius") == (2,)
    with pytest.raises(NotDrawable, match="`radii` in its metadata has to be a list of numbers"):
        message([1], radii="big").floats("radii")
