"""What Rerun gets to draw of each primitive. Skipped where Rerun is not installed."""

# ruff: noqa: E402 - without it nothing of this can be imported

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

rr = pytest.importorskip("rerun")

from rrd import last, read

from dora.nodes.rerun.drawing import DRAWERS, POINT_RADIUS
from dora.nodes.rerun.robot import Robots, _clamped
from dora.nodes.rerun.settings import RobotSetting, SettingError
from dora.observe.preview.drawable import PRIMITIVES, DrawableMessage, NotDrawable
from dora.wire.image_encodings import IMAGE_ENCODINGS

ARM = """
<robot name="model">
  <link name="base"><visual><geometry><box size="1 1 1"/></geometry></visual></link>
  <link name="upper"/><link name="left"/><link name="right"/><link name="tip"/>
  <joint name="shoulder" type="revolute">
    <parent link="base"/><child link="upper"/><origin xyz="0 0 0.5"/><axis xyz="0 0 1"/>
    <limit lower="-1" upper="1" effort="1" velocity="1"/>
  </joint>
  <joint name="bolt" type="fixed"><parent link="upper"/><child link="tip"/></joint>
  <joint name="to_left" type="prismatic">
    <parent link="upper"/><child link="left"/><axis xyz="0 1 0"/>
    <limit lower="0" upper="0.5" effort="1" velocity="1"/>
  </joint>
  <joint name="to_right" type="prismatic">
    <parent link="upper"/><child link="right"/><axis xyz="0 -1 0"/>
    <limit lower="0" upper="0.5" effort="1" velocity="1"/><mimic joint="to_left" multiplier="2"/>
  </joint>
</robot>
"""


@pytest.fixture(autouse=True)
def strict() -> None:
    rr.set_strict_mode(True)


@pytest.fixture
def drawn(tmp_path: Path) -> Any:
    """Return a function that draws a message and returns the entities that it made."""

    def draw(primitive: str, value: Any, **metadata: Any) -> dict[str, Any]:
        recording = rr.RecordingStream("test")
        recording.save(tmp_path / "drawn.rrd")
        array = value if isinstance(value, pa.Array) else pa.array(value)
        for entity, archetypes in DRAWERS[primitive](DrawableMessage("x", array, metadata)):
            recording.log(entity, *archetypes)
        recording.flush(timeout_sec=10)
        recording.disconnect()
        entities = read(tmp_path / "drawn.rrd")
        return {entity: last(entities, entity) for entity in entities}

    return draw


def test_every_primitive_is_drawn() -> None:
    assert {*DRAWERS, "jointstate"} == set(PRIMITIVES)


@pytest.mark.parametrize("encoding", sorted(IMAGE_ENCODINGS))
def test_every_image_encoding_is_accepted(drawn: Any, encoding: str) -> None:
    size = {"mono8": 8, "mono16": 16, "yuv420": 12, "nv12": 12, "yuyv": 16, "bgra8": 32, "rgba8": 32}
    data = np.arange(size.get(encoding, 24), dtype=np.uint8)
    image = drawn("image", data, width=4, height=2, encoding=encoding)["x"]
    (buffer,) = image.get("Image:buffer") or image["EncodedImage:blob"]
    assert bytes(buffer) == data.tobytes()
    if "Image:format" in image:
        (form,) = image["Image:format"]
        assert (form["width"], form["height"]) == (4, 2)


def test_depth_has_a_camera_if_its_metadata_describes_one(drawn: Any) -> None:
    bare = drawn("depth", np.ones(8), width=4, height=2)
    assert bare["x/raw"]["DepthImage:meter"] == [1.0]
    assert "x" not in bare

    image = np.full(8, 1500, np.uint16)
    seen = drawn(
        "depth",
        image,
        width=4,
        height=2,
        focal=[600, 500],
        resolution=[1, 1],
        camera_position=[1.0, 2, 3],
        camera_orientation=[0.0, 0, 1, 0],
    )
    assert seen["x/raw"]["DepthImage:meter"] == [1000.0]
    assert seen["x"]["Pinhole:image_from_camera"] == [[600, 0, 0, 0, 500, 0, 1, 1, 1]]
    assert seen["x"]["Transform3D:translation"] == [[1, 2, 3]]
    assert seen["x"]["Transform3D:quaternion"] == [[0, 0, 1, 0]]

    turned = drawn("depth", np.ones(8), width=4, height=2, focal=[600], camera_orientation=[0.0, 0, 1, 0])
    assert turned["x"]["Transform3D:translation"] == [[0, 0, 0]]


def test_boxes_have_labels_and_an_empty_array_clears_them(drawn: Any) -> None:
    boxes = drawn("boxes2d", [{"bbox": [0.0, 0, 2, 4], "conf": [0.5], "labels": ["cat"]}])["x"]
    assert boxes["Boxes2D:centers"] == [[1, 2]]
    assert boxes["Boxes2D:half_sizes"] == [[1, 2]]
    assert boxes["Boxes2D:labels"] == ["cat 50%"]
    assert drawn("boxes2d", [0.0, 0, 2, 4])["x"]["Boxes2D:labels"] == []
    assert drawn("boxes2d", pa.array([], pa.float32()))["x"] == {"Clear:is_recursive": [False]}
    assert drawn("boxes3d", pa.nulls(0))["x"] == {"Clear:is_recursive": [False]}

    cubes = drawn("boxes3d", [0, 0, 0, 2, 2, 2], format="min_max", color=[255, 0, 0])
    assert cubes["x"]["Boxes3D:centers"] == [[1, 1, 1]]
    assert cubes["x"]["Boxes3D:colors"] == [0xFF0000FF]
    solid = drawn("boxes3d", [0, 0, 0, 2, 2, 2], solid=True)["x"]["Boxes3D:fill_mode"]
    assert solid != cubes["x"]["Boxes3D:fill_mode"]


def test_masks_are_regions(drawn: Any) -> None:
    masks = drawn("masks", [True, False, False, True], width=2, height=2)["x"]
    assert np.frombuffer(bytes(masks["SegmentationImage:buffer"][0]), np.uint16).tolist() == [1, 0, 0, 1]
    assert drawn("masks", pa.nulls(0))["x"] == {"Clear:is_recursive": [False]}


def test_points_and_lines(drawn: Any) -> None:
    points = drawn("points3d", [1.0, 2, 3, 4, 5, 6], color=[0, 255, 0], radii=[0.5, 0.25])["x"]
    assert points["Points3D:positions"] == [[1, 2, 3], [4, 5, 6]]
    assert points["Points3D:colors"] == [0x00FF00FF]
    assert points["Points3D:radii"] == [0.5, 0.25]
    odd = drawn("points3d", [1.0, 2, 3, 4, 5, 6], radii=[0.5, 0.5, 0.5])["x"]
    assert odd["Points3D:radii"] == [pytest.approx(POINT_RADIUS)], "three radii are not those of two points"
    assert drawn("points2d", [1.0, 2])["x"] == {"Points2D:positions": [[1, 2]]}
    line = drawn("lines3d", [0.0, 0, 0, 1, 1, 1], radius=0.5)["x"]
    assert line["LineStrips3D:strips"] == [[[0, 0, 0], [1, 1, 1]]]
    assert line["LineStrips3D:radii"] == [0.5]
    assert drawn("lines2d", [0.0, 0, 1, 1])["x"]["LineStrips2D:strips"] == [[[0, 0], [1, 1]]]


def test_texts_curves_and_poses(drawn: Any) -> None:
    assert drawn("text", ["hello"])["x"]["TextLog:text"] == ["hello"]
    assert drawn("series", [1, 2])["x"]["Scalars:scalars"] == [1, 2]
    pose = drawn("pose", [1.0, 2, 3, 0, 0, 0, 1])["x"]
    assert pose["Transform3D:translation"] == [[1, 2, 3]]
    assert pose["Transform3D:quaternion"] == [[0, 0, 0, 1]]


@pytest.fixture
def recording() -> Any:
    return rr.RecordingStream("test")


def test_a_robot_moves_its_joints_in_order_and_within_their_limits(tmp_path: Path, recording: Any) -> None:
    (tmp_path / "model.urdf").write_text(ARM)
    path = str(tmp_path / "model.urdf")
    robots = Robots([RobotSetting("arm", path, (1, 2, 3)), RobotSetting("twin", path)], recording)

    def first(batch: Any) -> Any:
        return batch.as_arrow_array().to_pylist()[0]

    def moved(name: str, *positions: float) -> dict[str, list[float]]:
        drawings = robots.draw(DrawableMessage(name, pa.array(positions, pa.float64()), {}))
        transforms = [archetypes[0] for _, archetypes in drawings]
        return {first(item.child_frame): first(item.translation) for item in transforms}

    assert moved("jointstate_arm", 0.1, 0.2, 99) == {
        "arm/upper": [0, 0, 0.5],
        "arm/left": pytest.approx([0, 0.2, 0]),
        "arm/right": pytest.approx([0, -0.4, 0]),
    }
    assert moved("twin", 0, 9)["twin/left"] == [0, 0.5, 0]
    assert moved("twin")["twin/left"] == [0, 0, 0]
    with pytest.raises(NotDrawable, match=r"no variable `leg_urdf` gives a robot .* there are `arm` and"):
        list(robots.draw(DrawableMessage("jointstate_leg", pa.array([1.0]), {})))
    with pytest.raises(NotDrawable, match="its `encoding` is `xyzquat`; positions of joints"):
        list(robots.draw(DrawableMessage("arm", pa.array([1.0]), {"encoding": "xyzquat"})))


def test_joints_of_a_branch_come_before_those_of_the_next_and_mimics_have_an_offset(
    tmp_path: Path, recording: Any
) -> None:
    def slide(name: str, parent: str, child: str, more: str = "") -> str:
        return (
            f'<joint name="{name}" type="prismatic"><parent link="{parent}"/><child link="{child}"/>'
            f'<axis xyz="1 0 0"/><limit lower="-9" upper="9" effort="1" velocity="1"/>{more}</joint>'
        )

    links = "".join(f'<link name="{name}"/>' for name in ("base", "a", "tip", "thumb", "b", "c"))
    mimic = '<mimic joint="second" multiplier="2" offset="0.25"/>'
    joints = [slide("first", "base", "a"), slide("third", "base", "b"), slide("second", "a", "tip")]
    joints += [slide("next", "a", "thumb"), slide("last", "b", "c", mimic)]
    (tmp_path / "hand.urdf").write_text(f'<robot name="hand">{links}{"".join(joints)}</robot>')
    robots = Robots([RobotSetting("hand", str(tmp_path / "hand.urdf"))], recording)
    drawings = robots.draw(DrawableMessage("hand", pa.array([1.0, 2, 3, 4]), {}))
    moved = {}
    for _, (transform,) in drawings:
        (frame,), (translation,) = (
            batch.as_arrow_array().to_pylist() for batch in (transform.child_frame, transform.translation)
        )
        moved[frame] = translation[0]
    assert moved == {"hand/a": 1, "hand/tip": 2, "hand/thumb": 3, "hand/b": 4, "hand/c": 4.25}


@pytest.mark.parametrize(
    ("kind", "upper", "position"),
    [("revolute", 1.0, 1.0), ("revolute", -1.0, 5.0), ("continuous", 1.0, 5.0)],
)
def test_a_joint_without_limits_is_not_held(kind: str, upper: float, position: float) -> None:
    joint: Any = SimpleNamespace(joint_type=kind, limit_lower=-1.0, limit_upper=upper)
    assert _clamped(joint, 5.0) == position


@pytest.mark.parametrize(
    ("urdf", "sentence"),
    [
        ("nowhere.urdf", "arm_urdf: there is no file .*nowhere.urdf"),
        (sys.executable, "cannot be used as a robot"),
        ("no_such_description", "arm_urdf: .*robot_descriptions"),
    ],
)
def test_a_robot_that_cannot_be_read(recording: Any, urdf: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        Robots([RobotSetting("arm", urdf)], recording)
