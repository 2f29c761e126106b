"""The waits of a node whose outputs have receivers on other machines, at its start and its end.

The gateway (`dora.gateway`) carries the messages, and writes to the board what the other machines report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from dora.errors import ConnectError
from dora.transport.board import CONNECTED, FORWARDED, SENT, STATE, UNCONNECTED, Board
from dora.wire.node_config import LinkConfig, NodeConfig

_FIRST_PAUSE: Final = 0.001  # seconds between two looks at the board, doubled up to the longest
_LONGEST_PAUSE: Final = 0.05
_INTERRUPTED_TIMEOUT: Final = 0.5  # once the daemon has something to say
_RESTARTED_TIMEOUT: Final = 3.0  # the network may be cut: a restarted node works without the others
_NO_PROGRESS: Final = 3.0  # seconds; the whole wait has no limit, so a slow network loses nothing


def await_receivers(
    config: NodeConfig, board: Board, timeout: float, interrupted: Callable[[], bool]
) -> None:
    """Return once all receivers on other machines are there, apart from dynamic nodes.

    ``interrupted`` tells whether the daemon has sent something, most likely that the start has failed; then
    it returns soon. Raises `ConnectError` after ``timeout`` seconds. After a restart it waits for a short
    time, and only for receivers that were never known: their machine starts its part again. The network may
    be cut meanwhile.
    """
    if config.restart_count:
        timeout = min(timeout, _RESTARTED_TIMEOUT)
    deadline = time.monotonic() + timeout
    pause, hurried = _FIRST_PAUSE, False
    while missing := [
        link
        for _, link in _links(config)
        if not (link.dynamic or link.generation) and board.get(link.slot, STATE) == UNCONNECTED
    ]:
        now = time.monotonic()
        if not hurried and interrupted():  # the reason may be harmless
            hurried, deadline = True, min(deadline, now + _INTERRUPTED_TIMEOUT)
        if now > deadline:
            if hurried or config.restart_count:
                return
            names = ", ".join(f"`{link.consumer}` on machine `{link.machine}`" for link in missing)
            raise ConnectError(f"no connection to {names} within {timeout:g} seconds")
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def await_arrival(config: NodeConfig, board: Board) -> None:
    """Return once all messages have arrived at the other machines, or none has arrived for a while."""
    slots = {output_slot for output_slot, _ in _links(config)}
    before, since, pause = -1, 0.0, _FIRST_PAUSE
    while True:
        waiting = [
            slot
            for slot in slots
            if board.get(slot, FORWARDED) < board.get(slot, SENT)
            and any(  # without a receiver on the other machine, no report of an arrival comes
                output_slot == slot and board.get(link.slot, STATE) == CONNECTED
                for output_slot, link in _links(config)
            )
        ]
        if not waiting:
            return
        arrived, now = sum(board.get(slot, FORWARDED) for slot in slots), time.monotonic()
        if arrived != before:
            before, since = arrived, now
        if now - since > _NO_PROGRESS:
            return
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def _links(config: NodeConfig) -> Iterator[tuple[int, LinkConfig]]:
    """Yield the links to other machines, with the line of their output."""
    for output in config.outputs:
        for link in output.links:
            if link.machine:
                yield output.slot, link
