"""Python environments of nodes: dora's, unless the node has one of its own.

A node has an environment of its own if the dataflow file (or the head of its script) says what it needs,
or if it has build commands and the run has the option ``--uv``. `dora.daemon.build` makes the environments.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

from dora._version import __version__
from dora.dataflow.model import Dataflow, NodeSpec

WHEEL = f"dora_dataflow-{__version__}-py3-none-any.whl"  # of this dora, as pip wants the name
FOLDER = ".dora"  # in the dataflow's working directory: environments, locks, clones


class Interpreter(msgspec.Struct, frozen=True):
    """The commands that run Python, and other programs, for a node."""

    python: tuple[str, ...] = (sys.executable,)
    wrapper: tuple[str, ...] = ()  # the words in front of another program
    folder: str | None = None  # of the node's own environment
    variables: Mapping[str, str] = {}  # for the environment of the process

    @property
    def programs(self) -> str | None:
        """The folder that is searched for programs first, if the node has its own environment."""
        return None if self.folder is None else f"{self.folder}/bin"


def interpreter_of(dataflow: Dataflow, node: NodeSpec, *, uv: bool) -> Interpreter:
    """Return the interpreter of a node. With ``uv``, in a project, that is ``uv run python``."""
    folder = environment_folder(dataflow, node, uv=uv)
    if folder is not None:
        return Interpreter((f"{folder}/bin/python",), (), folder, {"VIRTUAL_ENV": folder})
    if uv and project_above(dataflow.directory_of(node)):
        run = (find_uv() or "uv", "run", "--with", wheel_path(dataflow.working_dir))
        return Interpreter((*run, "python"), run)
    return Interpreter()


def environment_folder(dataflow: Dataflow, node: NodeSpec, *, uv: bool) -> str | None:
    """Return the folder of a node's own environment, None if it has none.

    The name contains a hash of what the node requires, so a changed dataflow does not touch the
    environment of a running one.
    """
    if node.python is not None:
        from hashlib import sha256

        required = repr((node.python.version, node.python.requirements, node.build))
        name = f"{node.id}-{sha256(required.encode()).hexdigest()[:8]}"
    elif uv and node.build:
        name = node.id
    else:
        return None
    return f"{dataflow.working_dir}/{FOLDER}/python-envs/{name}"


def find_uv() -> str | None:
    """Return the path of uv: on ``PATH``, or beside the interpreter, where pip puts it."""
    import shutil

    return shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))


def uv_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the environment for uv: without ``RUST_LOG``, which is meant for dora.

    uv reads it, too, and refuses to start if it does not understand it.
    """
    return {name: value for name, value in environ.items() if name != "RUST_LOG"}


def project_above(directory: str) -> bool:
    """Return whether uv would find a Python project in a directory or above it."""
    while True:
        if os.path.isfile(f"{directory}/pyproject.toml"):
            return True
        parent = os.path.dirname(directory)
        if parent == directory:
            return False
        directory = parent


def wheel_path(working_dir: str) -> str:
    """Return the path of the wheel of this dora, for environments that need it."""
    return f"{working_dir}/{FOLDER}/{WHEEL}"
