"""The ring buffers of recorders that an output copies its small messages to."""

from __future__ import annotations

from typing import Protocol

from dora._ownership import UnsafeFile
from dora.transport.shm.ring_buffer import RingBufferWriter


class RecordedPort(Protocol):
    """An output on line ``slot`` of the board. ``ring_buffers`` are by their folders."""

    slot: int
    ring_buffers: dict[str, RingBufferWriter]

    def set_ring_buffers(self, ring_buffers: dict[str, RingBufferWriter]) -> None: ...


def start_ring_buffer(port: RecordedPort, directory: str) -> None:
    """Copy small messages to a recorder's ring buffer, if its folder has one for this output."""
    if directory in port.ring_buffers:
        return
    try:
        ring = RingBufferWriter(f"{directory}/{port.slot}")
    except (OSError, UnsafeFile):
        return  # this output is not recorded, or without a ring buffer
    port.set_ring_buffers({**port.ring_buffers, directory: ring})


def stop_ring_buffer(port: RecordedPort, directory: str) -> None:
    """Stop writing to the ring buffer of a recorder."""
    ring = port.ring_buffers.get(directory)
    if ring is not None:
        port.set_ring_buffers({key: other for key, other in port.ring_buffers.items() if other is not ring})
        ring.close()
