"""The end of a replay in which nodes take their inputs as they come.

A node ends when all its inputs are closed, so most replays end by themselves. Nodes that wait for each
other, as a client and its server do, would not: they are asked to stop once the players are through and
nothing moves.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon

_LOOK_EVERY: Final = 0.2  # seconds
_QUIET: Final = 1.0  # seconds without a message


class EndDetection:
    """Watches a run, in its daemon's loop."""

    def __init__(self, daemon: Daemon, players: Collection[str], patience: float) -> None:
        """``patience``: seconds after the end of the last player, whatever still moves."""
        self._daemon = daemon
        self._players = players
        self._patience = patience
        self._traffic = -1
        self._quiet_since = 0.0
        self._players_ended = 0.0
        self._look_later()

    def _look_later(self) -> None:
        self._daemon.loop.call_at(time.monotonic() + _LOOK_EVERY, self._look)

    def _look(self) -> None:
        now = time.monotonic()
        run = self._daemon.supervisor.state
        if run.done:
            return
        if all(run.nodes[node_id].phase == "ended" for node_id in self._players):
            self._players_ended = self._players_ended or now
            traffic = self._daemon.traffic()
            if traffic != self._traffic:
                self._traffic, self._quiet_since = traffic, now
            if now - self._quiet_since >= _QUIET or now - self._players_ended >= self._patience:
                self._daemon.stop("the recording is over")
                return
        self._look_later()
