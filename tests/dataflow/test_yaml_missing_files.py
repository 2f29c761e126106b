"""Files that a dataflow names and that are not there; how files are read."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import dora.dataflow
from dora.dataflow.yaml.files import TooLarge, Unreadable, read_bytes, read_text
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


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder"])
def test_what_is_no_file_is_refused_and_not_left_open(tmp_path: Path, kind: str) -> None:
    path = str(tmp_path / "flow.yml")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        os.mkdir(path)
    elif kind == "device":
        path = os.devnull
    else:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)
    before = os.listdir("/dev/fd")
    with pytest.raises(Unreadable):
        read_text(path, "flow.yml")
    assert os.listdir("/dev/fd") == before


def test_a_file_may_have_as_many_bytes_as_the_limit_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "flow.yml"
    file.write_bytes(b"12345678")
    assert read_bytes(str(file), 8) == b"12345678"
    with pytest.raises(TooLarge):
        read_bytes(str(file), 7)


@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])
@pytest.mark.parametrize("size", [8, 9])
def test_a_pipe_from_the_shell_is_read_to_the_limit_and_stays_open(folder: str, size: int) -> None:
    if not os.path.exists(folder):
        pytest.skip("a folder of Linux")
    read, write = os.pipe()
    os.write(write, bytes(size))
    os.close(write)
    try:
        if size > 8:
            with pytest.raises(TooLarge):
                read_bytes(f"{folder}/{read}", 8)
        else:
            assert read_bytes(f"{folder}/{read}", 8) == bytes(8)
        os.fstat(read)
    finally:
        os.close(read)


def test_the_byte_order_mark_of_a_file_is_no_part_of_its_text(tmp_path: Path) -> None:
    (tmp_path / "flow.yml").write_bytes("\ufeffnodes: []".encode())
    assert read_text(str(tmp_path / "flow.yml"), "flow.yml") == "nodes: []"
