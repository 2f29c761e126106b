"""The fixtures that come with dora, in a pytest of their own."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

TESTS = """
import sys

import pytest
import pyarrow as pa

from dora import DoraStatus


def double(node):
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("twice", pa.array([2 * event["value"][0].as_py()]))


def test_mock(dora_mock_node):
    node = dora_mock_node([("n", pa.array([2]))])
    double(node)
    assert node.outputs["twice"][0].to_pylist() == [4]


def test_node(dora_node):
    assert dora_node(double, [("n", pa.array([3]))]).outputs["twice"][0].value.to_pylist() == [6]


class Operator:
    def on_event(self, event, send_output):
        if event["type"] == "INPUT":
            send_output("same", event["value"])
        return DoraStatus.CONTINUE


def test_operator(dora_operator):
    assert len(dora_operator(Operator, [("n", b"")], outputs=["same"]).outputs["same"]) == 1


FLOW = '''
nodes:
  - id: a
    path: a.py
    outputs: [n]
  - id: b
    path: b.py
    inputs: {n: a/n}
    outputs: [twice]
'''


def test_dataflow(dora_dataflow):
    flow = dora_dataflow(FLOW, nodes={"b": double}, play=["a"])
    flow.node("a").send_output("n", pa.array([5]))
    flow.advance(0)
    assert flow.outputs["b/twice"][0].value.to_pylist() == [10]


def test_an_unseen_failure_fails_the_test(dora_dataflow):
    def fail(node):
        raise RuntimeError("unseen")

    dora_dataflow(FLOW, nodes={"b": fail, "a": double})


def test_an_unseen_failure_of_the_first_dataflow_fails_the_test(dora_dataflow):
    def fail(node):
        raise RuntimeError("first")

    dora_dataflow(FLOW, nodes={"b": fail, "a": double})
    dora_dataflow(FLOW, nodes={"b": double}, play=["a"])


def test_a_dataflow_after_a_failure(dora_dataflow):
    dora_dataflow(FLOW, nodes={"b": double}, play=["a"])
    dora_dataflow(FLOW, nodes={"b": double}, play=["a"]).close()
"""


def test_pytest_finds_the_fixtures() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="pytest11")}
    assert found["dora"] == "dora.testing.pytest_plugin"


@pytest.mark.processes
def test_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "7 passed, 2 errors" in done.stdout, done.stdout
    assert "RuntimeError: unseen" in done.stdout
    assert "RuntimeError: first" in done.stdout
    assert "another virtual dataflow is open" not in done.stdout


@pytest.mark.processes
def test_unused_fixtures_cost_pytest_next_to_nothing() -> None:
    script = "import sys, pytest; before = set(sys.modules); import dora.testing.pytest_plugin\n"
    script += "print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.startswith("dora")]
    assert ours == ["dora", "dora._lean", "dora._version", "dora.testing", "dora.testing.pytest_plugin"]
    assert not {"numpy", "pyarrow", "asyncio", "click"} & set(done.stdout.split())
