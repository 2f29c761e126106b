"""Command lines of nodes, and the engine and times of a run."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dora.daemon.options import LocalRunOptions, choose_engine, finish_grace_from_environment
from dora.daemon.processes.interpreter import environment_folder
from dora.daemon.processes.launch_spec import CannotSpawn, launch_spec
from dora.daemon.processes.programs import BUILTIN_NODES
from dora.dataflow.model import Dataflow, NodeSpec, OperatorSpec, PythonEnvironment
from dora.errors import DoraError
from dora.wire.node_config import Address

ADDRESS = Address("id", "n", "/s")


def command(
    node: NodeSpec,
    directory: Path,
    uv: bool = False,
    allow_shell: bool = False,
    search_path: str | None = None,
) -> list[str]:
    """The command line of a node; with ``uv`` in a project."""
    if uv:
        directory.mkdir(exist_ok=True)
        (directory / "pyproject.toml").touch()
    base = None if search_path is None else {"PATH": search_path}
    spec = launch_spec(Dataflow((node,), str(directory)), node, uv=uv, base=base)
    words = spec.command(allow_shell=allow_shell)
    return ["uv", *words[1:2], *words[4:]] if uv else words  # without the path of uv and that of the wheel


def program(path: Path, mode: int = 0o755) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_python_files_run_in_the_interpreter_of_dora(tmp_path: Path) -> None:
    script = program(tmp_path / "n.py", 0o644)
    node = NodeSpec("n", path="n.py", args=("a", "b c"))
    assert command(node, tmp_path) == [sys.executable, "-u", script, "a", "b c"]
    assert command(node, tmp_path, uv=True) == ["uv", "run", "python", "-u", script, "a", "b c"]


def test_programs_are_files_or_found_on_the_path_or_beside_the_interpreter(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    here, there = program(tmp_path / "tool"), program(tmp_path / "bin" / "other")
    path = str(tmp_path / "bin")
    assert command(NodeSpec("n", path="tool"), tmp_path) == [here]
    assert command(NodeSpec("n", path="./tool"), tmp_path, uv=True) == ["uv", "run", f"{tmp_path}/./tool"]
    assert command(NodeSpec("n", path="other"), tmp_path, search_path=path) == [there]
    assert command(NodeSpec("n", path="other"), tmp_path, uv=True) == ["uv", "run", "other"]
    beside = os.path.basename(sys.executable)
    assert command(NodeSpec("n", path=beside), tmp_path, search_path=path) == [sys.executable]


def test_nodes_that_come_with_dora_are_modules_unless_a_file_is_there(tmp_path: Path) -> None:
    node = NodeSpec("n", path="dora-rerun", args=("-x",))
    path = os.path.dirname(program(tmp_path / "dora-rerun"))
    elsewhere = tmp_path / "elsewhere"
    assert command(node, elsewhere, search_path=path) == [
        sys.executable,
        "-u",
        "-m",
        "dora.nodes.rerun",
        "-x",
    ]
    assert command(node, elsewhere, uv=True) == [
        "uv",
        "run",
        "python",
        "-u",
        "-m",
        "dora.nodes.rerun",
        "-x",
    ]
    assert command(node, tmp_path) == [f"{tmp_path}/dora-rerun", "-x"]


@pytest.mark.parametrize("name", sorted(name for name, node in BUILTIN_NODES.items() if node.extra))
def test_the_requirement_of_a_builtin_node_is_an_extra(name: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    node = BUILTIN_NODES[name]
    assert project["optional-dependencies"][node.extra] == [node.requirement]


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (NodeSpec("n", path="n.py"), "there is no file"),
        (NodeSpec("n", path="nowhere"), "no program `nowhere` on PATH"),
        (NodeSpec("n", path="bin/nowhere"), "there is no file .*/bin/nowhere$"),
        (NodeSpec("n", path="bin"), "/bin is a folder, and there is no program `bin`"),
        (NodeSpec("n", path="./bin"), "/bin is a folder$"),
        (NodeSpec("n", path="dora-dav1d"), "a program in Rust that speaks an old wire protocol"),
        (NodeSpec("n", path="plain"), "is not executable; use chmod"),
        (NodeSpec("n", path="shell", args=("true",)), "--allow-shell-nodes"),
        (
            NodeSpec("n", operators=(OperatorSpec("a", "a.py", conda_env="x"), OperatorSpec("b", "b.py"))),
            "different conda environments",
        ),
    ],
)
def test_a_node_that_cannot_be_spawned_has_a_reason(node: NodeSpec, sentence: str, tmp_path: Path) -> None:
    program(tmp_path / "plain", 0o644)
    (tmp_path / "bin").mkdir()
    with pytest.raises(CannotSpawn, match=sentence):
        command(node, tmp_path, search_path=str(tmp_path))


def test_a_node_with_an_environment_of_its_own_runs_there(tmp_path: Path) -> None:
    node = NodeSpec("n", path="tool", python=PythonEnvironment("3.12", ("rich",)))
    dataflow = Dataflow((node,), str(tmp_path))
    spec = launch_spec(dataflow, node, uv=False, base={"PATH": "/x"})
    folder = spec.interpreter.folder
    assert folder is not None and folder.startswith(f"{tmp_path}/.dora/python-envs/n-")
    with pytest.raises(CannotSpawn, match="run `dora build` first"):
        spec.command(allow_shell=False)
    programs = Path(folder, "bin")
    programs.mkdir(parents=True)
    program(programs / "python")
    tool = program(programs / "tool")
    assert spec.command(allow_shell=False) == [tool]
    runtime = NodeSpec("n", operators=(OperatorSpec("a", "a.py"),), python=node.python)
    assert command(runtime, tmp_path)[0] == f"{programs}/python"
    env = spec.process_environment(ADDRESS)
    assert env["PATH"] == f"{programs}:/x" and env["VIRTUAL_ENV"] == folder
    own_path = Dataflow((node,), str(tmp_path), env={"PATH": "data"})
    assert launch_spec(own_path, node, uv=False, base={}).process_environment(ADDRESS)["PATH"] == "data"


def test_the_name_of_an_environment_depends_on_its_requirements() -> None:
    def folder(node: NodeSpec, uv: bool = False) -> str | None:
        return environment_folder(Dataflow((node,), "/w"), node, uv=uv)

    first = NodeSpec("n", path="a.py", python=PythonEnvironment(None, ("rich",)))
    other = NodeSpec("n", path="a.py", python=PythonEnvironment(None, ("rich>=2",)))
    assert folder(first) == folder(first, uv=True) != folder(other)
    built = NodeSpec("n", path="a.py", build=("pip install rich",))
    assert folder(built) is None
    assert folder(built, uv=True) == "/w/.dora/python-envs/n"
    assert folder(NodeSpec("n", path="a.py"), uv=True) is None


def test_runtimes_and_shells(tmp_path: Path) -> None:
    runtime = NodeSpec("n", operators=(OperatorSpec("a", "a.py"),))
    assert command(runtime, tmp_path) == [sys.executable, "-u", "-m", "dora.runtime"]
    in_conda = NodeSpec("n", operators=(OperatorSpec("a", "a.py", conda_env="x"),))
    assert command(in_conda, tmp_path)[:6] == ["conda", "run", "--no-capture-output", "-n", "x", "python"]
    shell = NodeSpec("n", path="shell", args=("echo $HOME | wc",))
    assert command(shell, tmp_path, allow_shell=True) == ["sh", "-c", "echo $HOME | wc"]


def test_variables_of_the_node_override_those_of_the_dataflow_except_for_those_of_dora() -> None:
    node = NodeSpec("n", path="n.py", env={"A": "node", "DORA_RUN_ID": "mine"})
    dataflow = Dataflow((node,), "/", env={"A": "dataflow", "B": "dataflow"})
    base = {"A": "base", "B": "base", "C": "base", "DORA_NODE_CONFIG": "old"}
    spec = launch_spec(dataflow, node, uv=False, base=base)
    env = spec.process_environment(ADDRESS, strict=True)
    assert (env["A"], env["B"], env["C"]) == ("node", "dataflow", "base")
    assert env["DORA_RUN_ID"] == "id"
    assert env["DORA_STRICT"] == "1"
    assert '"socket":"/s"' in env["DORA_NODE_CONFIG"]


def test_idle_threads_of_numpy_sleep_soon_unless_the_environment_sets_a_time() -> None:
    dataflow = Dataflow((NodeSpec("n", path="n.py"),), "/")

    def spin(base: dict[str, str]) -> int:
        spec = launch_spec(dataflow, dataflow.nodes[0], uv=False, base=base)
        return int(spec.process_environment(ADDRESS)["OPENBLAS_THREAD_TIMEOUT"])

    assert spin({}) < 26  # OpenBLAS's own
    assert spin({"OPENBLAS_THREAD_TIMEOUT": "26"}) == 26


def test_the_engine_is_forced_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DORA_ENGINE", raising=False)
    assert choose_engine(LocalRunOptions(engine="shm")) == "shm"
    monkeypatch.setenv("DORA_ENGINE", "shm")
    assert choose_engine(LocalRunOptions(engine="iceoryx2")) == "shm"
    monkeypatch.setenv("DORA_ENGINE", "pigeon")
    with pytest.raises(DoraError, match="iceoryx2 or shm"):
        choose_engine(LocalRunOptions())


def test_without_iceoryx2_memory_is_shared_in_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from importlib.machinery import PathFinder

    from dora.transport import semaphore_support

    monkeypatch.delenv("DORA_ENGINE", raising=False)
    real = PathFinder.find_spec

    def without(name: str, *place: Any) -> object:
        return None if name == "iceoryx2" else real(name, *place)

    monkeypatch.setattr(PathFinder, "find_spec", without)
    assert choose_engine(LocalRunOptions()) == "shm"
    monkeypatch.setattr(semaphore_support, "fault", lambda: "needs Linux")
    with pytest.raises(DoraError, match="the engine shm does not work here: it needs Linux"):
        choose_engine(LocalRunOptions())
    with pytest.raises(DoraError, match="pip install iceoryx2"):
        choose_engine(LocalRunOptions(engine="iceoryx2"))


def test_the_finish_grace_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "DORA_FINISH_DRAIN_GRACE_SECS"
    for text, seconds in {"": 120.0, "7.5": 7.5, "off": None}.items():
        monkeypatch.setenv(name, text)
        assert finish_grace_from_environment() == seconds
    for text in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv(name, text)
        with pytest.raises(DoraError, match=name):
            finish_grace_from_environment()
