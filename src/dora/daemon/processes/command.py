"""From a node of the model to a command line and an environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from dora.daemon.guardian import RUN_ID
from dora.daemon.options import ALLOW_SHELL
from dora.daemon.processes.interpreter import Interpreter
from dora.dataflow.model import Dataflow, NodeSpec
from dora.errors import DoraError
from dora.wire.node_config import Address, encode_address

# Nodes that come with dora and take the place of a published package, and those that nothing replaces.
#
# ``path: dora-rerun`` starts a module of dora, and a ``build`` line ``pip install dora-rerun`` means what
# that module needs. A file of that name in the dataflow's directory goes before.


@dataclass(frozen=True)
class BuiltinNode:
    """One such node: ``module`` is run with ``python -m``; pip finds what it needs by ``requirement``,
    which is also what the optional extra ``extra`` of dora asks for; "": dora itself has all it needs."""

    module: str
    requirement: str = ""
    extra: str = ""


BUILTIN_NODES = {
    "dora-rerun": BuiltinNode(module="dora.nodes.rerun", requirement="rerun-sdk>=0.32,<1", extra="rerun"),
    "dora-replay": BuiltinNode(module="dora.recording.replay.player"),
}
"""By the name in ``path``, which is also that of the package that is not installed, in pip's spelling."""

RUST_PACKAGES = {
    "dora-rav1e": "encode images in a Python node, for example with opencv-python or PyAV",
    "dora-dav1d": "decode images in a Python node, for example with opencv-python or PyAV",
    "dora-object-to-pose": "compute the poses in a Python node",
    "dora-kit-car": "drive the car from a Python node",
}
"""Published programs that no current dora can talk to, and what to do instead."""


def why_refused(package: str) -> str:
    """Return the sentence about one of the `RUST_PACKAGES`."""
    return (
        f"`{package}` is a program in Rust that speaks an old wire protocol, so it cannot join a dataflow; "
        f"{RUST_PACKAGES[package]}"
    )


# How long NumPy's idle threads spin before they sleep, as a power of two of processor cycles: 0.4 ms.
# OpenBLAS's own 2**26 keep a core busy for 25 ms after every call, and when NumPy is imported, while
# the other nodes of the machine want it.
_BLAS_SPIN = "20"


class CannotSpawn(DoraError):
    """A node cannot be started; ``str(error)`` tells the user why, without naming the node."""


class NoSuchCommand(CannotSpawn):
    """There is no program of that name."""


def command_line(
    node: NodeSpec,
    directory: str,
    interpreter: Interpreter,
    *,
    allow_shell: bool,
    search_path: str | None = None,
) -> list[str]:
    """Return the command that runs a node in its directory; raises `CannotSpawn`.

    A path that is no file is one of the `BUILTIN_NODES`, or is looked up in the node's own environment,
    on ``search_path`` (default: ``PATH``) and beside the interpreter.
    """
    python = [*interpreter.python, "-u"]
    if interpreter.programs is not None and not os.path.isfile(python[0]):
        raise CannotSpawn(f"its Python environment is not there ({python[0]}); run `dora build` first")
    if node.path is None:
        return [*_conda(node, python), "-m", "dora.runtime"]
    if node.is_shell:
        if not allow_shell:
            raise CannotSpawn(
                "it is a shell node, and those are not allowed here; pass --allow-shell-nodes or set "
                f"{ALLOW_SHELL}=true if you trust this dataflow"
            )
        return ["sh", "-c", " ".join(node.args)]
    path = os.path.join(directory, os.path.expanduser(node.path))
    if node.path.endswith(".py"):
        if not os.path.isfile(path):
            raise CannotSpawn(f"there is no file {path}")
        return [*python, path, *node.args]
    if os.path.isfile(path):
        program: str | None = path
        if not os.access(path, os.X_OK):
            raise CannotSpawn(f"{path} is not executable; use chmod +x, or a .py file")
    elif (builtin := BUILTIN_NODES.get(node.path)) is not None:
        return [*python, "-m", builtin.module, *node.args]
    elif node.path in RUST_PACKAGES:
        raise CannotSpawn(why_refused(node.path))
    elif interpreter.wrapper:
        program = node.path  # uv looks into its own environment
    else:
        program = find_program(node.path, search_path, interpreter.programs)
    if program is None:
        found = f"{path} is a folder" if os.path.isdir(path) else f"there is no file {path}"
        if os.sep in node.path:
            raise CannotSpawn(found)
        raise NoSuchCommand(
            f"{found}, and there is no program `{node.path}` on PATH or beside {interpreter.python[-1]}"
        )
    return [*interpreter.wrapper, program, *node.args]


def _conda(node: NodeSpec, python: list[str]) -> list[str]:
    environments = {operator.conda_env for operator in node.operators}
    if environments <= {None}:
        return python
    if len(environments) > 1:
        raise CannotSpawn(
            f"its operators ask for different conda environments "
            f"({', '.join(sorted(str(name) for name in environments))}), but share one process; "
            "put them into different nodes"
        )
    return ["conda", "run", "--no-capture-output", "-n", str(environments.pop()), "python", "-u"]


def find_program(name: str, search_path: str | None = None, first: str | None = None) -> str | None:
    """Return the path of a program in the folder ``first``, on ``search_path`` (default: ``PATH``) or
    beside the interpreter."""
    if os.sep in name:
        return None
    path = search_path if search_path is not None else os.environ.get("PATH", os.defpath)
    folders = (*path.split(os.pathsep), os.path.dirname(sys.executable))
    for directory in folders if first is None else (first, *folders):
        candidate = os.path.join(directory or os.curdir, name)
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None


def search_path(
    dataflow: Dataflow, node: NodeSpec, interpreter: Interpreter, base: Mapping[str, str]
) -> str | None:
    """Return the ``PATH`` of a node's process, None if it has none; ``base`` is the environment of dora."""
    for env in (node.env, dataflow.env):
        if "PATH" in env:
            return env["PATH"]
    if interpreter.programs is not None:
        return f"{interpreter.programs}{os.pathsep}{base.get('PATH', os.defpath)}"
    return base.get("PATH")


def environment(
    node: NodeSpec,
    dataflow: Dataflow,
    address: Address,
    interpreter: Interpreter,
    *,
    base: Mapping[str, str],
    run_id: str = "",
    strict_outputs: bool = False,
    allow_shell: bool = False,
) -> dict[str, str]:
    """Return the environment of a node's process: ``base``, the dataflow's, the node's, and dora's own.

    ``run_id`` marks the processes of a run; "": the dataflow's.
    """
    env = {**base, **interpreter.variables, **dataflow.env, **node.env}
    if (path := search_path(dataflow, node, interpreter, base)) is not None:
        env["PATH"] = path
    env["DORA_NODE_CONFIG"] = encode_address(address).decode()
    env["PYTHONUNBUFFERED"] = "1"
    env.setdefault("OPENBLAS_THREAD_TIMEOUT", _BLAS_SPIN)
    env[RUN_ID] = run_id or address.dataflow_id
    if record := env.get("DORA_WRITE_EVENTS_TO"):
        env["DORA_WRITE_EVENTS_TO"] = os.path.abspath(record)  # nodes run in another folder
    if strict_outputs:
        env["DORA_STRICT_OUTPUTS"] = "1"
    if allow_shell:
        env[ALLOW_SHELL] = "true"
    return env
