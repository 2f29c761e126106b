"""What dead processes leave in shared memory, and when it may go: once all that they sent has been read."""

from __future__ import annotations

import time
from collections.abc import Callable

from dora.daemon.accounting import Accounting
from dora.daemon.event_loop import Loop
from dora.daemon.run_directory import RunDirectory
from dora.errors import TransportError

CLEAN_UP_AFTER = 0.25  # seconds after the end of a node; a run that ends sooner needs no clean-up
CLEAN_UP_EVERY = 0.1
PATIENCE = 10.0  # seconds with recorders; a killed process may have counted what it never sent
# Channels have room for so many processes of one node at once; see `dora.transport.shm.iceoryx2`.
MAX_REMAINS = 2


class Cleanup:
    """The dead processes of one run that are not cleaned up yet.

    ``on_cleaned`` is called after a clean-up, ``on_trouble`` with a sentence if one failed. ``is_over``
    tells that the run has ended: what is left goes with its directory. ``is_recorded`` tells whether those
    who record have taken all of a node; they are waited for, but not for long.
    """

    def __init__(
        self,
        loop: Loop,
        run: RunDirectory,
        keeper: Accounting,
        *,
        is_recorded: Callable[[str], bool],
        is_over: Callable[[], bool],
        on_cleaned: Callable[[], None],
        on_trouble: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._run = run
        self._keeper = keeper
        self._is_recorded = is_recorded
        self._is_over = is_over
        self._on_cleaned = on_cleaned
        self._on_trouble = on_trouble
        self._nodes: dict[str, int] = {}  # node → its dead processes
        self._taps = False  # a dead command, which looked at outputs
        self._due: float | None = None
        self._patience = 0.0  # until when recorders are waited for

    def add(self, node_id: str) -> None:
        """A process of this node ended: its ports stay until all it sent has been read."""
        self._nodes[node_id] = self._nodes.get(node_id, 0) + 1
        self._patience = time.monotonic() + PATIENCE
        self._plan()

    def add_tap(self) -> None:
        """A command was killed that looked at outputs: its queues are still being filled."""
        self._taps = True
        self._plan()

    def make_room(self, node_id: str) -> None:
        """Clean up at once if there is no room for one more process of this node."""
        if self._nodes.get(node_id, 0) > MAX_REMAINS:
            self._clean_up()

    def _plan(self) -> None:
        if self._due is None:
            self._due = time.monotonic() + CLEAN_UP_AFTER
            self._loop.call_at(self._due, self._try)

    def _try(self) -> None:
        self._due = None
        if not (self._nodes or self._taps) or self._is_over():
            return
        if all(self._keeper.drained(node_id) and self._is_taken(node_id) for node_id in self._nodes):
            self._clean_up()
        else:
            self._due = time.monotonic() + CLEAN_UP_EVERY
            self._loop.call_at(self._due, self._try)

    def _is_taken(self, node_id: str) -> bool:
        return time.monotonic() > self._patience or self._is_recorded(node_id)

    def _clean_up(self) -> None:
        from dora.transport.shm.iceoryx2 import remove_dead_nodes

        self._nodes.clear()
        self._taps = False
        self._on_cleaned()
        try:
            remove_dead_nodes(self._run.path, self._run.prefix)
        except TransportError as error:
            self._on_trouble(str(error))
