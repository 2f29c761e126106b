"""A tree of transforms: what it finds between two frames, and what it says when there is nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.transforms import (
    FramesNotConnected,
    TimeOutOfRange,
    Transform,
    TransformError,
    TransformTree,
    UnknownFrame,
)

SECOND = 1_000_000_000
HALF = math.sqrt(0.5)
QUARTER_TURN = (0.0, 0.0, HALF, HALF)  # about z, to the left

numbers = st.floats(-10, 10)
rotations = st.tuples(numbers, numbers, numbers, numbers).filter(
    lambda found: sum(number * number for number in found) > 0.01
)
transforms = st.builds(Transform, st.tuples(numbers, numbers, numbers), rotations, st.none())


def message(parent: str, child: str, at: float, x: float) -> dict[str, Any]:
    return {
        "transforms": [
            {
                "header": {
                    "stamp": {"sec": int(at), "nanosec": int((at % 1) * SECOND)},
                    "frame_id": parent,
                },
                "child_frame_id": child,
                "transform": {
                    "translation": {"x": x, "y": 0.0, "z": 0.0},
                    "rotation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
                },
            }
        ]
    }


@pytest.mark.lengthy
@given(transforms, transforms, transforms)
def test_a_way_is_the_product_of_its_matrices(
    first: Transform, second: Transform, other: Transform
) -> None:
    tree = TransformTree()
    tree.set("base", "arm", first)
    tree.set("arm", "hand", second)
    tree.set("base", "camera", other)
    found = tree.lookup("camera", "hand").matrix
    arm, hand, camera = (
        tree.lookup(parent, child).matrix
        for parent, child in [("base", "arm"), ("arm", "hand"), ("base", "camera")]
    )
    assert np.allclose(found, np.linalg.inv(camera) @ arm @ hand, atol=1e-6)


@given(transforms)
def test_there_and_back_is_the_same_place(transform: Transform) -> None:
    tree = TransformTree()
    tree.set("base", "arm", transform)
    there, back = tree.lookup("base", "arm"), tree.lookup("arm", "base")
    points = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert np.allclose(back.apply(there.apply(points)), points, atol=1e-6)
    assert np.allclose(there.inverse().matrix, back.matrix, atol=1e-6)


def test_a_frame_in_itself_moves_nothing() -> None:
    tree = TransformTree()
    tree.set("base", "arm", Transform((1.0, 2.0, 3.0)))
    assert tree.lookup("arm", "arm") == Transform()


def test_between_two_times_it_turns_at_one_speed() -> None:
    tree = TransformTree()
    tree.set("base", "arm", Transform(time_ns=0))
    tree.set("base", "arm", Transform((3.0, 0.0, 0.0), QUARTER_TURN, SECOND))
    found = tree.lookup("base", "arm", SECOND // 3)
    assert found.translation == pytest.approx((1.0, 0.0, 0.0))
    assert found.rotation == pytest.approx((0.0, 0.0, math.sin(math.pi / 12), math.cos(math.pi / 12)))


def test_both_signs_of_a_quaternion_are_one_rotation() -> None:
    tree = TransformTree()
    tree.set("base", "arm", Transform(rotation=(0.0, 0.0, 0.0, 1.0), time_ns=0))
    tree.set("base", "arm", Transform(rotation=(0.0, 0.0, 0.0, -1.0), time_ns=SECOND))
    rotation = np.abs(tree.lookup("base", "arm", SECOND // 2).rotation)
    assert np.allclose(rotation, (0.0, 0.0, 0.0, 1.0))


def test_the_latest_time_is_one_that_the_whole_way_knows() -> None:
    tree = TransformTree()
    tree.update(message("base", "arm", 1.0, 1.0))
    tree.update(message("base", "arm", 3.0, 3.0))
    tree.update(message("arm", "hand", 1.0, 0.0))
    tree.update(message("arm", "hand", 2.0, 0.0))
    tree.update(message("hand", "tip", 0.0, 0.5), static=True)
    found = tree.lookup("base", "tip")
    assert found.time_ns == 2 * SECOND
    assert found.translation == pytest.approx((2.5, 0.0, 0.0))


def test_messages_come_as_arrow_or_as_mappings() -> None:
    tree = TransformTree()
    assert tree.update(pa.array([message("base", "arm", 1.5, 1.0)])) == 1
    assert tree.update(message("/base", "/camera", 1.5, 2.0)) == 1
    assert tree.parents == {"arm": "base", "camera": "base"}
    assert tree.lookup("camera", "arm").translation == pytest.approx((-1.0, 0.0, 0.0))


def test_only_the_last_seconds_are_kept() -> None:
    tree = TransformTree(keep=2.0)
    for at in range(100):
        tree.update(message("base", "arm", at, float(at)))
    assert tree.lookup("base", "arm", 98 * SECOND).translation[0] == 98.0
    with pytest.raises(TimeOutOfRange, match="earlier than the oldest transform of frame `arm`") as caught:
        tree.lookup("base", "arm", 50 * SECOND)
    assert 90 * SECOND < caught.value.earliest_ns <= 97 * SECOND
    assert caught.value.latest_ns == 99 * SECOND
    tree.update(message("base", "arm", 3.0, 3.0))
    with pytest.raises(TimeOutOfRange):
        tree.lookup("base", "arm", 3 * SECOND)


def test_what_comes_late_is_sorted_in() -> None:
    tree = TransformTree()
    for at in (1.0, 3.0, 2.0, 2.0):
        tree.update(message("base", "arm", at, at * at))
    assert tree.lookup("base", "arm", 2 * SECOND).translation[0] == 4.0
    assert tree.lookup("base", "arm", 5 * SECOND // 2).translation[0] == pytest.approx(6.5)


def test_a_later_time_is_not_guessed() -> None:
    tree = TransformTree()
    tree.update(message("base", "arm", 1.0, 1.0))
    with pytest.raises(TimeOutOfRange, match=r"`base` from `arm`: 0\.500 s later than the newest"):
        tree.lookup("base", "arm", 3 * SECOND // 2)


def test_a_frame_that_never_came_is_named_with_one_that_is_near() -> None:
    tree = TransformTree()
    tree.set("base_link", "arm", Transform())
    with pytest.raises(UnknownFrame, match="`base_lnk` has come; did you mean `base_link`"):
        tree.lookup("base_lnk", "arm")


def test_frames_of_two_trees_are_not_connected() -> None:
    tree = TransformTree()
    tree.set("map", "robot", Transform())
    tree.set("desk", "cup", Transform())
    with pytest.raises(FramesNotConnected, match="`cup` lies in `desk`, and `robot` in `map`"):
        tree.lookup("robot", "cup")


def test_frames_do_not_go_in_a_circle() -> None:
    tree = TransformTree()
    tree.set("a", "b", Transform())
    tree.set("b", "c", Transform())
    with pytest.raises(TransformError, match="`a` cannot lie in `c`"):
        tree.set("c", "a", Transform())
    with pytest.raises(TransformError, match="`a` cannot lie in `a`"):
        tree.set("a", "a", Transform())


def test_another_parent_forgets_the_former_transforms() -> None:
    tree = TransformTree()
    tree.update(message("table", "cup", 1.0, 1.0))
    tree.update(message("hand", "cup", 2.0, 0.0))
    assert tree.parents == {"cup": "hand"}
    with pytest.raises(TimeOutOfRange):
        tree.lookup("hand", "cup", SECOND)


@pytest.mark.parametrize(
    "transform",
    [
        Transform((math.nan, 0.0, 0.0)),
        Transform(rotation=(0.0, 0.0, 0.0, 0.0)),
        Transform((1.0, 2.0)),  # type: ignore[arg-type]
        Transform(("a", "b", "c")),  # type: ignore[arg-type]
        Transform(rotation=(math.inf, 0.0, 0.0, 1.0)),
    ],
)
def test_numbers_that_are_no_transform_are_refused(transform: Transform) -> None:
    tree = TransformTree()
    with pytest.raises(TransformError, match=r"frame `arm`: .* is no transform"):
        tree.set("base", "arm", transform)
    assert tree.parents == {}


@pytest.mark.parametrize("content", [{}, {"transforms": [{}]}, {"transforms": 3}, 7])
def test_another_message_is_refused(content: object) -> None:
    with pytest.raises(TransformError, match="no `tf2_msgs/msg/TFMessage`"):
        TransformTree().update(content)
