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

# What a newcomer reads, types and begins with.
TUTORIAL = (
    "README.md",
    "docs/start.md",
    "docs/how-to/operators.md",
    "docs/how-to/parameters.md",
    "docs/how-to/services.md",
    "docs/how-to/actions.md",
    "docs/reference/python-api.md",
)
PROGRAM = re.compile(r"^<!-- file: (?P<name>\w+\.py) -->\n```python\n(?P<text>.*?)^```$", re.M | re.S)
OPERATOR = re.compile(r"^```python\n(?P<text>(?:(?!```).)*?^class Operator.*?)^```$", re.M | re.S)


def run(*command: str, folder: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=folder, check=False
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
        "--strict-equality",
        str(HERE / file),
    )
    found = re.findall(rf"{file}:(\d+): error: (.*)", out)
    assert found or not out.strip(), out
    return {int(line): text for line, text in found}


def pyright(folder: Path) -> list[tuple[Path, int, str]]:
    """Return file, line and message of the errors in a folder, in strict mode."""
    pytest.importorskip("pyright")
    project = folder / "pyrightconfig.json"
    project.write_text(
        json.dumps({"include": ["."], "typeCheckingMode": "strict", "pythonVersion": "3.11"})
    )
    out = run("pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(project))
    report = json.loads(out[out.index("{") :])
    assert report["summary"]["filesAnalyzed"] == len(list(folder.rglob("*.py")))
    return [
        (Path(item["file"]).relative_to(folder), item["range"]["start"]["line"] + 1, item["message"])
        for item in report["generalDiagnostics"]
        if item["severity"] == "error"
    ]


def wrong_lines() -> set[int]:
    lines = (HERE / "wrong.py").read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if "# wrong" in line}


def copy_tutorial(folder: Path) -> int:
    """Write the programs of the tutorial to a folder, each to one of its own; return how many there are."""
    count = 0
    for page in TUTORIAL:
        text = (ROOT / page).read_text()
        programs = [(found["name"], found["text"]) for found in PROGRAM.finditer(text)]
        programs += [("operator.py", found["text"]) for found in OPERATOR.finditer(text)]
        assert programs, f"{page} has no programs"
        for name, program in programs:
            count += 1
            place = folder / f"{Path(page).stem}-{count}"
            place.mkdir(parents=True)
            (place / name).write_text(program)
    return count


def test_mypy_accepts_a_right_program() -> None:
    assert mypy("right.py") == {}


def test_mypy_rejects_every_mistake() -> None:
    found = mypy("wrong.py")
    assert set(found) == wrong_lines(), found


def test_pyright_accepts_right_programs_the_tutorial_and_the_examples(tmp_path: Path) -> None:
    shutil.copy(HERE / "right.py", tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("out"))
    assert copy_tutorial(tmp_path / "tutorial") >= 12
    assert pyright(tmp_path) == []


def test_pyright_accepts_a_new_project(tmp_path: Path) -> None:
    for kind in ("dataflow", "node", "operator"):
        run("dora", "new", "--kind", kind, f"my-{kind}", folder=tmp_path)
        assert list((tmp_path / f"my-{kind}").rglob("*.py"))
    assert pyright(tmp_path) == []


def test_pyright_rejects_every_mistake(tmp_path: Path) -> None:
    shutil.copy(HERE / "wrong.py", tmp_path)
    found = pyright(tmp_path)
    assert {line for _, line, _ in found} >= wrong_lines(), found
