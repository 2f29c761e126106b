"""Removes what dead processes left in shared memory, once all that they sent has been read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from dora.daemon.accounting import Accounting
from dora.daemon.event_loop import Loop
from dora.daemon.run_directory import RunDirectory
from dora.daemon.run_log import RunLog
from dora.daemon.supervisor.state import RunState
from dora.daemon.taps import Taps
from dora.errors import TransportError
from dora.wire.node_config import EngineName

CLEAN_UP_AFTER = 0.25  # seconds after the end of a node; a run that ends sooner needs no clean-up
RETRY_EVERY = 0.1  # seconds; a look reads some words of the board
RECORDERS_TIMEOUT = 10.0  # seconds; a killed process may have counted a message that it never sent
# A channel has room for this many dead processes of one node; see `dora.transport.shm.iceoryx2`.
MAX_DEAD_PROCESSES = 2
# Seconds that a restart waits until the messages of former processes are read. A receiver that computes for
# longer loses those that it has not read, and counts them as dropped.
ROOM_TIMEOUT: Final = 1.0
_LOOK_EVERY: Final = 0.01  # seconds; a restart waits for it, so it looks more often than `RETRY_EVERY`


class Cleanup:
    """Cleans up after the dead processes of one run, and after clients that died with open taps.

    It waits until recorders have taken all messages of a node that has ended, for a limited time. The
    directory of the run is removed at its end, with everything that is left in it.
    """

    def __init__(
        self,
        loop: Loop,
        run: RunDirectory,
        engine: EngineName,
        accounting: Accounting,
        state: RunState,
        taps: Taps,
        log: RunLog,
    ) -> None:
        self._loop = loop
        self._run = run
        self._engine = engine
        self._accounting = accounting
        self._state = state
        self._taps = taps
        self._log = log
        self._nodes: dict[str, int] = {}  # node → its dead processes
        self._lost_taps = False  # a client died that had taps
        self._due: float | None = None
        self._recorders_until = 0.0  # until then the clean-up waits for recorders

    def add(self, node_id: str) -> None:
        """Clean up after a process of a node, once all that it sent has been read."""
        self._nodes[node_id] = self._nodes.get(node_id, 0) + 1
        self._recorders_until = time.monotonic() + RECORDERS_TIMEOUT
        self._schedule()

    def add_tap(self) -> None:
        """Clean up after a client that died with open taps: senders still fill their queues."""
        self._lost_taps = True
        self._schedule()

    def make_room(self, node_id: str) -> None:
        """Clean up at once if there is no room for one more process of this node."""
        if self._nodes.get(node_id, 0) > MAX_DEAD_PROCESSES:
            self._clean_up()

    def wait_for_room(self, node_id: str, go: Callable[[], None]) -> WaitForRoom | None:
        """Return a wait that calls ``go`` once there is room for one more process of this node.

        None: there is room already. After `ROOM_TIMEOUT` there is, whether all has been read or not.
        """
        return None if self.make_room_if_read(node_id) else WaitForRoom(self._loop, self, node_id, go)

    def make_room_if_read(self, node_id: str) -> bool:
        """Clean up if all has been read; return whether there is room for one more process of a node.

        Then messages that dead processes sent, or that waited for them, take no memory beside the next one.
        """
        if node_id in self._nodes and self._is_all_read():
            self._clean_up()
        return self._nodes.get(node_id, 0) <= MAX_DEAD_PROCESSES

    def _schedule(self) -> None:
        if self._due is None:
            self._due = time.monotonic() + CLEAN_UP_AFTER
            self._loop.call_at(self._due, self._try)

    def _try(self) -> None:
        self._due = None
        if not (self._nodes or self._lost_taps) or self._state.done:
            return  # at the end everything goes with the directory of the run
        if self._is_all_read():
            self._clean_up()
        else:
            self._due = time.monotonic() + RETRY_EVERY
            self._loop.call_at(self._due, self._try)

    def _is_all_read(self) -> bool:
        return all(
            self._accounting.drained(node_id) and self._is_recorded_by_now(node_id)
            for node_id in self._nodes
        )

    def _is_recorded_by_now(self, node_id: str) -> bool:
        slots = self._taps.recorded_slots()
        return time.monotonic() > self._recorders_until or self._accounting.recorded(node_id, slots)

    def _clean_up(self) -> None:
        self._nodes.clear()
        self._lost_taps = False
        self._taps.forget_lost()
        try:
            if not self._remove_dead_processes():
                self.add_tap()  # again, soon
        except TransportError as error:
            self._log.warn(str(error))  # the next clean-up, or the end of the run, removes the rest

    def _remove_dead_processes(self) -> bool:
        """Return False if something is left; raises `TransportError`."""
        if self._engine == "shm":
            from dora.transport.shm.channel import remove_dead_processes

            return remove_dead_processes(self._run.prefix)
        from dora.transport.shm.iceoryx2 import remove_dead_nodes

        remove_dead_nodes(self._run.path, self._run.prefix)
        return True


class WaitForRoom:
    """A restart that waits; see `Cleanup.wait_for_room`."""

    importing: Final = None  # no process imports anything for it, unlike a `PendingStart`

    def __init__(self, loop: Loop, cleanup: Cleanup, node_id: str, go: Callable[[], None]) -> None:
        self._loop = loop
        self._cleanup = cleanup
        self._node_id = node_id
        self._go = go
        self._until = time.monotonic() + ROOM_TIMEOUT
        self._timer = loop.call_later(_LOOK_EVERY, self._look)

    def _look(self) -> None:
        if time.monotonic() >= self._until:
            self._cleanup.make_room(self._node_id)
        elif not self._cleanup.make_room_if_read(self._node_id):
            self._timer = self._loop.call_later(_LOOK_EVERY, self._look)
            return
        self._go()

    def read(self) -> None:
        """Do nothing: it asks nobody."""

    def cancel(self) -> None:
        """Start nothing any more."""
        self._timer.cancel()
