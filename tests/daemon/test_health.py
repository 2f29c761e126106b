"""Nodes with a `health_check_timeout` are checked once in each interval, however the dataflow changes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from dora.daemon.health import Health
from dora.dataflow.model import Dataflow, NodeSpec


class Timers:
    """The timers of a loop that a test lets expire."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        assert seconds > 0
        self.waiting.append(function)

    def expire(self) -> None:
        waiting, self.waiting = self.waiting, []
        for function in waiting:
            function()


def test_a_node_that_is_added_in_the_interval_of_a_removed_one_is_checked_once() -> None:
    timers = Timers()
    state: Any = SimpleNamespace(nodes={})
    unused: Any = None
    health = Health(timers, state, unused, unused, unused)  # type: ignore[arg-type]
    checked = Dataflow((NodeSpec("a", health_check_timeout=3.0),), "/")
    health.watch(checked)
    for _ in range(3):
        health.watch(Dataflow((), "/"))
        health.watch(checked)
    assert len(timers.waiting) == 1
    timers.expire()
    assert len(timers.waiting) == 1
    health.watch(Dataflow((), "/"))
    timers.expire()
    assert timers.waiting == []
    health.watch(checked)
    assert len(timers.waiting) == 1
