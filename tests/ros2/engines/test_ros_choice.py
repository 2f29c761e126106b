"""Which engine a context takes by itself, and why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dora.errors import ConnectError
from dora.ros2 import choose as module
from dora.ros2.choose import choose
from dora.ros2.rclpy.find import find_python


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages and ROS that are here, for a test to change."""
    found = {"zenoh", "xxhash", "cyclonedds"}
    monkeypatch.setattr(module, "_has", lambda package: package in found)
    monkeypatch.setattr(module, "find_python", lambda: "/ros/python3" if "ros" in found else None)
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    return found


@pytest.mark.parametrize(
    ("transport", "rmw", "services", "engine", "reason"),
    [
        (None, "", False, "dds", "DDS is the default of ROS: Cyclone DDS carries topics"),
        (None, "rmw_zenoh_cpp", True, "zenoh", "$RMW_IMPLEMENTATION is rmw_zenoh_cpp: Zenoh carries"),
        (None, "rmw_fastrtps_cpp", False, "dds", "$RMW_IMPLEMENTATION is rmw_fastrtps_cpp: Cyclone"),
        ("zenoh", "rmw_fastrtps_cpp", True, "zenoh", "`zenoh` is asked for"),
        ("dds", "rmw_zenoh_cpp", False, "dds", "`dds` is asked for"),
        ("dds", "", True, "rclpy", "`dds` is asked for: services over DDS need rclpy, and a ROS is here"),
        ("rclpy", "", False, "rclpy", "`rclpy` is asked for"),
    ],
)
def test_the_engine_follows_from_the_transport_the_rmw_and_services(
    here: set[str],
    monkeypatch: pytest.MonkeyPatch,
    transport: str | None,
    rmw: str,
    services: bool,
    engine: str,
    reason: str,
) -> None:
    here.add("ros")
    monkeypatch.setenv("RMW_IMPLEMENTATION", rmw)
    choice = choose(transport, services=services)
    assert choice.engine == engine
    assert choice.reason.startswith(reason)


def test_a_board_without_cyclone_takes_the_ros_that_is_there(here: set[str]) -> None:
    here.discard("cyclonedds")
    here.add("ros")
    assert choose().reason == (
        "DDS is the default of ROS: Cyclone DDS is not here (it is for x86-64), and a ROS is here"
    )


def test_what_is_missing_is_told_with_the_way_out(here: set[str]) -> None:
    with pytest.raises(
        ConnectError, match="services, actions and parameters over DDS need a ROS installation"
    ):
        choose(services=True)
    here.discard("cyclonedds")
    with pytest.raises(
        ConnectError, match=r'needs Cyclone DDS \(x86-64: pip install "dora-dataflow\[ros2\]"\)'
    ):
        choose("dds")
    here.discard("zenoh")
    with pytest.raises(
        ConnectError, match=r'over Zenoh needs packages .*pip install "dora-dataflow\[ros2\]"'
    ):
        choose("zenoh")
    with pytest.raises(ConnectError, match="`tcp` is no transport of ROS 2"):
        choose("tcp")


def test_a_named_python_is_taken_for_rclpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DORA_ROS2_PYTHON", raising=False)
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    assert find_python() is None
    monkeypatch.setenv("DORA_ROS2_PYTHON", "/opt/ros/python3")
    assert find_python() == "/opt/ros/python3"


@pytest.mark.processes
def test_of_a_sourced_ros_the_first_python_with_rclpy_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder, code in (("without", 1), ("with", 0), ("later", 0)):
        python = tmp_path / folder / "python3"
        python.parent.mkdir()
        python.write_text(f"#!/bin/sh\nexit {code}\n")
        python.chmod(0o755)
    monkeypatch.delenv("DORA_ROS2_PYTHON", raising=False)
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/kilted")
    monkeypatch.setenv("PATH", ":".join(str(tmp_path / name) for name in ("without", "with", "later")))
    assert find_python() == str(tmp_path / "with" / "python3")


@pytest.mark.processes
def test_a_python_that_has_no_rclpy_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dora.ros2.rclpy.context import open_context

    monkeypatch.setenv("DORA_ROS2_PYTHON", sys.executable)
    with pytest.raises(
        ConnectError, match=r"the rclpy of .* cannot start: ModuleNotFoundError: No module named"
    ):
        open_context(1)
    monkeypatch.setenv("DORA_ROS2_PYTHON", str(tmp_path / "none"))
    with pytest.raises(ConnectError, match="cannot be started for rclpy: No such file"):
        open_context(1)
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexit 3\n")
    silent.chmod(0o755)
    monkeypatch.setenv("DORA_ROS2_PYTHON", str(silent))
    with pytest.raises(ConnectError, match="ended, or said nothing, when it started rclpy"):
        open_context(1)
