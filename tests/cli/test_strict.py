"""What goes wrong although no node fails: the last line, and the exit status with ``--strict``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import TIMEOUT

import dora
from dora.daemon.logs.entry import LogEntry
from dora.errors import DataflowFailed

pytestmark = pytest.mark.processes

TYPO = """
from dora import Node
Node().send_output("imge", b"x")
"""
FLOOD = """
from dora import Node
node = Node()
for _ in range(100):
    node.send_output("image", b"x")
open("sent", "wb").close()
"""
LATE = """
from dora import Node
node = Node()
open("sent", "rb").read()
for event in node:
    pass
"""
DEAF = """
import signal
from dora import Node
node = Node()
print("deaf")
signal.pause()
"""
# The programs, and the trouble that the last line names.
TROUBLE = {
    "typo": ({"camera": TYPO}, "`camera` sent to `imge`, which is not declared"),
    "lost": ({"camera": FLOOD, "eye": LATE}, "`eye/image` lost 90 of 100 messages"),
    "killed": ({"camera": DEAF}, "`camera` did not end at STOP and had to be ended by SIGTERM"),
}
GRACE = 2  # seconds; half of it has to be enough for a process to end


def write(folder: Path, programs: dict[str, str]) -> None:
    nodes: list[dict[str, object]] = [{"id": "camera", "path": "camera.py", "outputs": ["image"]}]
    if "eye" in programs:
        nodes.append({"id": "eye", "path": "eye.py", "inputs": {"image": "camera/image"}})
        # `LATE` waits here for the end of the flood.
        subprocess.run(["mkfifo", folder / "sent"], check=True)
    for name, program in programs.items():
        (folder / f"{name}.py").write_text(program)
    (folder / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))


def run(folder: Path, *options: str) -> tuple[int, str]:
    """Return the exit status of `dora run` and its last line; it is interrupted once a node is deaf."""
    with open(folder / "errors", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "dora", "run", f"--grace-duration={GRACE}s", *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    with process, process.stdout:
        for line in process.stdout:
            if line.endswith("deaf\n"):
                process.send_signal(signal.SIGINT)
        status = process.wait(TIMEOUT)
    return status, (folder / "errors").read_text().splitlines()[-1]


@pytest.mark.parametrize("trouble", TROUBLE)
def test_the_last_line_says_what_went_wrong(tmp_path: Path, trouble: str) -> None:
    programs, what = TROUBLE[trouble]
    write(tmp_path, programs)
    assert run(tmp_path) == (0, f"warning: dataflow.yml: {what} (an error with --strict)")


@pytest.mark.parametrize("trouble", ["lost", "killed"])
def test_trouble_is_an_error_with_strict(tmp_path: Path, trouble: str) -> None:
    programs, what = TROUBLE[trouble]
    write(tmp_path, programs)
    assert run(tmp_path, "--strict") == (1, f"error: dataflow.yml: {what} (--strict)")


def test_an_undeclared_output_fails_its_node_with_strict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"camera": TYPO})
    monkeypatch.setenv("DORA_STRICT", "1")
    status, last = run(tmp_path)
    assert status == 1
    assert last.startswith("error: dataflow.yml: node `camera` exited with status 1: ")


def test_a_short_queue_asks_for_its_losses(tmp_path: Path) -> None:
    write(tmp_path, {"camera": FLOOD, "eye": LATE})
    file = tmp_path / "dataflow.yml"
    asking = file.read_text().replace('"camera/image"', '{"source": "camera/image", "queue_size": 1}')
    file.write_text(asking)
    status, last = run(tmp_path, "--strict")
    assert (status, last.partition(",")[0]) == (0, "camera/image -> eye/image: 1 of 100 messages received")


@pytest.mark.slow
def test_a_strict_run_from_python_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, {"camera": DEAF})

    def interrupt(entry: LogEntry) -> None:
        if entry.message == "deaf":
            os.kill(os.getpid(), signal.SIGINT)

    assert dora.run("dataflow.yml", grace=GRACE, on_log=interrupt).overdue == ("camera",)
    with pytest.raises(DataflowFailed, match="`camera` did not end at STOP"):
        dora.run("dataflow.yml", strict=True, grace=GRACE, on_log=interrupt)
    monkeypatch.setenv("DORA_STRICT", "1")
    with pytest.raises(DataflowFailed, match="`camera` did not end at STOP"):
        dora.run("dataflow.yml", grace=GRACE, on_log=interrupt)
    assert dora.run("dataflow.yml", strict=False, grace=GRACE, on_log=interrupt).overdue == ("camera",)
