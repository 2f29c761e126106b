"""What a process imports before it needs it: names of modules, because seconds depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

HEAVY = ["asyncio", "click", "numpy", "pyarrow", "typing_extensions", "yaml", "zenoh"]
SCREEN = ["rich", "textual"]  # of the command line, when it draws a table or `dora top`
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


def test_the_engine_does_not_bring_numpy() -> None:
    pytest.importorskip("iceoryx2")
    loaded = loaded_by("from dora.transport.shm.iceoryx2 import _iceoryx2; _iceoryx2()")
    assert "iceoryx2" in loaded
    assert not loaded.intersection(HEAVY)


def test_the_command_line_does_not_pay_for_arrow() -> None:
    loaded = loaded_by("import dora.cli.main")
    assert not loaded.intersection({"numpy", "pyarrow", "iceoryx2", "zenoh", "dora.node.node", *SCREEN})


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


def test_running_a_dataflow_does_not_need_arrow() -> None:
    loaded = loaded_by("import dora.daemon.run")
    assert not loaded.intersection({"numpy", "pyarrow", "asyncio", "click", *SCREEN})
