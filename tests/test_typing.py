"""User programs under the strict modes of type checkers: right ones pass, wrong ones do not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.processes, pytest.mark.slow]

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
UNTYPED = {"voice-command", "read-text"}  # examples that use packages without type hints
PROGRAM = re.compile(r"^<!-- file: (?P<name>\w+\.py) -->\n```python\n(?P<text>.*?)^```$", re.M | re.S)
OPERATOR = re.compile(r"^```python\n(?P<text>(?:(?!```).)*?^class Operator.*?)^```$", re.M | re.S)


def run(*command: str, folder: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=folder, check=False
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def of_mypy() -> dict[str, dict[int, str]]:
    """Return the errors of `right.py` and of `wrong.py` by line."""
    pytest.importorskip("mypy")
    out = run(
        "mypy",
        "--strict",
        "--no-error-summary",
        "--no-pretty",
        "--config-file=",
        "--follow-imports=silent",
        "--strict-equality",
        *(str(HERE / file) for file in ("right.py", "wrong.py")),
    )
    errors: dict[str, dict[int, str]] = {"right.py": {}, "wrong.py": {}}
    for line in out.splitlines():
        found = re.search(r"(right|wrong)\.py:(\d+): (error|note): (.*)", line)
        assert found is not None, out
        if found[3] == "error":
            errors[f"{found[1]}.py"][int(found[2])] = found[4]
    return errors


Errors = list[tuple[Path, int, str]]  # file, line and message


@pytest.fixture(scope="module")
def of_pyright(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Errors]:
    """Return the errors in strict mode of right programs, of new projects and of a wrong program."""
    pytest.importorskip("pyright")
    folder = tmp_path_factory.mktemp("pyright")
    right, projects, wrong = (folder / name for name in ("right", "projects", "wrong"))
    for place in (right, projects, wrong):
        place.mkdir()
    shutil.copy(HERE / "right.py", right)
    shutil.copytree(ROOT / "examples", right / "examples", ignore=shutil.ignore_patterns("out"))
    assert copy_tutorial(right / "tutorial") >= 12
    for kind in ("dataflow", "node", "operator"):
        run("dora", "new", "--kind", kind, f"my-{kind}", folder=projects)
        assert list((projects / f"my-{kind}").rglob("*.py"))
    shutil.copy(HERE / "wrong.py", wrong)
    project = folder / "pyrightconfig.json"
    # The version that runs, as an editor takes it: type hints of packages may need as new a one.
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    strict = [f"right/{path.relative_to(right)}" for path in right.rglob("*.py") if not is_untyped(path)]
    project.write_text(
        json.dumps({"include": ["."], "strict": [*strict, "projects", "wrong"], "pythonVersion": version})
    )
    out = run("pyright", "--pythonpath", sys.executable, "--outputjson", "-p", str(project))
    report = json.loads(out[out.index("{") :])
    assert report["summary"]["filesAnalyzed"] == len(list(folder.rglob("*.py")))
    errors: dict[str, Errors] = {"right": [], "projects": [], "wrong": []}
    for item in report["generalDiagnostics"]:
        if item["severity"] == "error":
            file = Path(item["file"]).relative_to(folder)
            errors[file.parts[0]].append((file, item["range"]["start"]["line"] + 1, item["message"]))
    return errors


def is_untyped(file: Path) -> bool:
    """Return whether a program uses packages without type hints, which the strict mode does not accept."""
    return not UNTYPED.isdisjoint(file.parts)


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


def test_mypy_accepts_a_right_program(of_mypy: dict[str, dict[int, str]]) -> None:
    assert of_mypy["right.py"] == {}


def test_mypy_rejects_every_mistake(of_mypy: dict[str, dict[int, str]]) -> None:
    assert set(of_mypy["wrong.py"]) == wrong_lines(), of_mypy["wrong.py"]


@pytest.mark.skipif(np.__version__ < "2", reason="the annotations of NumPy 1 are not strict")
def test_pyright_accepts_right_programs_the_tutorial_and_the_examples(
    of_pyright: dict[str, Errors],
) -> None:
    assert of_pyright["right"] == []


def test_pyright_accepts_a_new_project(of_pyright: dict[str, Errors]) -> None:
    assert of_pyright["projects"] == []


def test_pyright_rejects_every_mistake(of_pyright: dict[str, Errors]) -> None:
    found = of_pyright["wrong"]
    assert {line for _, line, _ in found} >= wrong_lines(), found
