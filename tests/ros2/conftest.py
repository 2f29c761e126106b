"""Fixtures of the tests of ROS 2."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_ros import VARIABLE, RealRos, folder, remove_shared_memory

from dora.ros2 import InterfaceLibrary


@pytest.fixture(autouse=True)
def _no_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a ROS of this machine change nothing."""
    for name in ("AMENT_PREFIX_PATH", "ROS_DISTRO", "ROS_DOMAIN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _no_shared_memory_of_ros() -> Iterator[None]:
    """Leave nothing behind of processes with ROS that tests have killed."""
    yield
    if folder() is not None:
        remove_shared_memory()


@pytest.fixture(scope="session")
def library() -> InterfaceLibrary:
    """The types of the standard packages."""
    return InterfaceLibrary(prefixes=[], distribution="kilted")


@pytest.fixture(scope="session")
def ros_folder() -> Path:
    """The environment with a real ROS 2 that `make ros2` makes."""
    found = folder()
    if found is None:
        pytest.fail(f"{VARIABLE} names no environment with ROS: `make ros2` makes one")
    return found


@pytest.fixture(scope="session")
def real_types(ros_folder: Path) -> InterfaceLibrary:
    """The types of the real installation."""
    return InterfaceLibrary(prefixes=[ros_folder])


@pytest.fixture(scope="session")
def real_ros(ros_folder: Path) -> Iterator[RealRos]:  # noqa: ARG001
    """A process with rclpy that answers questions."""
    with RealRos() as ros:
        yield ros
