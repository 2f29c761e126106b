"""The house keeps its shape: imports point downward, modules stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dora

ROOT = Path(dora.__file__).parent

# From the ground up. A module imports from its own package and from lower layers only; packages of
# one layer do not know each other, except where `BESIDE` allows it.
LAYERS = (
    ("_lean", "_version", "errors"),
    ("wire",),
    ("dataflow", "logs", "traces"),
    ("supervise", "transport"),
    ("node", "daemon", "coordinator"),
    ("building", "inspection"),
    ("recording", "telemetry"),
    ("machine", "cluster", "viewer"),  # the viewer is a node, reads names of the daemon, draws recordings
    ("dashboard",),
    ("cli",),
    ("looker",),
    ("api",),
    ("builder",),
    ("testing",),
)
BESIDE = {
    ("logs", "dataflow"),  # levels of log entries are part of the dataflow model
    ("machine", "cluster"),  # a daemon removes copies of folders when their dataflows are forgotten
    ("traces", "logs"),  # files of spans are read as log files are
}
# Entry points, which are not part of a layer.
ENTRIES = {"__init__", "__main__", "runtime"}

PURE = ("wire", "dataflow", "logs", "traces", "supervise")
# What reaches out of the process.
OUTWARD = {"asyncio", "ctypes", "mmap", "multiprocessing", "select", "socket", "subprocess", "threading"}
REACHES_OUT = {
    "logs/files.py",  # writes the log files
    "wire/encode.py",  # copies from memory that Arrow and NumPy own, with ctypes
    "wire/decode.py",  # copies from memory that the sender shares, with ctypes
}

MAX_LINES = 600


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def layer_of(part: str) -> int:
    for height, names in enumerate(LAYERS):
        if part in names:
            return height
    raise AssertionError(f"`dora.{part}` is in no layer; give it one in this test")


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every absolute name that a module imports, wherever in it, with the line."""
    for item in ast.walk(ast.parse(path.read_text())):
        if isinstance(item, ast.Import):
            for alias in item.names:
                yield alias.name, item.lineno
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{path}:{item.lineno}: a relative import"
            assert item.module is not None
            yield item.module, item.lineno
            if item.module == "dora":
                for alias in item.names:
                    yield f"dora.{alias.name}", item.lineno


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downward(path: Path) -> None:
    part = part_of(path)
    if part in ENTRIES:
        return
    for name, line in imports(path):
        if not name.startswith("dora."):
            continue
        other = name.split(".")[1]
        if other == part or (part, other) in BESIDE:
            continue
        assert layer_of(other) < layer_of(part), f"{path}:{line} imports {name}, which is not below it"


@pytest.mark.parametrize(
    "path",
    [path for path in modules() if part_of(path) in PURE],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_pure_parts_do_not_reach_out(path: Path) -> None:
    if str(path.relative_to(ROOT)) in REACHES_OUT:
        return
    found = {name.split(".")[0] for name, _ in imports(path)} & OUTWARD
    assert not found, f"{path} imports {', '.join(sorted(found))}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_grows_too_large(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines; split it by ideas"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_helpers_of_tests_have_names_of_their_own() -> None:
    """Folders of tests are no packages: of two modules with one name, pytest would import one."""
    names = [path.stem for path in Path(__file__).parent.rglob("*.py") if path.stem != "conftest"]
    assert sorted(names) == sorted(set(names))
