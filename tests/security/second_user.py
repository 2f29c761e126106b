"""Programs that tests start as other users. It takes root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

VICTIM, ATTACKER = 54_322, 54_321  # numbers that belong to nobody

CANNOT = (
    "only root can start programs as another user"
    if os.getuid() != 0
    else "there is no setpriv"
    if shutil.which("setpriv") is None
    else ""
)
needs_second_user = pytest.mark.skipif(bool(CANNOT), reason=CANNOT)


def as_user(user: int, command: Sequence[str]) -> list[str]:
    """Return a command line that runs another one as a user without any rights of root."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", *command]


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a user who has set nothing of dora's."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DORA_", "XDG_")) and name not in ("HOME", "PYTHONPATH")
    }
    return {**kept, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1", **more}


def run(user: int, *arguments: str, env: Mapping[str, str], text: str = "") -> Any:
    """Run a program of Python's as a user, with a text to read, and return what came of it."""
    return subprocess.run(
        as_user(user, [sys.executable, *arguments]),
        env=dict(env),
        cwd="/",
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
