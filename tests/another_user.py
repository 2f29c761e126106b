"""A second user of the machine, for tests of what others may do."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

USER = 54321


@cache
def interpreter() -> str:
    """Return a Python that this user may run, "" if there is none. Its standard library is enough."""
    outside = os.path.realpath(sys.executable)  # of a virtual environment in a folder of root
    for program in (sys.executable, outside, "/usr/bin/python3", "/usr/local/bin/python3"):
        try:
            subprocess.run([program, "-c", ""], check=True, capture_output=True, **identity())
        except (OSError, subprocess.CalledProcessError):
            continue
        return program
    return ""


def identity() -> dict[str, Any]:
    """Return what makes a process of `subprocess` one of this user; none of its own if only root can."""
    who = {"user": USER, "group": USER, "extra_groups": ()} if os.geteuid() == 0 else {}
    return {**who, "cwd": "/", "env": {"PATH": "/usr/bin:/bin"}}


NEEDS_ANOTHER_USER = pytest.mark.skipif(
    os.geteuid() != 0 or not interpreter(), reason="only root can be another user, with a Python to run"
)


def run_as_another_user(script: str, *arguments: str, given: str = "") -> str:
    """Run a script as this user, and return what it prints."""
    command = [interpreter(), "-c", script, *arguments]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, **identity())
    assert done.returncode == 0, done.stderr
    return done.stdout
