"""User programs under the strict modes of type checkers: right ones pass, wrong ones do not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

HERE = Path(__file__).parent / "typing"
ROOT = HERE.parent.parent


def run(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    return done.stdout + done.stderr


def mypy(file: str) -> dict[int, str]:
    """Return the errors by line."""
    pytest.importorskip("mypy")
    out = run(
        "mypy",
        "--strict",
        "--no-error-summary",
        "--no-pretty",
        "--config-file=",
        "--follow-imports=silent",
        "--disable-error-code=import-untyped",
        "--no-warn-unused-ignores",
        "--strict-equality",
        str(HERE / file),
    )
    found = re.findall(rf"{file}:(\d+): error: (.*)", out)
    assert found or not out.strip(), out
    return {int(line): text for line, text in found}


def pyright(file: str, directory: Path) -> dict[int, str]:
    pytest.importorskip("pyright")
    shutil.copy(HERE / file, directory)
    project = directory / "pyrightconfig.json"
    project.write_text(
        json.dumps(
            {
                "include": [file],
                "typeCheckingMode": "strict",
                "pythonVersion": "3.11",
                # Of pyarrow, which has no types of its own.
                "reportMissingTypeStubs": False,
                "reportUnknownMemberType": False,
                "reportUnknownArgumentType": False,
                "reportUnknownVariableType": False,
            }
        )
    )
    out = run("pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(project))
    try:
        report = json.loads(out[out.index("{") :])
    except ValueError:
        pytest.skip(f"pyright does not run here: {out[-300:]}")
    assert report["summary"]["filesAnalyzed"] == 1
    return {
        item["range"]["start"]["line"] + 1: item["message"]
        for item in report["generalDiagnostics"]
        if item["severity"] == "error"
    }


def wrong_lines() -> set[int]:
    lines = (HERE / "wrong.py").read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if "# wrong" in line}


def test_mypy_accepts_a_right_program() -> None:
    assert mypy("right.py") == {}


def test_mypy_rejects_every_mistake() -> None:
    found = mypy("wrong.py")
    assert set(found) == wrong_lines(), found


def test_pyright_accepts_a_right_program(tmp_path: Path) -> None:
    assert pyright("right.py", tmp_path) == {}


def test_pyright_rejects_every_mistake(tmp_path: Path) -> None:
    found = pyright("wrong.py", tmp_path)
    assert set(found) >= wrong_lines(), found
