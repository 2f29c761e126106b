"""The benchmarks with a real rclpy run, whatever they find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.implementations import rclpy
from benchmarks.measures import chosen
from benchmarks.runner import run_programs

pytestmark = [pytest.mark.processes, pytest.mark.ros2]

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_the_cost_of_the_bridge_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.ros2", "--quick"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr  # 1: a goal was missed, as on a busy machine
    for row in ("latency, image of 64 KiB", "latency, image of 1 MiB", "processor time", "that was killed"):
        assert row in done.stdout, done.stdout + done.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("measure", ["round-trip-64kib", "throughput-drop-oldest-64kib", "steady-cpu"])
def test_rclpy_is_measured_beside_dora(measure: str) -> None:
    found = rclpy()
    assert found is not None
    (scenario,) = chosen(measure)
    scenario = scenario.scaled(0.1)
    values = {
        "BENCHMARK_MESSAGES": str(scenario.messages),
        "BENCHMARK_WARM_UP": str(scenario.warm_up),
        "BENCHMARK_BYTES": str(scenario.size),
    }
    run = run_programs(found.python, scenario.dataflow, scenario.rclpy, values)
    assert scenario.evaluate(scenario, run)[measure].value > 0
