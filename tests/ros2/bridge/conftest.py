"""Dataflows with `ros2:` nodes, in a domain of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE_TESTS = str(Path(__file__).parents[1] / "engines")
if ENGINE_TESTS not in sys.path:  # their helpers
    sys.path.append(ENGINE_TESTS)

from real_ros import ROS_VARIABLES  # noqa: E402
from ros_flow import RosFlow  # noqa: E402
from ros_meeting import engine_params, meeting  # noqa: E402


def _flow(engine: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[RosFlow]:
    with meeting(engine, monkeypatch) as met:
        flow = RosFlow(folder, met)
        yield flow
        flow.close()


@pytest.fixture(params=engine_params(), name="flow")
def _any_flow(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runtime_root: str,  # noqa: ARG001
) -> Iterator[RosFlow]:
    yield from _flow(request.param, monkeypatch, tmp_path)


@pytest.fixture(params=engine_params(("zenoh", "rclpy")), name="serving_flow")
def _serving_flow(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runtime_root: str,  # noqa: ARG001
) -> Iterator[RosFlow]:
    yield from _flow(request.param, monkeypatch, tmp_path)


def _real(engine: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[RosFlow]:
    with meeting(engine, monkeypatch) as met:
        monkeypatch.delenv("CYCLONEDDS_URI", raising=False)
        for name, value in ROS_VARIABLES.items():
            monkeypatch.setenv(name, value)
        flow = RosFlow(folder, met)
        yield flow
        flow.close()


@pytest.fixture(params=["dds", "rclpy"], name="real_flow")
def _real_flow(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runtime_root: str,  # noqa: ARG001
) -> Iterator[RosFlow]:
    yield from _real(request.param, monkeypatch, tmp_path)


@pytest.fixture(name="rclpy_flow")
def _rclpy_flow(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    runtime_root: str,  # noqa: ARG001
) -> Iterator[RosFlow]:
    yield from _real("rclpy", monkeypatch, tmp_path)
