"""The floors of links between machines run over a real connection."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.implementations import REPOSITORY
from benchmarks.network_floors import KINDS, PAIRS
from ports import free_port
from waiting import TIMEOUT

MESSAGES, WARM_UP, SIZE = 30, 10, 100_000


def run(kind: str, pair: str, results: Path) -> dict[str, Any]:
    """Run both processes to their end, and return what they wrote."""
    arguments = [pair, "127.0.0.1", str(free_port()), str(SIZE), str(WARM_UP), str(MESSAGES), str(results)]

    def start(role: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.network_floors", kind, role, *arguments]
        return subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE)

    second = start("second")
    try:
        first = start("first")
        try:
            first.communicate(timeout=TIMEOUT)
        finally:
            first.kill()
        second.communicate(timeout=TIMEOUT)
    finally:
        second.kill()
    assert (first.returncode, second.returncode) == (0, 0)
    (file,) = results.iterdir()
    return {file.name: json.loads(file.read_text())}


@pytest.mark.processes
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_floor_yields_the_figures_of_the_nodes(kind: str, pair: str, tmp_path: Path) -> None:
    ((name, result),) = run(kind, pair, tmp_path).items()
    if pair == "round_trip":
        assert name == "ping.json"
        assert len(result["times_ns"]) == MESSAGES
        assert result["lost"] == 0
    else:
        assert name == "receiver.json"
        assert result["received"] == WARM_UP + MESSAGES
        assert result["started_ns"] < result["last_ns"]
