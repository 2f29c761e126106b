"""Describe the conditions of a measurement: machine, system, versions, command."""

import datetime
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.implementations import UPSTREAM_VERSION, versions


def conditions(
    module: str, started: datetime.datetime, repeat: int, quick: bool = False, rclpy: str = ""
) -> dict[str, str]:
    """Return what a reader must know to judge the figures, or to get them again.

    ``module``: what ``python -m`` runs, with the options of this process. ``rclpy``: its version.
    """
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "") if sys.platform == "linux" else ""
    switches = {name: value for name, value in sorted(os.environ.items()) if name.startswith("DORA_")}
    switches.pop("DORA_ROS2_VENV", None)  # a place on this machine; its version is told
    found = {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "date": started.strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_memory()}",
        "system": ", ".join(filter(None, [system, f"{platform.system()} {platform.release()}"])),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "compared with": f"dora-rs and dora-rs-cli {UPSTREAM_VERSION} with their defaults, "
        "same Python, pyarrow and numpy" + (f"; {rclpy}, reliable" if rclpy else ""),
        "figures": f"median over {repeat} repetitions in turn (lowest–highest; "
        "p99: median of the repetitions' 99th percentiles); "
        "times better: median of the ratios of neighbouring runs",
    }
    if quick:
        found["caution"] = "a quick look with a tenth of the messages"
    if switches:
        found["environment"] = " ".join(f"{name}={value}" for name, value in switches.items())
    return found


def short(known: Mapping[str, str], *more: str) -> list[str]:
    """Return the lines of a page about one measurement: command, date, machine, and ``more`` of them."""
    return [f"- {key}: {known[key]}" for key in ("command", "date", "machine", "system", "Python", *more)]


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB of memory"
