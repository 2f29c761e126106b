"""A /dev/shm of a test's own, in a mount namespace of its own: to be small, or full."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

_MOUNT = 'mount -t tmpfs -o mode=1777,size="$0" none /dev/shm && exec "$@"'


def within_own_shm(size: str, *command: str) -> list[str]:
    """Return a command that runs another one with a /dev/shm of this size, such as "8m"."""
    return ["unshare", "-m", "sh", "-c", _MOUNT, size, *command]


def _can_mount() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return subprocess.run(within_own_shm("1m", "true"), capture_output=True, check=False).returncode == 0


needs_own_shm = pytest.mark.skipif(not _can_mount(), reason="needs root and a private mount namespace")
