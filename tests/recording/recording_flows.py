"""How the tests run dataflows and record them."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from shared_template import left_by_runs
from waiting import TIMEOUT, all_nodes_run, wait_until

from dora.recording.mcap.recording import Recording
from dora.recording.opening import open_recording

DORA = [sys.executable, "-m", "dora"]

CAMERA = """
    import numpy as np
    from dora import Node

    node = Node()
    for count, event in enumerate(node):
        if event["type"] == "INPUT":
            node.send_output("image", np.full(3000, count % 256, np.uint8),
                             {"width": 50, "height": 20, "encoding": "rgb8"})
            node.send_output("spare", np.array([count]))
"""
SINK = """
    from dora import Node

    for event in Node():
        pass
"""
# A recording of a dataflow that runs already is whole unless the machine lets the recorder wait until a
# tap, which holds 32 messages, is full: at this rate for more than a second and a half.
FLOW = """
    nodes:
      - id: camera
        path: camera.py
        inputs: {tick: dora/timer/millis/50}
        outputs: [image, spare]
      - id: sink
        path: sink.py
        inputs: {image: camera/image}
"""
FAST = FLOW.replace("millis/50", "millis/10")


class Folder:
    """A folder with programs, the dataflows that were started in it and the commands that record them."""

    def __init__(self, directory: Path, root: str) -> None:
        self.directory = directory
        self.root = root
        self.processes: list[subprocess.Popen[str]] = []
        self.environment: dict[str, str] = {}  # added to that of the commands
        self.program("camera.py", CAMERA)
        self.program("sink.py", SINK)

    def program(self, name: str, text: str) -> None:
        (self.directory / name).write_text(textwrap.dedent(text))

    def flow(self, text: str = FLOW, name: str = "lab") -> str:
        """Write a dataflow file and return its path."""
        path = self.directory / f"{name}.yml"
        path.write_text(textwrap.dedent(text))
        return str(path)

    def run(self, text: str = FLOW, name: str = "lab") -> subprocess.Popen[str]:
        """Start a dataflow and return once its nodes run."""
        process = self.start("run", self.flow(text, name))
        wait_until(lambda: all_nodes_run(name) or process.poll() is not None, f"{name} to run")
        assert process.poll() is None, process.communicate()
        return process

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command, whose output is read at its end."""
        process = subprocess.Popen(
            [*DORA, *arguments],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **self.environment},
            **options,
        )
        self.processes.append(process)
        return process

    def attach(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command that records what runs, and return once it does."""
        before = len(self.recorders())
        process = self.start("record", *arguments, **options)
        wait_until(lambda: len(self.recorders()) > before or process.poll() is not None, "a recorder")
        return process

    def recorders(self) -> list[Any]:
        """Return those who record."""
        from dora.recording.recorder.control import statuses

        return [status for name in _runs(self.root) for status in statuses(f"{self.root}/{name}")]

    def dora(self, *arguments: str, status: int = 0) -> str:
        """Run a command to its end, expecting this exit status; return what it said."""
        return said(self.start(*arguments), status)

    def recording(self, name: str = "a.mcap") -> Recording:
        return open_recording(str(self.directory / name))

    def assert_nothing_left(self) -> None:
        # Of a command that was killed, its guardian removes it.
        wait_until(lambda: _runs(self.root) == [], lambda: f"the removal of {_runs(self.root)}")
        for dataflow_id in os.listdir(self.directory / "out") if (self.directory / "out").exists() else []:
            short = dataflow_id.replace("-", "")[-12:]
            assert glob.glob(f"/dev/shm/*{short}*") == [], "a run left its shared memory"


def said(process: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for the end of a command, expecting this exit status; return what it said, errors first."""
    output, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status, f"{process.args}: {process.returncode}\n{output}\n{errors}"
    assert "Traceback" not in errors
    return errors + output


def end(process: subprocess.Popen[str], status: int = 0) -> str:
    """End a command as Ctrl-C does."""
    process.send_signal(signal.SIGINT)
    return said(process, status)


def numbers(recording: Recording, topic: str) -> list[int]:
    """Return the sequence numbers of the messages of a topic."""
    return [item.sequence for item in recording.messages([topic])]


def _runs(root: str) -> list[str]:
    return sorted(left_by_runs(root))
