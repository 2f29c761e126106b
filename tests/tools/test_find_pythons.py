"""The interpreters that `.ci/run` tests with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools/find_pythons.py"


@pytest.fixture
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("find_pythons", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(folder: Path, name: str, script: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_this_python_is_one_of_the_named_ones(tool: ModuleType) -> None:
    assert sys.version_info[:2] in tool.named_versions()


@pytest.mark.processes
def test_an_interpreter_of_each_version_comes_from_the_first_folder(
    tool: ModuleType, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    program(first, "python3", "echo 3 10")  # too old
    oldest = program(first, "python3.11", "echo 3 11")
    program(first, "python3.12", "echo 'pyenv: python3.12: command not found' >&2; exit 127")
    middle = program(second, "python3", "echo 3 12")
    newest = program(second, "python3.13", "echo 3 13")
    program(second, "python3.11", "echo 3 11")
    folders = [str(first), str(tmp_path / "nowhere"), str(second)]
    found = tool.find(folders, [(3, 11), (3, 12), (3, 13)])
    assert found == {(3, 11): oldest, (3, 12): middle, (3, 13): newest}


@pytest.mark.processes
@pytest.mark.parametrize("others", [False, True], ids=["one", "three"])
def test_the_oldest_and_the_newest_are_printed(
    tool: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    others: bool,
) -> None:
    oldest = newest = program(tmp_path, "python3", "echo 3 11")
    if others:
        program(tmp_path, "python3.12", "echo 3 12")
        newest = program(tmp_path, "python3.13", "echo 3 13")
    wanted = [oldest, newest] if others else [oldest]
    found = tool.find([str(tmp_path)], tool.named_versions())
    monkeypatch.setattr(tool, "find", lambda *_: found)
    tool.main()
    assert capsys.readouterr().out.splitlines() == wanted
