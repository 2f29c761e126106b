"""Files that a dataflow names and that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

import dora.dataflow
from dora.errors import Problem


def missing(folder: Path, text: str) -> list[Problem]:
    file = folder / "flow.yml"
    file.write_text(text)
    return dora.dataflow.missing_files(dora.dataflow.load(file))


def test_nothing_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    (tmp_path / "o.py").touch()
    text = f"""nodes:
  - {{id: a, path: a.py}}
  - {{id: b, path: "{tmp_path}/a.py"}}
  - {{id: built, path: later.py, build: make later.py}}
  - {{id: command, path: opencv-plot}}
  - {{id: dynamic, path: dynamic}}
  - {{id: shell, path: shell, args: x.py}}
  - {{id: rt, operator: {{python: o.py}}}}
  - {{id: rt2, operators: [{{id: x, python: later.py, build: make}}]}}
"""
    assert missing(tmp_path, text) == []


def test_each_missing_file_is_shown_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "camera.py").touch()
    text = """nodes:
  - id: a
    path: src/camra.py
  - id: b
    operator: {python: zzz.py}
  - id: c
    operators:
      - {id: x, python: o.py, build: make}
      - id: y
        python:
          source: yyy.py
"""
    first, second, third = missing(tmp_path, text)
    assert (first.line, first.source[first.column - 1 :]) == (3, "src/camra.py")
    assert first.hint == "did you mean `src/camera.py`?"
    assert first.message == f"there is no file `{tmp_path}/src/camra.py`, which the node `a` runs"
    assert (second.line, second.column) == (5, 24)
    assert "the operator of the node `b`" in second.message
    assert "relative to the folder of the dataflow file" in second.hint
    assert (third.line, third.column) == (11, 19)
    assert first.file == str(tmp_path / "flow.yml")


def test_programs_in_a_folder_are_files_and_the_home_folder_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here.py").touch()
    text = "nodes: [{id: a, path: ~/here.py}, {id: b, path: bin/driver}, {id: c, path: /no/driver}]"
    assert [problem.message.split("`")[1] for problem in missing(tmp_path, text)] == [
        f"{tmp_path}/bin/driver",
        "/no/driver",
    ]


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").mkdir()
    assert len(missing(tmp_path, "nodes: [{id: a, path: a.py}]")) == 1


def test_a_folder_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (problem,) = missing(tmp_path, "nodes:\n  - {id: a, path: src/}\n")
    assert problem.message == f"`{tmp_path}/src/` is a folder, and the node `a` needs a file to run"
    assert problem.hint == "give the program in that folder"
