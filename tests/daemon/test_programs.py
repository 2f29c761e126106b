"""Commands that are not there are told before anything is started, all at once, where they are named."""

from __future__ import annotations

from pathlib import Path

import pytest

import dora.dataflow
from dora.daemon.build.build import check_programs, missing
from dora.dataflow.model import Dataflow
from dora.errors import DataflowError


def load(folder: Path, text: str) -> Dataflow:
    file = folder / "flow.yml"
    file.write_text(text)
    return dora.dataflow.load(file)


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.fixture(autouse=True)
def search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on the PATH, besides that of the interpreter."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_every_missing_command_and_file_is_reported_in_the_order_of_the_lines(tmp_path: Path) -> None:
    program(tmp_path / "plain", 0o644)
    text = """nodes:
  - id: a
    path: no-camera
  - {id: b, path: b.py}
  - {id: c, path: no-plot}
  - {id: d, path: plain}
"""
    first, second, third, fourth = missing(load(tmp_path, text))
    assert (first.file, first.line, first.column) == (str(tmp_path / "flow.yml"), 3, 11)
    assert first.message.startswith(
        f"the node `a` cannot be started: there is no file {tmp_path}/no-camera, and there is no program "
        "`no-camera` on PATH or beside "
    )
    assert first.hint == "install it, for example with a `build` line"
    assert (second.line, third.line, third.column) == (4, 5, 19)
    assert (fourth.line, fourth.hint) == (6, "")
    assert fourth.message.endswith("plain is not executable; use chmod +x, or a .py file")


def test_commands_that_are_there(tmp_path: Path, search: Path) -> None:
    program(search / "camera")
    program(tmp_path / "beside")
    program(tmp_path / "own" / "robot")
    text = f"""nodes:
  - {{id: on-the-path, path: camera}}
  - {{id: in-the-folder, path: beside}}
  - {{id: of-this-environment, path: dora}}
  - {{id: that-comes-with-dora, path: dora-replay}}
  - {{id: on-a-path-of-its-own, path: robot, env: {{PATH: "{tmp_path}/own"}}}}
  - {{id: dynamic, path: dynamic}}
  - {{id: shell, path: shell, args: no-such-command}}
"""
    dataflow = load(tmp_path, text)
    assert missing(dataflow) == []
    check_programs(dataflow, uv=False)


def test_programs_of_a_build_and_of_other_machines_are_not_missing(tmp_path: Path) -> None:
    built = load(
        tmp_path,
        "nodes: [{id: a, path: plot}, {id: b, path: rec, build: pip install plot}, {id: c, path: d.py}]",
    )
    assert [problem.message.split("`")[1] for problem in missing(built)] == [f"{tmp_path}/d.py"]
    distributed = load(
        tmp_path, "nodes: [{id: a, path: plot, deploy: {machine: arm}}, {id: b, path: rec, deploy: {}}]"
    )
    (problem,) = missing(distributed)
    assert "the node `b`" in problem.message


def test_after_the_build_everything_has_to_be_there(tmp_path: Path) -> None:
    text = """nodes:
  - {id: a, path: plot}
  - {id: b, path: made.py, build: make}
  - {id: c, operator: {python: op.py, build: make}}
"""
    with pytest.raises(DataflowError) as caught:
        check_programs(load(tmp_path, text), uv=False)
    messages = [problem.message for problem in caught.value.problems]
    assert messages[0].startswith("the node `a` cannot be started")
    assert messages[1:] == [
        f"the node `b` cannot be started: there is no file {tmp_path}/made.py",
        f"the operator of the node `c` cannot be started: there is no file {tmp_path}/op.py",
    ]
    for name in ("made.py", "op.py"):
        (tmp_path / name).touch()
    with pytest.raises(DataflowError) as caught:
        check_programs(load(tmp_path, text), uv=False)
    assert len(caught.value.problems) == 1


def test_a_module_that_is_used_twice_misses_its_command_once(tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text("module: {name: m}\nnodes: [{id: n, path: no-such-command}]\n")
    dataflow = load(tmp_path, "nodes: [{id: x, module: m.yml}, {id: y, module: m.yml}]")
    (problem,) = missing(dataflow)
    assert (problem.file, problem.line) == (str(tmp_path / "m.yml"), 2)
