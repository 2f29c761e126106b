"""Copies the messages of an output into the black box of the run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from ctypes import addressof, c_char
from typing import Protocol
from weakref import ref

from dora._ownership import UnsafeFile
from dora.node.current_event import Passed
from dora.transport.shm.overwriting_ring import OverwritingWriter
from dora.wire.black_box import LARGE
from dora.wire.encode import Payload
from dora.wire.message import SMALL_BODY, pack_head


class KeptPort(Protocol):
    """An output on line ``slot`` of the board. ``black_box`` is None while ``kept`` makes a pause."""

    slot: int
    black_box: KeptOutput | None
    kept: KeptOutput | None


def keep(port: KeptPort, folder: str) -> None:
    """Copy the messages of an output to the black box in a folder from now on, also again after a pause."""
    if port.black_box is None:
        if port.kept is None:
            port.kept = KeptOutput(f"{folder}/{port.slot}", port)
        port.kept.resume()
        port.black_box = port.kept


class KeptOutput:
    """The rings of one output, one for small messages and one for large ones. For several threads.

    The rings are opened with the first message: of two processes of a node, one sends at a time.
    """

    def __init__(self, path: str, port: KeptPort) -> None:
        """``path``: of the ring for small messages. ``port`` loses its ``black_box`` at a pause."""
        self._path = path
        self._port = ref(port)  # it holds this object
        # A ring is for one thread. The lock of the output does not do: most messages are copied after it
        # was released, so that receivers wake up first.
        self._lock = threading.Lock()
        self._small: OverwritingWriter | None = None
        self._large: OverwritingWriter | None = None
        self._is_missing = False  # this output is left out

    def resume(self) -> None:
        """Go on after a pause."""
        with self._lock:
            if self._small is not None:
                self._small.resume()

    def write(self, message: bytes) -> None:
        """Keep a message with a small body."""
        with self._lock:
            ring = self._small
            if ring is None:
                ring = self._small = self._open(self._path)
            if ring is not None:
                ring.write(message)

    def write_payload(self, head: bytes, payload: Payload, now_ns: int) -> None:
        """Keep a message with a large body, as far as there is room and time."""
        ring = self._large
        if ring is not None and now_ns < ring.free_ns:  # most messages of a flood
            ring.skip()
            return
        size = len(head)

        def copy(memory: memoryview) -> None:
            memory[:size] = head
            payload.copy_to(addressof(c_char.from_buffer(memory[size:])))

        self._write_large(size + payload.size, copy, now_ns)

    def write_unsent(
        self, payload: Payload, section: bytes, sequence: int, now_ns: int, passed: Passed
    ) -> None:
        """Keep a message that nobody receives. ``section``: its metadata; ``passed``: origin, trail."""
        small = payload.size <= SMALL_BODY
        body = payload.to_bytes() if small else b""
        head = pack_head(
            payload.encoding, payload.schema, section, payload.size, sequence, now_ns, body, *passed
        )
        if small:
            self.write(head)
        else:
            self.write_payload(head, payload, now_ns)

    def write_memory(self, message: memoryview, now_ns: int) -> None:
        """Keep a message that lies in memory as a whole."""

        def copy(memory: memoryview) -> None:
            memory[:] = message

        self._write_large(len(message), copy, now_ns)

    def _write_large(self, size: int, copy: Callable[[memoryview], None], now_ns: int) -> None:
        with self._lock:
            ring = self._large
            if ring is None:
                ring = self._large = self._open(self._path + LARGE)
            if ring is not None:
                ring.write_large(size, copy, now_ns)

    def _pause(self) -> None:
        if (port := self._port()) is not None:
            port.black_box = None

    def _open(self, path: str) -> OverwritingWriter | None:
        if self._is_missing:
            return None
        try:
            return OverwritingWriter(path, self._pause)
        except (OSError, UnsafeFile):
            self._is_missing = True
            self._pause()
            return None
