"""Notifications of the kernel that files were saved (inotify, Linux)."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from typing import Final

_CLOSE_WRITE: Final = 0x8  # see inotify(7)
_MOVED_TO: Final = 0x80
_EVENT: Final = struct.Struct("iIII")
_BUFFER: Final = 1 << 16  # bytes


class SaveNotifications:
    """Reports which of some files have been closed after a write, or replaced by a rename.

    ``fileno()`` is readable when there are any; -1 where the kernel cannot report. File systems of other
    machines, such as shared folders, send nothing.
    """

    def __init__(self) -> None:
        self._files: dict[tuple[int, str], list[str]] = {}  # by watch and name in the folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = -1
        if sys.platform.startswith("linux"):
            self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._descriptor

    def watch(self, files: Iterable[str]) -> None:
        """Watch these files from now on. They need not exist, and may be links."""
        if self._descriptor < 0:
            return
        self._files = {}
        for path in files:
            for place in {path, os.path.realpath(path)}:
                folder, name = os.path.split(place)
                # A folder that is watched already keeps its number.
                number = self._libc.inotify_add_watch(
                    self._descriptor, os.fsencode(folder), _CLOSE_WRITE | _MOVED_TO
                )
                if number >= 0:
                    self._files.setdefault((number, name), []).append(path)

    def saved(self) -> set[str]:
        """Return the files that were saved since the last call."""
        found: set[str] = set()
        try:
            events = os.read(self._descriptor, _BUFFER)
        except BlockingIOError:
            return found
        while events:
            number, _, _, length = _EVENT.unpack_from(events)
            name = events[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
            found.update(self._files.get((number, os.fsdecode(name)), ()))
            events = events[_EVENT.size + length :]
        return found

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
