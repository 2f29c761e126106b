"""The files of a look back on a coordinator's page, with a real black box."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from system import FOREVER, System, own_system
from tokens import bearer
from waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.processes

CLOCK = """
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("tick", b"now")
"""
FLOW = """
nodes:
  - {id: clock, path: clock.py, inputs: {tick: dora/timer/millis/20}, outputs: [tick]}
  - {id: sink, path: sink.py, inputs: {tick: clock/tick}}
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    (tmp_path / "temp").mkdir()
    monkeypatch.setenv("DORA_BLACK_BOX", "")  # the tests have it off
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    with own_system(tmp_path, monkeypatch) as system:
        system.dora("up")
        yield system


def ask(system: System, method: str, path: str) -> int:
    """Send a request with the token; return the status."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{system.port}/dashboard/{path}",
        method=method,
        headers=bearer(),
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_they_go_with_the_coordinator(system: System, tmp_path: Path) -> None:
    (tmp_path / "clock.py").write_text(CLOCK)
    (tmp_path / "sink.py").write_text(FOREVER)
    (tmp_path / "flow.yml").write_text(FLOW)
    run = system.start("flow.yml")
    wait_until(lambda: ask(system, "POST", f"{run}/past") == 200, "the black box")
    assert list((tmp_path / "temp").glob("dora-past-*/1.mcap"))
    assert ask(system, "DELETE", f"{run}/recordings/{'9' * 5000}") == 404
    system.dora("stop", run)
    system.dora("down")
    assert not list((tmp_path / "temp").glob("dora-past-*"))
