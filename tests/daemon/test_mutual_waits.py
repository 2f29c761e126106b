"""Nodes that wait for each other's first message, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dora.daemon import mutual_waits
from dora.daemon.mutual_waits import circles, watch_circles
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec

CIRCLE = {"ping": {"pong"}, "pong": {"ping"}}


class Run:
    """A run of two nodes that feed each other; ``counted`` are their messages."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, machine: str = "") -> None:
        """``machine``: the other one that `pong` is on."""
        self.now = 100.0
        self.due: list[tuple[float, Callable[[], None]]] = []
        self.warnings: list[str] = []
        self.asleep = {"ping": True, "pong": True}
        self.counted = {"ping": 0, "pong": 0}
        self.nodes = {
            name: SimpleNamespace(id=name, machine="", present=True, phase="running") for name in CIRCLE
        }
        self.nodes["pong"].machine = machine
        monkeypatch.setattr(mutual_waits, "time", SimpleNamespace(monotonic=lambda: self.now))
        nodes = tuple(
            NodeSpec(
                name, path="x.py", inputs=(InputSpec("in", NodeOutput(source, "out")),), outputs=("out",)
            )
            for name, (source,) in CIRCLE.items()
        )
        parts: Any = self
        watch_circles(Dataflow(nodes, "/"), parts, parts, parts, self.warnings.append)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        self.due.append((when, call))

    def activity(self, node_id: str) -> tuple[bool, tuple[int, ...]]:
        return self.asleep[node_id], (self.counted[node_id], 0)

    def after(self, seconds: float) -> list[str]:
        """Return the warnings so far, this much later."""
        end = self.now + seconds
        while self.due and self.due[0][0] <= end:
            self.now, call = self.due.pop(0)
            call()
        self.now = end
        return self.warnings


def test_they_are_named_once_after_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    assert run.after(4.5) == []
    assert [text.partition(":")[0] for text in run.after(1)] == [
        "`ping` and `pong` wait for each other's first message"
    ]
    assert len(run.after(60)) == 1


def test_a_node_that_works_before_its_loop_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.asleep["ping"] = False  # it loads its model
    assert run.after(60) == []
    run.asleep["ping"] = True
    assert run.after(4) == []
    assert len(run.after(3)) == 1


def test_a_node_that_has_sent_is_watched_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.counted["ping"] = 1
    assert run.after(60) == []
    assert run.due == []


def test_nodes_that_have_not_all_started_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.nodes["pong"].present = False
    assert run.after(60) == []
    run.nodes["pong"].phase = "ended"
    run.after(2)
    assert run.due == []


def test_nodes_of_other_machines_are_not_known_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, machine="robot")
    assert run.after(60) == []
    assert run.due == []


def test_a_circle_has_nodes_that_nothing_else_wakes() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"b", "d"}, "d": {"c"}}) == [["a", "b"]], "the reason"
    assert circles({"a": {"b", "camera"}, "b": {"a"}, "camera": None}) == []
    assert circles({"a": {"camera"}, "b": {"a"}, "c": {"a", "b"}, "camera": None}) == []


@pytest.mark.lengthy
def test_a_long_chain_is_looked_through_in_one_pass() -> None:
    chain = {f"n{number}": {f"n{number - 1}"} for number in range(1, 20_000)}
    assert circles({"n0": None, **chain}) == []
