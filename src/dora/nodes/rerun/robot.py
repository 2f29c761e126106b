"""Robots from URDF files, moved by ``jointstate`` messages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import rerun as rr
from rerun.urdf import UrdfJoint, UrdfTree

from dora.dataflow.problems import listed
from dora.nodes.rerun.drawing import Drawing
from dora.nodes.rerun.settings import RobotSetting, SettingError
from dora.observe.preview import drawable
from dora.observe.preview.drawable import DrawableMessage, NotDrawable

PREFIX = "jointstate_"


class Robot:
    """A robot in the viewer, below the entity of its name."""

    def __init__(self, setting: RobotSetting, recording: rr.RecordingStream) -> None:
        """Read and draw a robot at rest; raises `SettingError`.

        Frames of reference get the robot's name as a prefix, so that two robots of one kind can stand
        beside each other.
        """
        self.name = setting.name
        self._frames = f"{setting.name}/"
        path = _file(setting)
        try:
            tree = UrdfTree.from_file_path(
                path,
                entity_path_prefix=setting.name,
                frame_prefix=self._frames,
                static_transform_entity_path=f"{setting.name}/rest",
            )
            tree.log_urdf_to_recording(recording)
        except (ValueError, RuntimeError, OSError) as error:
            raise SettingError(f"{setting.name}_urdf: {path} cannot be used as a robot: {error}") from None
        joints = tree.joints()
        self._movable = [joint for joint in _in_order(joints, tree.root_link().name) if _moves(joint)]
        self._mimics = [joint for joint in joints if joint.mimic is not None]
        recording.log(
            setting.name,
            rr.Transform3D(
                translation=setting.translation,
                quaternion=rr.Quaternion(xyzw=setting.quaternion),
                child_frame=f"{self._frames}{tree.root_link().name}",
                parent_frame="tf#/",
            ),
            static=True,
        )

    def pose(self, positions: Iterable[float]) -> Iterator[rr.Transform3D]:
        """Return the transform of each movable joint, in the order of the message.

        Too few positions leave the others at 0, further ones are not used. Positions beyond a joint's
        limits are moved to the limit.
        """
        given = iter(positions)
        by_name: dict[str, float] = {}
        for joint in self._movable:
            by_name[joint.name] = _clamped(joint, next(given, 0.0))
            yield joint.compute_transform(by_name[joint.name], clamp=False)
        for joint in self._mimics:
            mimic = joint.mimic
            assert mimic is not None
            position = mimic.multiplier * by_name.get(mimic.joint, 0.0) + mimic.offset
            yield joint.compute_transform(_clamped(joint, position), clamp=False)


class Robots:
    """The robots of a viewer."""

    def __init__(self, settings: Iterable[RobotSetting], recording: rr.RecordingStream) -> None:
        """Draw all robots; raises `SettingError`."""
        self._robots: Mapping[str, Robot] = {
            setting.name: Robot(setting, recording) for setting in settings
        }

    def draw(self, message: DrawableMessage) -> Iterable[Drawing]:
        """Move the robot that is named by the input: ``jointstate_<name>``, or just its name."""
        name = message.id.replace(PREFIX, "")
        robot = self._robots.get(name)
        if robot is None:
            known = f"there are {listed(self._robots)}" if self._robots else "there is none"
            raise NotDrawable(f"no variable `{name}_urdf` gives a robot of that name; {known}")
        encoding = message.metadata.get("encoding", "jointstate")
        if encoding != "jointstate":  # such a node sends poses on the same output, too
            raise NotDrawable(f"its `encoding` is `{encoding}`; positions of joints are a `jointstate`")
        positions = drawable.numbers(message.value).astype(float).tolist()
        for number, transform in enumerate(robot.pose(positions)):
            yield f"{name}/joints/{number}", [transform]


def _file(setting: RobotSetting) -> str:
    path = os.path.expanduser(setting.urdf)
    if os.path.isfile(path):
        return path
    if not path.endswith("_description"):
        raise SettingError(f"{setting.name}_urdf: there is no file {os.path.abspath(path)}")
    return _described(setting)


def _described(setting: RobotSetting) -> str:
    """Fetch a robot by its name in the package robot_descriptions."""
    from importlib import import_module

    try:
        module: Any = import_module(f"robot_descriptions.{setting.urdf}")
        return str(module.URDF_PATH)
    except ModuleNotFoundError as error:
        if error.name != "robot_descriptions":
            raise SettingError(
                f"{setting.name}_urdf: there is no file `{setting.urdf}`, and no such robot in "
                "robot_descriptions"
            ) from None
        raise SettingError(
            f"{setting.name}_urdf: `{setting.urdf}` is found by the package robot_descriptions; "
            "install it with: pip install robot_descriptions"
        ) from None
    except Exception as error:  # noqa: BLE001 - it runs git, and whatever it needs may fail
        raise SettingError(f"{setting.name}_urdf: `{setting.urdf}` cannot be fetched: {error}") from None


def _in_order(joints: Iterable[UrdfJoint], root: str) -> Iterator[UrdfJoint]:
    """Return joints from the root outwards, each limb to its end: the order of existing dataflows."""
    children: dict[str, list[UrdfJoint]] = {}
    for joint in joints:
        children.setdefault(joint.parent_link, []).append(joint)
    waiting = children.get(root, [])[::-1]
    while waiting:
        joint = waiting.pop()
        yield joint
        waiting += children.get(joint.child_link, [])[::-1]


def _moves(joint: UrdfJoint) -> bool:
    return joint.mimic is None and joint.joint_type in ("revolute", "continuous", "prismatic")


def _clamped(joint: UrdfJoint, position: float) -> float:
    lower: float = joint.limit_lower
    upper: float = joint.limit_upper
    if joint.joint_type == "continuous" or lower >= upper:
        return position
    return min(max(position, lower), upper)
