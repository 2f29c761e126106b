"""A clock that tests turn by hand, for what nodes do at certain times."""

from __future__ import annotations

import time

import pytest

MILLISECOND = 1_000_000  # nanoseconds


class VirtualClock:
    """Stands in for CLOCK_MONOTONIC wherever a node reads it, and for the time of sending in messages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000 * MILLISECOND
        wall = time.time_ns() - self.now
        monkeypatch.setattr("dora.node.send.output._now", lambda: wall + self.now)
        for module in (
            "dora.node.receive.link_input",
            "dora.node.receive.local_input",
            "dora.node.receive.timer_input",
            "dora.node.receive.safe_state",
            "dora.node.receive.deadline",
            "dora.node.receive.qos_input",
            "dora.node.receive.inbox",
            "dora.node.receive.wait",
        ):
            monkeypatch.setattr(f"{module}._monotonic", lambda: self.now)

    def advance(self, milliseconds: float) -> None:
        self.now += int(milliseconds * MILLISECOND)
