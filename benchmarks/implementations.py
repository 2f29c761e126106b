"""Find the two implementations; make the venv that upstream lives in."""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.runner import Implementation
from dora.ros2.rclpy.find import find_python

REPOSITORY = Path(__file__).parent.parent
UPSTREAM_VERSION = "1.1.0"
DEFAULT_UPSTREAM = REPOSITORY / ".venv-upstream"


@dataclass(frozen=True)
class Rclpy:
    """ROS 2 in Python: an interpreter that has rclpy, and its version with the RMW."""

    python: str
    version: str
    name: str = "rclpy"


def ours() -> Implementation:
    """Return the dora of the interpreter that runs the benchmarks."""
    return Implementation("dora", (sys.executable, "-m", "dora"), Path(sys.prefix))


def add_upstream_venv(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--upstream-venv``."""
    parser.add_argument(
        "--upstream-venv",
        type=Path,
        metavar="FOLDER",
        default=DEFAULT_UPSTREAM,
        help="the venv with dora-rs, made when it does not exist (default: .venv-upstream)",
    )


def upstream(folder: Path = DEFAULT_UPSTREAM) -> Implementation:
    """Return dora-rs from the venv at `folder`, made when it does not exist (100 MB are downloaded).

    numpy and pyarrow get the versions that ours runs with, so that they are no part of the difference.
    Raises SystemExit with a sentence when the venv cannot be made or holds another version.
    """
    folder = Path(os.path.abspath(folder))
    command = folder / "bin" / "dora"
    if not command.exists():
        packages = [
            f"dora-rs=={UPSTREAM_VERSION}",
            f"dora-rs-cli=={UPSTREAM_VERSION}",
            *(f"{name}=={version(name)}" for name in ("numpy", "pyarrow")),
        ]
        print(f"making {folder} with {', '.join(packages)}", file=sys.stderr)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages])
    found = subprocess.run([command, "--version"], capture_output=True, text=True).stdout.split()
    if UPSTREAM_VERSION not in found:
        raise SystemExit(
            f"error: {command} is not dora-rs {UPSTREAM_VERSION}; remove {folder} so that it is made anew."
        )
    return Implementation("dora-rs", (str(command),), folder)


def rclpy() -> Rclpy | None:
    """Return the rclpy of the environment that ``$DORA_ROS2_VENV`` names, or of a sourced ROS.

    None if there is none. `make ros2` makes such an environment in ``.venv-ros2``.
    """
    folder = os.environ.get("DORA_ROS2_VENV")
    python = str(Path(os.path.abspath(folder), "bin", "python")) if folder else find_python()
    if python is None:
        return None
    asked = subprocess.run([python, "-c", _ASK_RCLPY], capture_output=True, text=True, check=False)
    if asked.returncode:
        tail = asked.stderr.strip().splitlines()[-1:]
        raise SystemExit(f"error: {python} has no rclpy that works: {' '.join(tail)}")
    return Rclpy(python, asked.stdout.strip())


_ASK_RCLPY = """
import importlib.metadata, os, rclpy
try:
    version = importlib.metadata.version("ros-rclpy")
except importlib.metadata.PackageNotFoundError:
    version = os.environ.get("ROS_DISTRO", "")
print("rclpy", version, "over", rclpy.get_rmw_implementation_identifier())
"""


def versions() -> dict[str, str]:
    """Return the versions of what takes part on our side, by distribution name."""
    names = ("dora-dataflow", "iceoryx2", "eclipse-zenoh", "pyarrow", "numpy", "msgspec")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        tail = (result.stderr or result.stdout).strip().splitlines()[-3:]
        raise SystemExit(f"error: `{' '.join(command)}` failed: " + " ".join(tail))
