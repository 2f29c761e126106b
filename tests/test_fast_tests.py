"""``pytest --fast`` leaves lengthy tests out, and those that start a process: each of them has a mark."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

TESTS = Path(__file__).parent

MARKED = """
import subprocess, sys
import pytest

@pytest.mark.processes
def test_marked():
    subprocess.run([sys.executable, "-c", ""], check=True)

@pytest.mark.lengthy
def test_lengthy():
    pass
"""

UNMARKED = """
import os, subprocess, sys

def test_start():
    subprocess.run([sys.executable, "-c", ""], check=True)

def test_start_behind_an_except():
    try:
        os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {})
    except BaseException:
        pass

def test_fork():
    if os.fork() == 0:
        os._exit(0)

def test_nothing():
    pass
"""


def run_tests(folder: Path, text: str, *options: str) -> str:
    for name in ("conftest.py", "ports.py", "shared_template.py"):
        (folder / name).write_text((TESTS / name).read_text())
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  processes\n  lengthy\n")
    (folder / "test_some.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-rA", *options, "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_fast_leaves_out_the_marked_tests(tmp_path: Path) -> None:
    assert "2 deselected" in run_tests(tmp_path, MARKED, "--fast")


def test_a_marked_test_may_start_a_process(tmp_path: Path) -> None:
    assert "2 passed" in run_tests(tmp_path, MARKED)


def test_an_unmarked_test_that_starts_a_process_fails(tmp_path: Path) -> None:
    printed = run_tests(tmp_path, UNMARKED)
    assert "3 failed, 1 passed" in printed
    assert "starts a process: subprocess.Popen" in printed
    assert "This test starts a process (os.posix_spawn" in printed
    assert "PASSED test_some.py::test_nothing" in printed


def test_long_tests_are_marked_too() -> None:
    """`make test` does not run them, so it would not report that they fail for this reason."""
    texts = {path: path.read_text() for path in TESTS.rglob("test_*.py")}
    unmarked = [
        path.name
        for path, text in texts.items()
        if re.search(r"mark\.(stress|packages)\b", text) and "mark.processes" not in text
    ]
    assert unmarked == []
