"""``dora logs --follow`` without a coordinator goes on until the dataflow ends."""

from __future__ import annotations

import subprocess

import pytest
from waiting import TIMEOUT
from watching import CAMERA, DORA, Running, end

pytestmark = pytest.mark.processes

ARGUMENTS = [["--local"], []]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=["local", "found"])
def test_it_ends_with_the_dataflow_and_at_once_after_it(
    running: Running, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_COORDINATOR_PORT", "1")  # nobody listens there
    monkeypatch.chdir(running.directory)
    running.program("camera.py", CAMERA.replace("count += 1", "count += 1; print(count, flush=True)"))
    process = running()
    follow = running.popen([*DORA, "logs", "--follow", *arguments], stdout=subprocess.PIPE, text=True)
    assert follow.stdout is not None
    follow.stdout.readline()
    assert follow.poll() is None
    end(process)
    follow.communicate(timeout=TIMEOUT)
    assert follow.returncode == 0
    later = running.popen([*DORA, "logs", "--follow", *arguments], stdout=subprocess.PIPE, text=True)
    later.communicate(timeout=TIMEOUT)
    assert later.returncode == 0
