"""A replay in which nodes take their inputs as they come ends when nobody works any more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from recording_flows import Folder

from dora.recording.replay import replay
from dora.recording.replay.replay import EndDetection
from dora.wire.decode import decode_arrow

SOURCE = """
    from dora import Node

    node = Node()
    for number in range(2):
        node.send_output("number", bytes([number]))
"""
# Its second input never ends, because `echo` waits for it in turn.
SLOW = """
    import os, time
    from dora import Node

    node, done = Node(), 0
    for event in node:
        if event["type"] == "INPUT" and event["id"] == "number":
            if os.path.exists("slow"):
                time.sleep(1.6)
            node.send_output("result", event["value"])
            done += 1
            if done == 2 and not os.path.exists("slow"):
                break
"""
ECHO = """
    from dora import Node

    node = Node()
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("echo", event["value"])
"""
FLOW = """
    nodes:
      - {id: source, path: source.py, outputs: [number]}
      - id: slow
        path: slow.py
        inputs: {number: source/number, echo: echo/echo}
        outputs: [result]
      - id: echo
        path: echo.py
        inputs: {result: slow/result}
        outputs: [echo]
"""


@pytest.mark.slow
@pytest.mark.processes
def test_nodes_that_work_are_not_stopped(folder: Folder) -> None:
    for name, text in (("source.py", SOURCE), ("slow.py", SLOW), ("echo.py", ECHO)):
        folder.program(name, text)
    folder.dora("record", folder.flow(FLOW), "-o", "a.mcap")
    (folder.directory / "slow").touch()
    folder.dora("replay", "a.mcap", "--free", "--speed", "0", "-o", "b.mcap")
    with folder.recording("b.mcap") as replayed:
        echoes = replayed.messages(["echo/echo"])
        assert [decode_arrow(each.message).to_pylist() for each in echoes] == [[0], [1]]


class Run:
    """A run, as the detection of its end sees it, and its time; ``stopped`` says when it was stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, patience: float) -> None:
        self.now = 1000.0
        self.stopped: float | None = None
        self.working = self.all_read = False
        self.traffic = 7
        self.player = SimpleNamespace(phase="ended")
        self._due: list[Any] = []
        daemon: Any = SimpleNamespace(
            loop=SimpleNamespace(call_at=lambda *call: self._due.append(call)),
            supervisor=SimpleNamespace(state=SimpleNamespace(done=False, nodes={"player": self.player})),
            works=lambda: self.working,
            drained=lambda _: self.all_read,
            counts=lambda _: (self.traffic, 0, None),
            stop=self._stop,
        )
        monkeypatch.setattr(replay.time, "monotonic", lambda: self.now)
        EndDetection(daemon, ["player"], patience)

    def _stop(self, _: str) -> None:
        self.stopped = self.now - 1000.0

    def go_on(self, seconds: float) -> None:
        until = self.now + seconds
        while self._due and self._due[0][0] <= until:
            self.now, check = self._due.pop(0)
            check()
        self.now = until


def test_a_replay_ends_when_it_has_been_quiet_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, patience=30.0)
    run.player.phase = "running"
    run.go_on(100.0)
    run.player.phase = "ended"
    run.go_on(0.7)
    run.traffic += 1
    run.go_on(0.7)
    run.working, run.all_read = True, True
    run.go_on(10.0)
    run.working = False
    run.go_on(0.7)
    assert run.stopped is None
    run.go_on(0.7)
    assert run.stopped is not None


def test_a_node_that_hangs_is_waited_for_only_after_it_has_read_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, patience=30.0)
    run.working = True
    run.go_on(100.0)
    run.all_read = True
    run.go_on(29.5)
    assert run.stopped is None
    run.go_on(1.0)
    assert run.stopped is not None


def test_a_node_that_has_read_all_at_once_has_its_time_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, patience=30.0)
    run.working = run.all_read = True
    run.go_on(30.0)
    assert run.stopped is None
    run.go_on(0.5)
    assert run.stopped is not None
