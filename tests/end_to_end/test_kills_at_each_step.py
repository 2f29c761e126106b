"""``dora run`` is killed before each process that it starts, and each file that it makes or removes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from flow import Flow
from waiting import TIMEOUT, wait_until

from dora.wire.correlation import uuid7

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc and /dev/shm"),
]

SOURCE = """
    import subprocess
    from dora import Node

    node = Node()
    subprocess.Popen(["sleep", "1000"])  # ends with the node, or with the run
    node.send_output("out", b"message")
"""
SINK = """
    from dora import Node

    for event in Node():
        pass
"""
ENDS = 6  # how many of the thirty files that are removed at the end are tried


def run_and_kill(flow: Flow, step: int, *command: str) -> tuple[list[str], str]:
    """Kill a command before a step; return the steps that it has done, and the mark of its processes."""
    file, mark = flow.directory / "steps", f"KILLED={uuid7()}"
    file.unlink(missing_ok=True)
    killed = subprocess.run(
        [sys.executable, f"{os.path.dirname(__file__)}/killed_at.py", str(step), str(file), *command],
        env={**os.environ, "KILLED": mark.partition("=")[2]},
        cwd=flow.directory,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    steps = file.read_text().splitlines()
    ended = killed.returncode == 0 and (step == 0 or len(steps) < step)  # it had fewer steps this time
    assert ended or killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    return steps, mark


def left_by(flow: Flow, steps: list[str], mark: str) -> list[str]:
    """Return the processes and files that are left of a command."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(f"{pid}: {Path(f'/proc/{pid}/cmdline').read_text()}")
        except OSError:
            continue  # it has ended
    found += sorted(set(os.listdir(flow.root)) - {"lock"})
    made = {path for step in steps if (path := step.partition(" ")[2]).startswith(f"{flow.root}/")}
    names = {path.split("/")[len(flow.root.split("/"))] for path in made} - {"lock"}
    found += [name for name in os.listdir("/dev/shm") if any(short in name for short in names)]
    return found


def wait_for_nothing_left(flow: Flow, steps: list[str], mark: str) -> None:
    """Processes whose parent has ended are killed by the kernel, a moment later."""
    wait_until(
        lambda: not left_by(flow, steps, mark),
        lambda: f"the end of {left_by(flow, steps, mark)}, after {steps[-1:]}",
    )


@pytest.mark.parametrize("command", ["run", "build"])
def test_a_build_command_ends_with_a_command_that_is_killed(
    runtime_root: str, tmp_path: Path, command: str
) -> None:
    flow = Flow(tmp_path, runtime_root)
    flow.node(
        "slow", SINK, build="sh -c 'echo begun; sleep 1000'", inputs={"tick": "dora/timer/millis/100"}
    )
    mark = f"KILLED={uuid7()}"
    killed = subprocess.Popen(
        [sys.executable, "-m", "dora", command, flow.write()],
        env={**os.environ, "KILLED": mark.partition("=")[2]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert killed.stdout is not None
    while "begun" not in (line := killed.stdout.readline()) or "sleep" in line:
        assert line, "it has ended"
    killed.kill()
    killed.communicate()
    wait_for_nothing_left(flow, [], mark)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["--preload", "--no-preload"])
def test_a_run_that_is_killed_before_any_step_leaves_nothing(
    runtime_root: str, tmp_path: Path, way: str
) -> None:
    flow = Flow(tmp_path, runtime_root)
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("sink", SINK, inputs={"in": "source/out"})
    command = ("run", flow.write(), way)
    steps, mark = run_and_kill(flow, 0, *command)
    wait_for_nothing_left(flow, steps, mark)
    starts = [
        number for number, step in enumerate(steps, 1) if "remove" not in step and "rmdir" not in step
    ]
    ends = sorted(set(range(1, len(steps) + 1)) - set(starts))
    programs = [step for step in steps if step.startswith("subprocess.Popen")]
    assert "guardian.py" in programs[0]
    first_file = next(step for step in steps if step.startswith(f"os.mkdir {flow.root}/"))
    assert steps.index(programs[0]) < steps.index(first_file)
    for step in [*starts, *ends[:: len(ends) // ENDS]]:
        done, mark = run_and_kill(flow, step, *command)
        wait_for_nothing_left(flow, done, mark)
