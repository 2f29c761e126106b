"""`make arm64` says in one sentence what it needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools/arm64.sh"

pytestmark = pytest.mark.processes


def refusal(user: int, folder: Path) -> str:
    """Return what a user is told on a machine without any package."""
    (folder / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (folder / "id").chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(TOOL)], env={"PATH": str(folder)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr


def test_only_root_may_make_another_debian(tmp_path: Path) -> None:
    assert refusal(1000, tmp_path) == (
        "make arm64: only root can make and enter another Debian: sudo make arm64\n"
    )


def test_missing_packages_are_named(tmp_path: Path) -> None:
    assert refusal(0, tmp_path) == (
        "make arm64: two packages are missing: apt-get install debootstrap qemu-user-binfmt\n"
    )
