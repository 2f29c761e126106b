"""Processes of nodes whose start waits: they may never begin."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from dora.daemon.node_processes import NodeProcesses
from dora.daemon.options import LocalRunOptions
from dora.dataflow.model import Dataflow, NodeSpec


class Waiting:
    """A start of `a` that waits until it is given up."""

    importing = None

    def __init__(self) -> None:
        self.cancelled = 0
        self.ended: list[tuple[str, int | None, int | None]] = []
        parts: Any = SimpleNamespace(dataflow_id="x", socket="/s", run_id="0" * 12)
        self.processes = NodeProcesses(
            parts,
            parts,
            LocalRunOptions(),
            feed=lambda _: None,
            on_line=lambda *_: None,
            on_end=lambda *end: self.ended.append(end),
            template=None,
            watchdog=parts,
            on_warning=lambda _: None,
            is_encrypted=False,
        )
        wait: Any = self
        self.processes.spawn(Dataflow((NodeSpec("a", path="a.py"),), "/"), "a", 0, lambda _: wait)

    def read(self) -> None:
        pass

    def cancel(self) -> None:
        self.cancelled += 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_before_it_begins_has_ended(number: int) -> None:
    start = Waiting()
    for _ in range(2):
        start.processes.signal_all(number)
        assert start.ended == [("a", None, number)]
        assert start.cancelled == 1


def test_another_signal_does_not_end_a_process_before_it_begins() -> None:
    start = Waiting()
    start.processes.signal("a", signal.SIGCONT)
    assert (start.ended, start.cancelled) == ([], 0)


def test_no_process_begins_after_all_were_killed() -> None:
    start = Waiting()
    start.processes.kill_all()
    assert (start.ended, start.cancelled) == ([], 1)
