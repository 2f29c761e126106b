"""Where spans are kept: ``spans_<node>.jsonl`` beside the log files of the dataflow.

Each node writes its own file, so that neither a daemon nor a collector stands in its way. A file that
has become too large is put aside once, as ``spans_<node>.1.jsonl``: the latest spans are always there, and
a forgotten ``--trace`` does not fill the disk.
"""

from __future__ import annotations

import os
from typing import Final

MAX_SIZE: Final = 16 << 20  # bytes; there are at most two such files of a node


class SpanFile:
    """Appends lines; trouble with the disk is told by `append`, once, and ends the writing."""

    def __init__(self, directory: str, node_id: str, max_size: int = MAX_SIZE) -> None:
        self._base = f"{directory}/spans_{node_id}"
        self._max_size = max_size
        self._descriptor = -1
        self._broken = False

    def append(self, line: bytes) -> str:
        """Append a line in one piece; return why nothing more is written, "" if all is well."""
        if self._broken:
            return ""
        try:
            if self._descriptor < 0:
                self._open()
            elif os.fstat(self._descriptor).st_size + len(line) > self._max_size:
                self.close()
                os.replace(f"{self._base}.jsonl", f"{self._base}.1.jsonl")
                self._open()
            os.write(self._descriptor, line)
        except OSError as error:
            self._broken = True
            self.close()
            return f"{self._base}.jsonl: {error.strerror}"
        return ""

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.close(descriptor)
            except OSError:
                pass

    def _open(self) -> None:
        os.makedirs(os.path.dirname(self._base), exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)
        self._descriptor = os.open(f"{self._base}.jsonl", flags, 0o644)
