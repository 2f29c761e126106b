"""The messages that a node took: in memory, and beyond a limit in a temporary file.

A node that takes images may have taken more than fits into memory. Forked processes read the same file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable, Iterator
from typing import BinaryIO, Final, Generic, TypeVar

from dora.errors import DoraError

MEMORY: Final = 256 << 20  # bytes
K = TypeVar("K", bound=Hashable)


class Contents(Generic[K]):
    """Bytes by key. A key is added once.

    >>> contents = Contents[str](memory=3)
    >>> contents["a"] = b"in memory"
    >>> contents["b"] = b"in a file"
    >>> contents.get("a"), contents.get("b"), contents.get("c")
    (b'in memory', b'in a file', None)
    """

    def __init__(self, memory: int = MEMORY) -> None:
        """``memory``: once so many bytes are in memory, further ones go to a file."""
        self._memory = memory
        self._kept: dict[K, bytes] = {}
        self._places: dict[K, tuple[int, int]] = {}  # in the file: offset, size
        self._file: BinaryIO | None = None
        self._size = 0  # of the file

    def __setitem__(self, key: K, data: bytes) -> None:
        """Add bytes; raises `DoraError` if there is no room."""
        if self._memory > 0:
            self._memory -= len(data)
            self._kept[key] = data
            return
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="dora-")  # noqa: SIM115 - open as long as this
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise DoraError(
                f"the messages of the node do not fit into memory, and not into {tempfile.gettempdir()}: "
                f"{error.strerror}; TMPDIR names another folder"
            ) from None
        self._places[key] = self._size, len(data)
        self._size += len(data)

    def get(self, key: K) -> bytes | None:
        """Return the bytes of a key, None if there are none."""
        place = self._places.get(key)
        if place is None:
            return self._kept.get(key)
        assert self._file is not None
        offset, size = place
        return os.pread(self._file.fileno(), size, offset)  # forks share the position of the file

    def __contains__(self, key: object) -> bool:
        return key in self._kept or key in self._places

    def __iter__(self) -> Iterator[K]:
        yield from self._kept
        yield from self._places
