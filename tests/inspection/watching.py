"""How the tests start dataflows and look at them."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared_template import left_by_runs, share_template
from waiting import TIMEOUT, all_nodes_run, wait_until

DORA = [sys.executable, "-m", "dora"]

CAMERA = """
    import numpy as np
    from dora import Node
    node = Node()
    count = 0
    for event in node:
        if event["type"] == "INPUT":
            count += 1
            node.send_output("image", np.full(30_000, count % 256, np.uint8), {"width": 100})
            node.send_output("spare", np.array([count]))
"""
SINK = """
    from dora import Node
    for event in Node():
        if event["type"] == "INPUT" and event["value"].to_pylist() == ["hello"]:
            print("got hello", flush=True)
"""
OPERATOR = """
    from dora import DoraStatus
    class Operator:
        def on_event(self, event, send_output):
            if event["type"] == "INPUT":
                send_output("out", event["value"].slice(0, 1), event["metadata"])
            return DoraStatus.CONTINUE
"""
FLOW = """
    nodes:
      - id: camera
        path: camera.py
        inputs: {tick: dora/timer/millis/20}
        outputs: [image, spare]
      - id: sink
        path: sink.py
        inputs: {image: {source: camera/image, queue_policy: backpressure, queue_size: 4}}
      - id: hands
        operators:
          - {id: a, python: operator_.py, inputs: {x: camera/image}, outputs: [out]}
          - {id: b, python: operator_.py, inputs: {x: hands/a/out}, outputs: [out]}
"""


class Running:
    """A folder with programs, and the dataflows that were started in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[subprocess.Popen[str]] = []
        self.looks: list[subprocess.Popen[str]] = []
        for name, text in (("camera", CAMERA), ("sink", SINK), ("operator_", OPERATOR)):
            self.program(f"{name}.py", text)

    def program(self, name: str, text: str) -> None:
        (self.directory / name).write_text(textwrap.dedent(text))

    def __call__(self, flow: str = FLOW, name: str = "arm", *arguments: str) -> subprocess.Popen[str]:
        """Start a dataflow and return once a command can see that its nodes run."""
        path = self.directory / f"{name}.yml"
        path.write_text(textwrap.dedent(flow))
        process = subprocess.Popen(
            [*DORA, "run", str(path), *arguments],
            stdout=open(self.directory / f"{name}.log", "w"),  # noqa: SIM115 - it is the child's
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        wait_until(lambda: all_nodes_run(name) or process.poll() is not None, f"{name} to run")
        assert process.poll() is None, self.log(name)
        return process

    def popen(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command that looks; it is killed if it outlives its test."""
        self.looks.append(subprocess.Popen(command, **options))
        return self.looks[-1]

    def log(self, name: str = "arm") -> str:
        return (self.directory / f"{name}.log").read_text()


@contextmanager
def dataflows(directory: Path, root: str) -> Iterator[Running]:
    """Let dataflows run; at the end, end them and check that nothing is left."""
    share_template(root)
    running = Running(directory)
    yield running
    try:
        for look in running.looks:
            look.kill()
            look.wait()
        for process in running.processes:
            end(process)
        nothing_left(root, directory)
    finally:
        for process in running.processes:
            process.kill()


def dora(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, expecting this exit status."""
    done = subprocess.run(
        [*DORA, *arguments], capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL
    )
    assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def end(process: subprocess.Popen[str]) -> None:
    """Stop a dataflow as Ctrl-C does."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(TIMEOUT)


def nothing_left(root: str, directory: Path) -> None:
    assert not left_by_runs(root), "a run left its directory"
    out = directory / "out"
    for dataflow_id in os.listdir(out) if out.exists() else []:
        short = dataflow_id.replace("-", "")[-12:]
        assert glob.glob(f"/dev/shm/*{short}*") == [], "a run left its shared memory"


def shared_memory(root: str) -> set[str]:
    """Return the shared memory of the only dataflow that runs."""
    (name,) = left_by_runs(root)
    ports = glob.glob(f"/dev/shm/dora_{name}_links/**/[prc].*", recursive=True)  # not what senders fill
    return {*glob.glob(f"/dev/shm/dora_{name}_*"), *ports}
