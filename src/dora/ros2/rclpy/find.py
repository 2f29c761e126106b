"""Finds the Python that has rclpy."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from typing import Final

PYTHON_VARIABLE: Final = "DORA_ROS2_PYTHON"
PREFIX_VARIABLE: Final = "AMENT_PREFIX_PATH"  # set by the setup file of ROS
_SYSTEM_PYTHON: Final = "/usr/bin/python3"
_PROBE_TIMEOUT: Final = 30.0  # seconds; a board loads rclpy from a card


def find_python() -> str | None:
    """Return the interpreter that has rclpy, None if there is none.

    ``$DORA_ROS2_PYTHON`` if it is set; else, where the setup file of a ROS was sourced, the first
    ``python3`` of ``PATH`` that can import rclpy, or the one of the system.
    """
    chosen = os.environ.get(PYTHON_VARIABLE)
    if chosen:
        return chosen
    if not os.environ.get(PREFIX_VARIABLE):
        return None
    path = os.environ.get("PATH", os.defpath)
    folders = [*path.split(os.pathsep), os.path.dirname(_SYSTEM_PYTHON)]
    found = dict.fromkeys(shutil.which("python3", path=folder) for folder in folders)
    return next((python for python in found if python is not None and _has_rclpy(python)), None)


@cache
def _has_rclpy(python: str) -> bool:
    try:
        probe = subprocess.run(
            [python, "-c", "import rclpy"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PROBE_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0
