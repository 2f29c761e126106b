"""The log file of a process: all that it and its children print, up to a limit, and the files before it.

Coordinator and daemon run for months. Their children, which run the dataflows, have the same standard
error. So a full file cannot be renamed: the children would go on writing to it. It is copied, and emptied
(logrotate calls this ``copytruncate``). Every process writes at the end of the file, wherever that is. A
line that a child writes between the copy and the emptying, some microseconds, is lost. A pipe to one writer
was rejected: it would lose every line after that process is killed.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import Final

from dora._shared_folders import open_file, open_folder, open_in, rotate

LIMIT: Final = 10 << 20  # bytes
KEPT: Final = 4  # files beside the one that is written
_PERIOD: Final = 1.0  # seconds between looks at the size
_BLOCK: Final = 1 << 20  # bytes


class ProcessLog:
    """Standard output and error of this process go to a file from now on; ``check`` empties a full one."""

    def __init__(self, path: str, limit: int = LIMIT, kept: int = KEPT) -> None:
        """Open the file, to append to it; raises ``OSError``."""
        self._path = os.path.abspath(path)
        self._limit = limit
        self._kept = kept
        file = open_file(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        self._file = file

    def watch(self) -> None:
        """Check the size every second, in a thread, as long as this process lives."""
        threading.Thread(target=self._watch, name="dora-log-file", daemon=True).start()

    def check(self) -> None:
        """Begin a new file if this one is full. If no copy can be made, its content is lost."""
        if os.fstat(self._file).st_size <= self._limit:
            return
        with contextlib.suppress(OSError):  # the folder is gone, or the disk is full
            self._copy()
        os.ftruncate(self._file, 0)

    def _copy(self) -> None:
        directory, name = os.path.split(self._path)
        folder = open_folder(directory, below=directory)
        unfinished = f"{name}.{os.getpid()}"
        try:
            try:
                copy = open_in(folder, unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                with open(copy, "wb", buffering=0) as file:
                    place = 0
                    while block := os.pread(self._file, _BLOCK, place):
                        place += len(block)
                        file.write(block)
                rotate(folder, name, self._kept, unfinished)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(unfinished, dir_fd=folder)
                raise
        finally:
            os.close(folder)

    def _watch(self) -> None:
        while True:
            time.sleep(_PERIOD)
            self.check()
