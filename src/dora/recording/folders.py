"""Folders for as long as a process lives. What a killed one left is removed by the next one."""

from __future__ import annotations

import os
import re
import shutil
import tempfile


def make_folder(kind: str, place: str = "") -> str:
    """Return a new folder of this process, among temporary files or in a place; the caller removes it.

    Raises ``OSError``.
    """
    place = place or tempfile.gettempdir()
    mine = re.compile(rf"dora-{kind}-(\d+)-")
    for name in os.listdir(place):
        found = mine.match(name)
        if found is not None and not _lives(int(found[1])):
            shutil.rmtree(os.path.join(place, name), ignore_errors=True)  # other users' stay
    return tempfile.mkdtemp(prefix=f"dora-{kind}-{os.getpid()}-", dir=place)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
