"""The tree keeps its shape: wings import downward, no circle of modules, modules stay small."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

import dora

ROOT = Path(dora.__file__).parent

# From the ground up. A module imports from its own wing and from wings before it.
WINGS = (
    "_lean",
    "_version",
    "errors",
    "transforms",
    "control",
    "_ownership",
    "_shared_folders",
    "_paths",
    "_strict",
    "_ending",
    "wire",
    "dataflow",
    "transport",
    "node",
    "ros2",
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

# Inside a wing, from the ground up. A folder uses those before it only, also by way of the wing's own
# modules, which are on any height.
FOLDERS = {
    "dataflow": ("yaml", "types", "parser", "modules"),
    "transport": ("shm",),
    "node": (
        *("send", "receive", "patterns"),
        *("replay", "interceptors", "standalone", "session"),
    ),
    "ros2": ("types", "zenoh", "dds", "rclpy", "api", "bridge"),
    "daemon": ("supervisor", "logs", "processes", "build", "reload", "template"),
    "observe": ("preview", "remote", "telemetry"),
    "recording": ("mcap", "bags", "history", "recorder", "replay", "alone"),
    "cluster": ("http", "dashboard", "coordinator", "ssh", "agent"),
    "nodes": ("foxglove", "rerun", "policy", "camera", "lerobot"),
    "cli": ("commands",),
}

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


@functools.cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Return every absolute name that a module imports, wherever in it, with the line."""
    found = []
    for item in ast.walk(ast.parse(path.read_text())):
        if isinstance(item, ast.Import):
            found += [(alias.name, item.lineno) for alias in item.names]
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{path}:{item.lineno}: a relative import"
            assert item.module is not None
            found += [(f"{item.module}.{alias.name}", item.lineno) for alias in item.names]
    return tuple(found)


# Each test goes through all modules and names every fault: a test for each module would be 2,000 of them.
@pytest.mark.lengthy
def test_imports_point_downward() -> None:
    wrong = []
    for path in modules():
        wing = wing_of(path)
        if wing in ENTRIES:
            continue
        for name, line in imports(path):
            if not name.startswith("dora."):
                continue
            other = name.split(".")[1]
            is_module = (ROOT / other).exists() or (ROOT / f"{other}.py").exists()
            if other == wing or other in ENTRIES or not is_module:  # a name of the package `dora` itself
                continue
            if (wing, other) in STRANGERS or height_of(other) > height_of(wing):
                wrong.append(f"{path}:{line} imports {name}, which is not below it")
    assert not wrong, "\n".join(wrong)


def room_of(path: Path) -> tuple[str, str]:
    """Return the wing, and the folder inside it or the module of its own."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0], parts[1] if len(parts) > 1 else ""


def path_of(name: str) -> Path | None:
    """Return the module that an imported name is, or is in."""
    for parts in (name.split(".")[1:], name.split(".")[1:-1]):
        for path in (ROOT.joinpath(*parts).with_suffix(".py"), ROOT.joinpath(*parts, "__init__.py")):
            if parts and path.exists():
                return path
    return None


def rooms_below(wing: str) -> dict[str, set[str]]:
    """Return for each folder and each own module of a wing which ones it imports."""
    below: dict[str, set[str]] = {}
    for path in sorted((ROOT / wing).rglob("*.py")):
        _, room = room_of(path)
        found = {
            room_of(other)[1]
            for name, _ in imports(path)
            if name.startswith(f"dora.{wing}.") and (other := path_of(name)) is not None
        }
        below.setdefault(room, set()).update(found - {room})
    return below


@pytest.mark.lengthy
@pytest.mark.parametrize("wing", [wing for wing in WINGS if (ROOT / wing).is_dir()])
def test_folders_of_a_wing_use_those_before_them(wing: str) -> None:
    below = rooms_below(wing)
    folders = {path.parent.name for path in (ROOT / wing).glob("*/*.py")}
    order = FOLDERS.get(wing, ())
    assert folders == set(order), f"give each folder of `dora.{wing}` a place in this test"
    for height, folder in enumerate(order):
        reached, ways = {folder}, [(folder,)]
        while ways:
            way = ways.pop()
            for room in below[way[-1]] - reached:
                assert room not in order[height + 1 :], f"dora.{wing}: {' → '.join((*way, room))}"
                reached.add(room)
                ways.append((*way, room))
        assert not any(folder in below[room] for room in reached - {folder}), (
            f"dora.{wing}.{folder} is in a circle"
        )


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


def test_the_supervisor_knows_the_protocol_and_the_dataflow_only() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path in (ROOT / SUPERVISOR).rglob("*.py")
        for name, line in imports(path)
        if name.startswith("dora.") and not name.startswith(SUPERVISOR_IMPORTS)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_pure_parts_do_not_reach_out() -> None:
    wrong = [
        f"{path}:{line} imports {name}"
        for path in modules()
        if is_pure(path) and name_of(path) not in REACHES_OUT
        for name, line in imports(path)
        if name.split(".")[0] in OUTWARD
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_grows_too_large() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in modules()}
    wrong = [
        f"{path}: {count} lines; split it by ideas" for path, count in lines.items() if count > MAX_LINES
    ]
    assert not wrong, "\n".join(wrong)


def test_every_module_has_a_docstring() -> None:
    # The docstring is the first thing in a module, so there is no need to parse all of it.
    wrong = [str(path) for path in modules() if (text := path.read_text()) and not text.startswith('"""')]
    assert not wrong, f"no docstring: {', '.join(wrong)}"


def test_helpers_of_tests_have_names_of_their_own() -> None:
    """Folders of tests are no packages: of two modules with one name, pytest would import one."""
    files = Path(__file__).parent.rglob("*.py")
    stubs = Path(__file__).parent / "packages" / "drivers"  # these are modules of nodes, not of pytest
    names = [path.stem for path in files if path.stem != "conftest" and stubs not in path.parents]
    assert sorted(names) == sorted(set(names))
