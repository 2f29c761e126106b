"""Contexts of the Python interface that meet each other, and no other test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ENGINE_TESTS = str(Path(__file__).parents[1] / "engines")
if ENGINE_TESTS not in sys.path:  # their helpers
    sys.path.insert(0, ENGINE_TESTS)

import pytest  # noqa: E402
from real_ros import ROS_VARIABLES  # noqa: E402
from ros_meeting import Meeting, engine_params, meeting, ros_python  # noqa: E402

from dora import Ros2Context, Ros2Transport  # noqa: E402


class Robot:
    """A domain on one transport, in which contexts meet."""

    def __init__(self, met: Meeting) -> None:
        self.engine = met.engine
        self.domain = met.domain
        self._contexts: list[Ros2Context] = []

    @property
    def transport(self) -> Ros2Transport:
        return Ros2Transport.zenoh("rep2016") if self.engine == "zenoh" else Ros2Transport(self.engine)

    @property
    def fibonacci(self) -> str:
        """The type of an action that the engine has."""
        return "test_msgs/Fibonacci" if self.engine == "rclpy" else "example_interfaces/Fibonacci"

    def context(self, paths: list[Path] | None = None) -> Ros2Context:
        """Open a context; it is closed at the end. ``paths``: of types."""
        if paths is None:
            paths = [ros_python().parents[1] / "share"] if self.engine == "rclpy" else []
        context = Ros2Context(paths, self.transport, self.domain)
        self._contexts.append(context)
        return context

    def close(self) -> None:
        for context in self._contexts:
            context.close()


def _robot(engine: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    with meeting(engine, monkeypatch) as met:
        robot = Robot(met)
        yield robot
        robot.close()


@pytest.fixture(params=engine_params(), name="robot")
def _any_robot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    yield from _robot(request.param, monkeypatch)


@pytest.fixture(params=engine_params(("zenoh", "rclpy")), name="serving_robot")
def _serving_robot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    yield from _robot(request.param, monkeypatch)


@pytest.fixture(params=engine_params(("dds",)), name="dds_robot")
def _dds_robot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    yield from _robot(request.param, monkeypatch)


@pytest.fixture(name="real_robot")
def _real_robot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Robot]:
    """A domain that a real rclpy is in, too; the parameter is an engine."""
    with meeting(request.param, monkeypatch) as met:
        monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
        for name, value in ROS_VARIABLES.items():
            monkeypatch.setenv(name, value)
        robot = Robot(met)
        yield robot
        robot.close()
