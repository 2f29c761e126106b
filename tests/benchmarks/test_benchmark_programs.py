"""Programs that do the same as a dataflow without dora, as the ones of rclpy."""

from __future__ import annotations

import sys

import pytest
from benchmarks.runner import RunFailed, run_programs

pytestmark = pytest.mark.processes

FIRST = """
import json, os, pathlib
found = {"node": os.environ["NODE"], "messages": os.environ["BENCHMARK_MESSAGES"]}
pathlib.Path(os.environ["BENCHMARK_RESULTS"], "first.json").write_text(json.dumps(found))
"""
ENDLESS = """
import os, pathlib, signal, threading
def end(*_):
    pathlib.Path(os.environ["BENCHMARK_RESULTS"], "second.json").write_text('"was asked to end"')
    os._exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path("ready").touch()
threading.Event().wait()
"""
AFTER_THE_OTHER = """
import pathlib, time
while not pathlib.Path("ready").exists():
    time.sleep(0.01)
"""
BOTH = (("ping", "first.py"), ("echo", "second.py"))


def test_the_others_end_when_the_first_has() -> None:
    files = {"round_trip/first.py": AFTER_THE_OTHER + FIRST, "round_trip/second.py": ENDLESS}
    run = run_programs(sys.executable, "round_trip/dataflow.yml", BOTH, {"BENCHMARK_MESSAGES": "5"}, files)
    assert run.result("first") == {"node": "ping", "messages": "5"}
    assert run.result("second") == "was asked to end"
    assert run.cpu_s > 0


def test_a_program_that_fails_is_told_with_its_last_lines() -> None:
    files = {"round_trip/first.py": "raise SystemExit('no rclpy')", "round_trip/second.py": ""}
    with pytest.raises(RunFailed, match="it exited with 1") as caught:
        run_programs(sys.executable, "round_trip/dataflow.yml", BOTH, {}, files)
    assert "no rclpy" in str(caught.value)


def test_a_program_that_does_not_end_is_killed() -> None:
    files = {"round_trip/first.py": ENDLESS, "round_trip/second.py": ""}
    with pytest.raises(RunFailed, match="it did not end within 1 s"):
        run_programs(sys.executable, "round_trip/dataflow.yml", BOTH, {}, files, timeout_s=1)
