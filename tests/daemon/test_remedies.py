"""Remedies for what a failed program has printed."""

from __future__ import annotations

from pathlib import Path
from signal import SIGKILL, SIGSEGV

import pytest

from dora.daemon.processes.interpreter import Interpreter
from dora.daemon.remedies import FailedProgram, failed_program, remedy
from dora.dataflow.model import Dataflow, NodeSpec, OperatorSpec

PROGRAM = FailedProgram("/usr/bin/python3", "/usr/bin/python3 -m pip install", ("/lab",), "/lab")
MISSING = ("Traceback (most recent call last):", "ModuleNotFoundError: No module named 'cv2'")


def test_the_package_of_a_module_is_named() -> None:
    assert remedy(MISSING, None, PROGRAM) == (
        "`cv2` is not installed for /usr/bin/python3, which ran this: "
        "/usr/bin/python3 -m pip install opencv-python"
    )
    of_python = ("ModuleNotFoundError: No module named 'tkinter'",)
    assert remedy(of_python, None, PROGRAM).startswith(
        "`tkinter` is a part of Python that /usr/bin/python3 lacks"
    )
    assert remedy(("ModuleNotFoundError: No module named 'cv2.nothing'",), None, PROGRAM) == ""


@pytest.mark.parametrize(
    ("node", "interpreter", "command", "installs"),
    [
        (
            NodeSpec("a", path="a.py"),
            Interpreter(("/nowhere/bin/python",)),
            ("/nowhere/bin/python", "-u", "a.py"),
            "uv pip install --python /nowhere/bin/python",
        ),
        (
            NodeSpec("a", path="a.py"),
            Interpreter(("uv", "run", "python"), ("uv", "run")),
            ("uv", "run", "python", "-u", "a.py"),
            "uv add",
        ),
        (
            NodeSpec("a", operators=(OperatorSpec("o", "o.py", conda_env="vision"),)),
            Interpreter(),
            ("conda", "run", "-n", "vision", "python", "-u", "-m", "dora.runtime"),
            "conda run -n vision python -m pip install",
        ),
    ],
    ids=["uv's environment", "uv run", "conda"],
)
def test_a_package_is_installed_where_the_node_ran(
    node: NodeSpec, interpreter: Interpreter, command: tuple[str, ...], installs: str
) -> None:
    program = failed_program(Dataflow((node,), "/lab"), node, interpreter, command)
    assert remedy(MISSING, None, program).endswith(f": {installs} opencv-python")


def test_only_the_python_that_has_run_a_program_is_named(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    (tmp_path / "bin" / "python3").symlink_to("python")
    tool = tmp_path / "tool"
    node = NodeSpec("a", path="tool")

    def remedy_of(first_line: str, interpreter: Interpreter, *words: str) -> str:
        tool.write_text(f"{first_line}\n")
        command = (*words, str(tool))
        return remedy(MISSING, None, failed_program(Dataflow((node,), "/lab"), node, interpreter, command))

    own = Interpreter((str(python),))
    assert f"not installed for {python}, which ran this" in remedy_of(f"#!{python}", own)
    assert f"not installed for {python}, which ran this" in remedy_of(f"#!{python}3", own)
    for line in ("#!/usr/bin/python3", "#!/usr/bin/env python3", "#!/bin/sh", "\x7fELF"):
        assert remedy_of(line, own) == ""
    uv_run = Interpreter(("uv", "run", "python"), ("uv", "run"))
    assert remedy_of("#!/usr/bin/python3", uv_run, "uv", "run") == ""


@pytest.mark.parametrize("module", ["dora", "google"])
def test_no_package_is_guessed_for_a_module(module: str) -> None:
    assert remedy((f"ModuleNotFoundError: No module named '{module}'",), None, PROGRAM) == ""


def test_what_opencv_5_no_longer_has_is_in_opencv_4() -> None:
    line = "AttributeError: module 'cv2' has no attribute '{}'"
    assert remedy((line.format("CascadeClassifier"),), None, PROGRAM) == (
        "OpenCV 5 has no `cv2.CascadeClassifier`, OpenCV 4 has: "
        "/usr/bin/python3 -m pip install 'opencv-python<5'"
    )
    assert remedy((line.format("imred"),), None, PROGRAM) == ""


@pytest.mark.parametrize(
    "line",
    [
        "ValueError: assignment destination is read-only",
        "ValueError: output array is read-only",
        "ValueError: sort array is read-only",
        "TypeError: cannot modify read-only memory",
        " > - img marked as output argument, but provided NumPy array marked as readonly",
    ],
)
def test_a_write_to_a_received_array_has_a_remedy(line: str) -> None:
    assert "`array = array.copy()`" in remedy(("Traceback (most recent call last):", line), None, PROGRAM)


def test_only_crashes_have_the_remedy_for_crashes() -> None:
    assert "PYTHONFAULTHANDLER" in remedy((), SIGSEGV, PROGRAM)
    assert remedy((), SIGKILL, PROGRAM) == ""
    assert remedy(("Fatal Python error: Segmentation fault",), SIGSEGV, PROGRAM) == ""


def test_a_missing_key_of_something_else_has_no_remedy() -> None:
    lines = (
        '  File "a.py", line 3, in <module>',
        "    settings[name]",
        "    ~~~~~~~~^^^^^^",
        "KeyError: 'value'",
    )
    assert remedy(lines, None, PROGRAM) == ""
    lines = (
        '  File "a.py", line 3, in <module>',
        "    event['value']",
        "    ~~~~~^^^^^^^^^",
        "KeyError: 'value'",
    )
    assert remedy(lines, None, PROGRAM).startswith('only an event of the type "INPUT"')
