"""The tree keeps its shape: wings import downward, no circle of modules, modules stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dora

ROOT = Path(dora.__file__).parent

# From the ground up. A module imports from its own wing and from wings before it.
WINGS = (
    "_lean",
    "_version",
    "errors",
    "_ownership",
    "_shared_folders",
    "_paths",
    "_strict",
    "wire",
    "dataflow",
    "transport",
    "node",
    "gateway",
    "daemon",
    "observe",
    "recording",
    "cluster",
    "nodes",
    "api",
    "cli",
    "builder",
    "notebook",
    "testing",
)
STRANGERS = {("node", "daemon"), ("daemon", "node")}  # they share a protocol (`wire`), no code
ENTRIES = {"__init__", "__main__", "runtime"}  # they may import from any wing

# What the supervisor may know beside itself: it decides, and performs nothing.
SUPERVISOR = "daemon/supervisor"
SUPERVISOR_IMPORTS = ("dora.daemon.supervisor", "dora.dataflow", "dora.wire", "dora.errors")

PURE = ("wire", "dataflow", SUPERVISOR)
# What reaches out of the process.
OUTWARD = {"asyncio", "ctypes", "mmap", "multiprocessing", "select", "socket", "subprocess", "threading"}
REACHES_OUT = {
    "wire/encode.py",  # copies from memory that Arrow and NumPy own, with ctypes
    "wire/decode.py",  # copies from memory that the sender shares, with ctypes
}

MAX_LINES = 600


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def wing_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def height_of(wing: str) -> int:
    assert wing in WINGS, f"`dora.{wing}` is no wing; give it a place in this test"
    return WINGS.index(wing)


def is_pure(path: Path) -> bool:
    return name_of(path).startswith(tuple(f"{folder}/" for folder in PURE))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every absolute name that a module imports, wherever in it, with the line."""
    for item in ast.walk(ast.parse(path.read_text())):
        if isinstance(item, ast.Import):
            for alias in item.names:
                yield alias.name, item.lineno
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{path}:{item.lineno}: a relative import"
            assert item.module is not None
            for alias in item.names:
                yield f"{item.module}.{alias.name}", item.lineno


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    wing = wing_of(path)
    if wing in ENTRIES:
        return
    for name, line in imports(path):
        if not name.startswith("dora."):
            continue
        other = name.split(".")[1]
        is_module = (ROOT / other).exists() or (ROOT / f"{other}.py").exists()
        if other == wing or other in ENTRIES or not is_module:  # a name of the package `dora` itself
            continue
        assert (wing, other) not in STRANGERS, f"{path}:{line} imports {name}"
        assert height_of(other) < height_of(wing), f"{path}:{line} imports {name}, which is not below it"


def test_no_modules_import_each_other() -> None:
    """Find no circle, imports for types only and imports inside functions included."""
    known = {
        ".".join(("dora", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in modules()
    }
    needs = {
        module: {
            found
            for name, _ in imports(path)
            if (found := name if name in known else name.rpartition(".")[0]) in known and found != module
        }
        for module, path in known.items()
    }
    del needs["dora"]  # names only, imported on demand
    while leaves := {module for module, below in needs.items() if not below & needs.keys()}:
        for module in leaves:
            del needs[module]
    circle = {module for module in needs if any(module in below for below in needs.values())}
    assert not circle, f"these import each other: {', '.join(sorted(circle))}"


@pytest.mark.parametrize(
    "path", [path for path in modules() if name_of(path).startswith(f"{SUPERVISOR}/")], ids=name_of
)
def test_the_supervisor_knows_the_protocol_and_the_dataflow_only(path: Path) -> None:
    for name, line in imports(path):
        allowed = not name.startswith("dora.") or name.startswith(SUPERVISOR_IMPORTS)
        assert allowed, f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", [path for path in modules() if is_pure(path)], ids=name_of)
def test_the_pure_parts_do_not_reach_out(path: Path) -> None:
    if name_of(path) in REACHES_OUT:
        return
    found = {name.split(".")[0] for name, _ in imports(path)} & OUTWARD
    assert not found, f"{path} imports {', '.join(sorted(found))}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_module_grows_too_large(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines; split it by ideas"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_every_module_has_a_docstring(path: Path) -> None:
    text = path.read_text()
    assert not text or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"


def test_helpers_of_tests_have_names_of_their_own() -> None:
    """Folders of tests are no packages: of two modules with one name, pytest would import one."""
    files = Path(__file__).parent.rglob("*.py")
    stubs = Path(__file__).parent / "packages" / "drivers"  # these are modules of nodes, not of pytest
    names = [path.stem for path in files if path.stem != "conftest" and stubs not in path.parents]
    assert sorted(names) == sorted(set(names))
