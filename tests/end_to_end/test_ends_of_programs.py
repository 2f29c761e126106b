"""What a program sees at its end under plain Python it sees as a node and as an operator."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import yaml
from ends import NODES, OPERATORS, Left, Program, run_as_nodes, run_plainly
from flow import Flow
from system import System
from waiting import wait_until

pytestmark = pytest.mark.processes


def different(
    found: dict[str, Left], expected: dict[str, Left]
) -> list[tuple[str, str, bytes | int | None, bytes | int | None]]:
    """Return program, file, and what is in it; also for the exit status."""
    differences: list[tuple[str, str, bytes | int | None, bytes | int | None]] = []
    for program, left in expected.items():
        if found[program].status != left.status:
            differences.append((program, "status", found[program].status, left.status))
        differences += [
            (program, file, found[program].files.get(file), left.files.get(file))
            for file in sorted(left.files.keys() | found[program].files.keys())
            if found[program].files.get(file) != left.files.get(file)
        ]
    return differences


@pytest.mark.slow
@pytest.mark.both_ways
@pytest.mark.parametrize("programs", [NODES, OPERATORS], ids=["nodes", "operators"])
def test_a_program_leaves_what_it_leaves_under_plain_python(
    flow: Flow, tmp_path: Path, programs: dict[str, Program]
) -> None:
    (tmp_path / "plain").mkdir()
    expected = run_plainly(tmp_path / "plain", programs)
    found = run_as_nodes(flow, programs)
    assert not different(found, expected), "\n".join(map(str, different(found, expected)))


STOPPED_NODE = """
    import os
    from dora import Node

    log = open("node.log", "w")

    def main():
        for event in Node():
            log.write(event["type"] + "\\n")
            if not os.path.exists("node is ready"):
                open("node is ready", "w").close()

    main()
"""
STOPPED_OPERATOR = """
    import os
    from dora import DoraStatus

    number = 1 + len([name for name in os.listdir() if name.startswith("module")])
    of_module = open(f"module {number}.log", "w")
    of_module.write("text")

    def function():
        pass

    class Operator:
        def __init__(self):
            self.file = open(f"operator {number}.log", "w")

        def on_event(self, event, send_output):
            self.file.write(event["type"] + "\\n")
            open(f"operator {number} is ready", "w").close()
            return DoraStatus.STOP if number == 1 else DoraStatus.CONTINUE
"""


@pytest.mark.parametrize("preload", [True, False], ids=["template", "plain"])
def test_nothing_is_lost_when_a_started_dataflow_is_stopped(
    system: System, tmp_path: Path, preload: bool
) -> None:
    """Two operators have one file, and the first of them ends at once."""
    (tmp_path / "node.py").write_text(textwrap.dedent(STOPPED_NODE))
    (tmp_path / "op.py").write_text(textwrap.dedent(STOPPED_OPERATOR))
    inputs = {"tick": "dora/timer/millis/10"}
    operators = [{"id": name, "python": "op.py", "inputs": inputs} for name in ("one", "two")]
    nodes = [{"id": "node", "path": "node.py", "inputs": inputs}, {"id": "host", "operators": operators}]
    (tmp_path / "flow.yml").write_text(yaml.safe_dump({"nodes": nodes}))
    system.dora("up")
    dataflow_id = system.start("flow.yml", "--preload" if preload else "--no-preload")
    ready = [tmp_path / f"{name} is ready" for name in ("node", "operator 1", "operator 2")]
    wait_until(lambda: all(file.exists() for file in ready), "the first events")
    system.dora("stop", dataflow_id)
    logs = {file.name: file.read_text() for file in tmp_path.glob("*.log")}
    assert logs.pop("operator 1.log") == "INPUT\n"
    assert logs.pop("module 1.log") == logs.pop("module 2.log") == "text"
    for name in ("node.log", "operator 2.log"):
        assert re.fullmatch(r"(INPUT\n)+STOP\n", logs.pop(name)), name
    assert not logs
