"""The state that a node saves for its next process."""

from __future__ import annotations

import itertools
import os
from typing import Protocol

from dora.errors import SendError
from dora.wire.node_config import NodeConfig

State = bytes | bytearray | memoryview


class StateStore(Protocol):
    """Keeps the last state that was saved."""

    def save(self, state: State) -> None:
        """Keep ``state`` instead of what was kept before; raises `SendError`."""
        ...

    def load(self) -> bytes | None:
        """Return what was saved last, None if nothing was."""
        ...


class StateFile:
    """A file in the directory of the run; written whole or not at all, whenever the process is killed.

    On several machines it is in a folder that outlives a reboot. It is not flushed to the disk, which would
    take milliseconds each time: after a loss of power the node may find an earlier state, or an empty one.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._node_id = config.node_id
        self._path = config.state_file or f"{config.run_dir}/state-{config.node_slot}"
        self._saves = itertools.count()

    def save(self, state: State) -> None:
        # A name of its own, not a lock: a signal handler may save while this thread does.
        fresh = f"{self._path}.{os.getpid()}.{next(self._saves)}"
        try:
            try:
                file = open(fresh, "wb")  # noqa: SIM115 - it is closed below
            except FileNotFoundError:
                os.makedirs(os.path.dirname(fresh), mode=0o700, exist_ok=True)
                file = open(fresh, "wb")  # noqa: SIM115
            with file:
                file.write(state)
            os.replace(fresh, self._path)
        except BaseException as error:  # also for Ctrl-C and a state that is not bytes
            try:
                os.unlink(fresh)
            except OSError:
                pass  # it was not made, or the first error is the one that tells more
            if not isinstance(error, OSError):
                raise
            reason = error.strerror
            raise SendError(f"the state of node `{self._node_id}` cannot be saved: {reason}") from error

    def load(self) -> bytes | None:
        try:
            with open(self._path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None


class StateInMemory:
    """For a node that has no run of its own, or whose processes are threads of this one."""

    def __init__(self) -> None:
        self._state: bytes | None = None

    def save(self, state: State) -> None:
        self._state = bytes(memoryview(state))

    def load(self) -> bytes | None:
        return self._state
