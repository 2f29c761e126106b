"""Room in /dev/shm: how much is left, and the errors where there is too little, or a file is missing."""

from __future__ import annotations

import os
from typing import Final

from dora._paths import SHARED_MEMORY
from dora.errors import SharedMemoryFull, TransportError
from dora.wire.node_config import EngineName

# iceoryx2 itself touches the first page of a new chunk, which is a SIGBUS if there is no room. So a message
# that would leave less than this is refused.
RESERVE: Final = 1 << 20  # bytes of /dev/shm that stay free
# Bytes of /dev/shm that a run needs to start with, by its engine: `RESERVE`, and what it has besides its
# links, such as the board.
TO_START: Final[dict[EngineName, int]] = {"iceoryx2": 16 << 20, "shm": 2 << 20}


def free_bytes() -> int | None:
    """Return the free bytes of the shared memory file system; None where there is none."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return status.f_bavail * status.f_frsize


def is_short(needed: int) -> bool:
    """Return whether less than a quarter of shared memory would be free if so many bytes were taken."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    return 4 * (status.f_bavail - needed // status.f_frsize) < status.f_blocks


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def full(output_id: str, needed: int, free: int) -> SharedMemoryFull:
    """Return the error for a message that does not fit."""
    return SharedMemoryFull(
        f"output `{output_id}`: the message needs {megabytes(needed)} of shared memory, but /dev/shm has "
        f"only {megabytes(free)} left; enlarge it (mount -o remount,size=… /dev/shm; "
        "docker run --shm-size=…) or send smaller messages"
    )


def no_room_to_start(what: str, free: int, engine: EngineName) -> SharedMemoryFull:
    """Return the error for something that has to be there before the first message."""
    enough = megabytes(TO_START[engine])
    return SharedMemoryFull(
        f"{what}: no room in /dev/shm ({megabytes(free)} left; {enough} are enough to start); "
        "enlarge it (mount -o remount,size=… /dev/shm; docker run --shm-size=…)"
    )


def missing(what: str, path: str) -> TransportError:
    """Return the error for a file or folder that has to be there while a dataflow runs."""
    return TransportError(
        f"{what}: {path} is missing; the dataflow has ended, or somebody has removed its files from "
        "shared memory"
    )
