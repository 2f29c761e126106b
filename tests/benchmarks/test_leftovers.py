"""A benchmark leaves nothing of the runs that it measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.runner import zenoh_files_removed

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="shared memory of Zenoh on Linux"),
]

REPOSITORY = Path(__file__).parents[2]
# Prints the shared memory that it has open.
USES_ZENOH = """
import glob, os, signal, zenoh
memory = zenoh.shm.ShmProvider.default_backend(4096)
targets = {os.path.realpath(path) for path in glob.glob("/proc/self/fd/*")}
print(*(target for target in targets if target.endswith(".zenoh")), flush=True)
"""
IS_KILLED = USES_ZENOH + "os.kill(os.getpid(), signal.SIGKILL)"
MEASURES = """
import sys
from pathlib import Path
from benchmarks.runner import Implementation, RunFailed, run_dataflow

try:
    killed = Implementation("killed", (sys.executable, "-c", sys.argv[1]), Path(sys.prefix))
    run_dataflow(killed, "start_to_end/dataflow.yml", {})
except RunFailed as error:
    print(error)
"""


def test_the_shared_memory_of_a_killed_run_is_removed() -> None:
    command = [sys.executable, "-c", MEASURES, IS_KILLED]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    complaint, line = done.stdout.splitlines()
    assert complaint.startswith("it exited with -9"), done.stdout + done.stderr
    files = [Path(name) for name in line.split()]
    assert files
    assert not any(file.exists() for file in files)


def test_shared_memory_that_another_process_uses_stays() -> None:
    with zenoh_files_removed():  # what the other process leaves at its end
        with zenoh_files_removed():
            other = subprocess.Popen(
                [sys.executable, "-c", USES_ZENOH + "input()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert other.stdout is not None
            files = [Path(name) for name in other.stdout.readline().split()]
        stay = [file.exists() for file in files]
        other.communicate("\n", timeout=60)
    assert stay
    assert all(stay)
    assert not any(file.exists() for file in files)
