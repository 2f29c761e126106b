"""Changes in the worker of one machine, which gets the messages of a coordinator from the test."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from waiting import TIMEOUT, wait_until

from dora.cluster.coordinator.changes import plan_change, undo_of
from dora.cluster.http_api import MachineView
from dora.cluster.protocol import (
    NO_TICKET,
    Answered,
    Apply,
    LogBatch,
    Partition,
    Prepare,
    RunReport,
    RunSpec,
    StartRun,
    StopRun,
    ToDaemon,
    decode_to_coordinator,
    encode,
)
from dora.dataflow import parse
from dora.wire.correlation import uuid7
from dora.wire.daemon_protocol import NodeRemoved, Ok, Rejected, SentCounts
from dora.wire.operations import ProposedChange, RemoveOperation, ReplaceOperation, TopologyOperation

pytestmark = pytest.mark.processes

SPEAKER = """
from dora import Node
node = Node()
print("NAME is here", flush=True)
for event in node:
    pass
"""
TEXT = """
nodes:
  - {id: a, path: a.py, outputs: [x], inputs: {tick: dora/timer/secs/1}}
  - {id: b, path: b.py, inputs: {in: a/x}, build: touch built}
"""


class Worker:
    """A worker process; it is the coordinator's turn, which is the test."""

    def __init__(self, folder: Path) -> None:
        for name in ("a", "b", "better"):
            (folder / f"{name}.py").write_text(SPEAKER.replace("NAME", name))
        (folder / "broken.py").write_text("raise SystemExit('it is broken')\n")
        dataflow = parse(
            TEXT, file=f"{folder}/d.yml", working_dir=str(folder), environ={}, env_overrides={}
        )
        self.id = uuid7()
        self.spec = RunSpec(
            name="arm",
            dataflow=msgspec.to_builtins(dataflow),
            machines={"a": "robot", "b": "robot"},
            interpreter=sys.executable,
        )
        self._heard: list[Any] = []
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dora.cluster.agent.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        self.say(StartRun(self.id, self.spec, Partition(machine="robot", secret="", collect_logs=True)))
        self.wait_for(lambda: self.report().status == "Running", "the start")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._heard.append(decode_to_coordinator(line))

    def say(self, message: ToDaemon) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(encode(message) + b"\n")
        self._process.stdin.flush()

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_until(condition, lambda: f"{what}: {self._heard}")

    def report(self) -> RunReport:
        found = [message for message in self._heard if isinstance(message, RunReport)]
        return found[-1] if found else RunReport(self.id, "Starting")

    def lines(self, text: str) -> int:
        """Return in how many log entries a text is."""
        batches = [message for message in list(self._heard) if isinstance(message, LogBatch)]
        return sum(text in entry.message for batch in batches for entry in batch.entries)

    def answer_to(self, message: Prepare | Apply) -> Any:
        """Send a message and return its answer."""
        self.say(message)

        def answer() -> Answered | None:
            found = (message for message in list(self._heard) if isinstance(message, Answered))
            return next((found for found in found if found.ticket == message.ticket), None)

        return self.wait_for(answer, "an answer").answer

    def plan(self, operation: TopologyOperation) -> ProposedChange:
        """Return the next change, and commit it."""
        machines = [MachineView(id="robot")]
        proposal = plan_change(self.spec, operation, machines, {}).proposal
        self.spec = self.spec.after(proposal)
        return proposal

    def close(self) -> None:
        self.say(StopRun(self.id, force=True))
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.wait(TIMEOUT)
        self._process.stdin.close()
        assert not [message for message in self._heard if "internal error" in str(message)]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path)
    try:
        yield worker
    finally:
        worker.close()


def replace(path: str) -> ReplaceOperation:
    return ReplaceOperation("b", f"path: {path}")


@pytest.mark.slow
def test_a_missed_change_that_cannot_be_made_is_logged_and_the_next_one_is_made(worker: Worker) -> None:
    worker.say(Apply(worker.id, NO_TICKET, worker.plan(replace("broken.py")), {}))
    worker.wait_for(
        lambda: worker.lines(
            "the dataflow was changed while machine `robot` was away, and that cannot be made good there: "
            "the replacement of node `b` does not start, the old one goes on: it is broken"
        ),
        "the line of the log",
    )
    assert worker.report().revision == 0
    better = worker.plan(replace("better.py"))
    assert isinstance(worker.answer_to(Prepare(worker.id, 1, better)), SentCounts)
    assert worker.answer_to(Apply(worker.id, 2, better, {})) == Ok()
    worker.wait_for(lambda: worker.lines("better is here"), "the program")
    assert worker.report().revision == 2


@pytest.mark.slow
def test_what_was_built_for_a_failed_change_is_not_used_for_another(worker: Worker) -> None:
    broken = worker.plan(replace("broken.py"))
    worker.answer_to(Prepare(worker.id, 1, broken))
    assert isinstance(worker.answer_to(Apply(worker.id, 2, broken, {})), Rejected)
    worker.say(Apply(worker.id, NO_TICKET, worker.plan(replace("better.py")), {}))
    worker.wait_for(lambda: worker.report().revision == 2, "the next change")
    worker.wait_for(lambda: worker.lines("better is here"), "the program")


def test_two_missed_replacements_bring_the_last_program(worker: Worker) -> None:
    worker.plan(replace("broken.py"))
    worker.say(Apply(worker.id, NO_TICKET, worker.plan(replace("better.py")), {}))
    worker.wait_for(lambda: worker.lines("better is here"), "the program")
    assert not worker.lines("it is broken")


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_a_node_whose_removal_is_undone_is_built_and_started(
    worker: Worker, tmp_path: Path, known: bool
) -> None:
    """``known``: the coordinator has heard that the node has ended."""
    before = worker.spec
    removal = worker.plan(RemoveOperation("b"))
    assert isinstance(worker.answer_to(Apply(worker.id, 1, removal, {})), NodeRemoved)
    (tmp_path / "built").unlink()
    assert worker.answer_to(Apply(worker.id, 2, undo_of(before, removal, has_ended=known), {})) == Ok()
    worker.wait_for(lambda: worker.lines("b is here") == 2, "the node")
    assert (tmp_path / "built").exists()
