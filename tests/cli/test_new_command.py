"""``dora new``: what it makes runs, passes its own tests and is neat; what it cannot make it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from dora.cli.commands.new import KINDS, TEMPLATES, create, module_name, name_fault
from dora.cli.main import run_command_line
from dora.dataflow import load, missing_files
from dora.errors import DoraError

TIMEOUT = 120  # seconds, for something that hangs


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run `dora new` in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run_line(*arguments: str):
        status = run_command_line(("new", *arguments))
        return status, *capsys.readouterr()

    return run_line


def python(*words: str, folder: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(
    ("kind", "node", "said"),
    [
        ("dataflow", "receiver", [f"got {n * n}" for n in range(1, 11)] + ["the sum is 385"]),
        ("node", "demo-receiver", [f"mean {mean}" for mean in ("1.00", "1.50", "3.00", "3.00")]),
        ("operator", "demo-receiver", [f"mean {mean}" for mean in ("1.00", "1.50", "3.00", "2.50")]),
    ],
)
def test_a_new_project_runs_and_passes_its_tests(run, kind: str, node: str, said: list[str]) -> None:
    status, out, err = run("My-thing.2", "--kind", kind)
    assert (status, err) == (0, "")
    assert out.startswith(f"Created the {kind} `My-thing.2`. Next:\n\n  cd My-thing.2\n")
    assert (
        "(pip install pytest)" in out and "(pip install pytest)" in Path("My-thing.2/README.md").read_text()
    )

    assert "passed" in python("-m", "pytest", "-p", "no:cacheprovider", folder="My-thing.2")
    lines = python("-m", "dora", "run", "--strict", folder="My-thing.2").splitlines()
    heard = [line.partition(f"{node}:")[2].strip() for line in lines if f" {node}:" in line]
    assert heard[: len(said)] == said
    if find_spec("ruff"):
        python("-m", "ruff", "check", "--isolated", "--select", "E,F,W,I,UP,B", ".", folder="My-thing.2")
        python("-m", "ruff", "format", "--isolated", "--check", ".", folder="My-thing.2")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_templates_shows(run, kind: str) -> None:
    run("thing", "--kind", kind)
    files = [file for file in Path("thing").rglob("*") if file.is_file()]
    assert len(files) == len(list((TEMPLATES / kind).rglob("*.in"))) > 5
    for file in files:
        assert file.suffix != ".in"
        assert not re.search(r"@\w+@", f"{file}\n{file.read_text()}"), file
    dataflow = load("thing/dataflow.yml")
    assert not dataflow.warnings and not missing_files(dataflow)


@pytest.mark.processes
def test_the_package_of_a_node_has_its_command(run) -> None:
    run("My-node", "--kind", "node")
    project = tomllib.loads(Path("My-node/pyproject.toml").read_text())
    assert project["project"]["scripts"] == {"My-node": "my_node.main:main"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["my_node"]
    python("-c", "from my_node.main import main; assert callable(main)", folder="My-node")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["a/b"], 2, "`a/b` cannot be the name: it is a path"),
        (["3d"], 2, "has to start with a letter"),
        (["käse"], 2, "and consist of a-z"),
        (["x-"], 2, "end with a letter or digit"),
        ([""], 2, "cannot be the name"),
        (["dora"], 2, "is reserved"),
        (["json", "--kind", "node"], 2, "a Python module `json`"),
        (["class", "--kind", "operator"], 2, "a Python module `class`"),
        (["PyArrow", "--kind", "operator"], 2, "a Python module `pyarrow`"),
        (["msgspec", "--kind", "operator"], 2, "a Python module `msgspec`"),
        (["null", "--kind", "node"], 2, "is no text in YAML"),
        (["True", "--kind", "operator"], 2, "is no text in YAML"),
        (["demo", "--kind", "node"], 2, "the name of another part of the new node"),
        (["x", "--lang", "rust"], 2, "--lang rust: this dora creates nodes in python only; dora-rs has"),
        (["x", "--lang", "java"], 2, "--lang java: this dora creates nodes in python only"),
        (["x", "--kind", "robot"], 2, "'robot' is not one of"),
        (["taken"], 1, "`taken` exists already; give another name, or remove it first"),
        ([], 2, "missing argument 'NAME'"),
    ],
)
def test_impossible_names_and_languages_are_refused(
    run, arguments: list[str], status: int, says: str
) -> None:
    Path("taken").write_text("")
    found, out, err = run(*arguments)
    assert (found, out) == (status, "")
    assert err.startswith("error: ") and says in err.splitlines()[0]
    assert [path.name for path in Path().iterdir()] == ["taken"]


def test_names_of_modules() -> None:
    assert module_name("My-node.2") == "my_node_2"
    assert name_fault("json", "dataflow") == ""


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)

    def write(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")  # the system names no file when it writes

    monkeypatch.setattr(Path, "write_text", write)
    with pytest.raises(DoraError, match=r"cannot write thing/.*: No space left on device"):
        create("thing", "dataflow")
    assert not list(Path().iterdir())
