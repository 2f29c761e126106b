"""What a process imports before it needs it: names of modules, because seconds depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

HEAVY = ["asyncio", "click", "numpy", "pyarrow", "typing_extensions", "yaml", "zenoh"]
SCREEN = ["rich", "textual"]  # of the command line, when it draws a table or `dora top`
# Modules that a run needs only for a build, a change or another engine, with what they bring along.
RARE = [
    *("bz2", "dataclasses", "importlib.metadata", "json", "logging", "lzma", "packaging", "shutil"),
    *("tempfile", "tomllib", "urllib", "zipfile"),
    *("dora.cluster", "dora.daemon.build.node_builds", "dora.daemon.build.pip", "dora.daemon.reload"),
    *(
        "dora.dataflow.edit",
        "dora.node",
        "dora.observe.formatting",
        "dora.recording",
    ),
]
OTHER_SIDE = ["dora.api", "dora.cli", "dora.cluster", "dora.daemon", "dora.dataflow", "dora.observe"]


def loaded_by(statement: str) -> set[str]:
    """Return the modules that are there after a statement, in a fresh interpreter."""
    script = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_dora_imports_next_to_nothing() -> None:
    loaded = loaded_by("import dora")
    assert {name for name in loaded if name.startswith("dora")} == {"dora", "dora._lean", "dora._version"}
    assert not loaded.intersection([*HEAVY, *SCREEN])


@pytest.mark.parametrize("statement", ["import dora; dora.Node", "from dora import DoraStatus, Node"])
def test_a_node_does_not_pay_for_what_it_does_not_use(statement: str) -> None:
    loaded = loaded_by(statement)
    assert "dora.node.node" in loaded
    assert not loaded.intersection([*HEAVY, *SCREEN, *OTHER_SIDE, "dora.wire.daemon_protocol"])


@pytest.mark.parametrize("switch", ["enable", "disable"])
def test_no_garbage_is_collected_while_a_name_of_dora_is_imported(switch: str) -> None:
    script = f"""
import gc, dora
gc.{switch}()
begun = []
gc.callbacks.append(lambda phase, _: begun.append(phase) if phase == "start" else None)
dora.Node
print(gc.isenabled(), len(begun) <= 1)  # one may follow at once
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(switch == "enable"), "True"]


def test_the_engine_does_not_bring_numpy() -> None:
    pytest.importorskip("iceoryx2")
    loaded = loaded_by("from dora.transport.shm.iceoryx2 import load_iceoryx2; load_iceoryx2()")
    assert "iceoryx2" in loaded
    assert not loaded.intersection(HEAVY)


def test_reading_messages_does_not_bring_pandas(tmp_path: Path) -> None:
    (tmp_path / "pandas.py").touch()
    loaded = loaded_by(
        f"sys.path.insert(0, {str(tmp_path)!r}); import dora.wire.decode; dora.wire.decode.warm_up()"
    )
    assert "pyarrow" in loaded
    assert "pandas" not in loaded


@pytest.mark.parametrize("sends", [False, True])
def test_only_a_node_with_messages_makes_arrow_import_pandas(sends: bool, tmp_path: Path) -> None:
    (tmp_path / "pandas.py").touch()
    loaded = loaded_by(
        f"sys.path.insert(0, {str(tmp_path)!r})\nimport pyarrow, dora.node.warm_up as it\n"
        f"try: it.warm_up_arrow(receives=False, sends={sends})\n"
        "except AttributeError: pass  # pandas is empty"
    )
    assert ("pandas" in loaded) is sends


def test_finding_a_type_of_ros_takes_neither_arrow_nor_all_standard_types() -> None:
    loaded = loaded_by(
        "from dora.ros2 import InterfaceLibrary as L; L(prefixes=[]).service('std_srvs/SetBool').hash"
    )
    assert "dora.ros2.types.layout" in loaded
    assert not loaded.intersection({"numpy", "pyarrow", "rosbags", "dora.node"})


def test_the_command_line_does_not_pay_for_arrow() -> None:
    loaded = loaded_by("import dora.cli.main")
    assert not loaded.intersection({"numpy", "pyarrow", "iceoryx2", "zenoh", "dora.node.node", *SCREEN})
    assert not any(name.startswith("dora.daemon") for name in loaded)


@pytest.mark.usefixtures("runtime_root")
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["top", "--help"], ["list", "--help"], ["run", "empty.yml"], ["top"], ["top", "--once"]],
    ids=" ".join,
)
def test_a_command_that_draws_nothing_loads_neither_rich_nor_textual(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.yml").write_text("nodes: []\n")
    loaded = loaded_by(f"from dora.cli.main import run_command_line; run_command_line({arguments})")
    assert "click" in loaded
    assert not loaded.intersection(SCREEN)


def loaded_by_process(command: list[str], folder: Path) -> set[str]:
    """Return the modules that a process has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}


def test_running_a_dataflow_imports_nothing_that_few_dataflows_need(tmp_path: Path) -> None:
    (tmp_path / "node.py").write_text("from dora import Node\nNode().send_output('x', b'x')\n")
    (tmp_path / "flow.yml").write_text("nodes: [{id: a, path: node.py, outputs: [x]}]\n")
    loaded = loaded_by_process(["-m", "dora", "run", "flow.yml"], tmp_path)
    assert "dora.daemon.daemon" in loaded
    assert not loaded.intersection({"numpy", "pyarrow", "asyncio", "iceoryx2", "zenoh", *RARE, *SCREEN})


def test_a_run_with_a_page_loads_no_server() -> None:
    loaded = loaded_by("import dora.cluster.dashboard.local")
    assert not loaded.intersection({"asyncio", "starlette", "uvicorn", "dora.cluster.protocol"})


def test_a_node_with_an_output_imports_no_checks_of_foreign_messages(tmp_path: Path) -> None:
    pytest.importorskip("iceoryx2")
    node = (
        "import sys\nfrom dora import Node\nNode().send_output('x', b'x')\nprint(*sys.modules, sep='\\n')\n"
    )
    (tmp_path / "node.py").write_text(node)
    (tmp_path / "flow.yml").write_text("nodes: [{id: a, path: node.py, outputs: [x]}]\n")
    command = [sys.executable, "-m", "dora", "run", "flow.yml", "--no-preload", "--log-format", "compact"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = {line.rpartition(" ")[2] for line in done.stdout.splitlines()}
    assert "dora.transport.shm.iceoryx2" in loaded
    unused = {"json", "dora.transport.latch", "dora.wire.untrusted", "dora.wire.daemon_protocol"}
    assert not loaded.intersection([*HEAVY, *unused])
