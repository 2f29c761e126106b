"""How the programs of a node run, worked out once for its build, the check of programs, and the start."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import msgspec

from dora._strict import STRICT_VARIABLE
from dora.daemon.guardian import RUN_ID
from dora.daemon.options import ALLOW_SHELL
from dora.daemon.processes.interpreter import Interpreter, interpreter_of
from dora.daemon.processes.programs import (
    BUILTIN_NODES,
    RUST_PACKAGES,
    find_program,
    program_path,
    why_refused,
)
from dora.dataflow.model import Dataflow, NodeSpec, Program
from dora.dataflow.problems import each_once
from dora.dataflow.ros2 import BRIDGE_VARIABLE, Ros2Block
from dora.dataflow.yaml.files import names_a_file
from dora.errors import DoraError, Problem
from dora.wire.node_config import Address, encode_address

# How long NumPy's idle threads spin before they sleep, as a power of two of processor cycles: 0.4 ms.
# OpenBLAS's own 2**26 keep a core busy for 25 ms after every call, and when NumPy is imported, while
# the other nodes of the machine want it.
_BLAS_SPIN = "20"


class CannotSpawn(DoraError):
    """A node cannot be started; the message gives the reason without the name of the node."""


class NoSuchCommand(CannotSpawn):
    """There is no program of that name."""


class LaunchSpec(msgspec.Struct, frozen=True):
    """How the programs of one node run: interpreter, folder, environment and command line.

    ``environment`` holds the variables that the node's process and its build commands share: from
    dora's own process, then from the interpreter, the dataflow and the node.
    """

    node: NodeSpec
    path: str | None  # the file that the node's `path` means if it is no command
    directory: str
    interpreter: Interpreter
    environment: Mapping[str, str]
    sets_path: bool  # the dataflow or the node sets ``PATH``

    def command(self, *, allow_shell: bool) -> list[str]:
        """Return the command line of the node's process; raises `CannotSpawn`.

        A ``path`` that is no file names a builtin node, or a program in the node's own environment, on
        ``PATH`` or beside the interpreter.
        """
        node, interpreter = self.node, self.interpreter
        python = [*interpreter.python, "-u"]
        if interpreter.folder is not None and not os.path.isfile(python[0]):
            raise CannotSpawn(f"its Python environment is not there ({python[0]}); run `dora build` first")
        if node.path is None or self.path is None:
            return [*_python_of_operators(node, python), "-m", "dora.runtime"]
        if node.is_shell:
            if not allow_shell:
                raise CannotSpawn(
                    "it is a shell node, and those are not allowed here; pass --allow-shell-nodes or set "
                    f"{ALLOW_SHELL}=true if you trust this dataflow"
                )
            return ["sh", "-c", " ".join(node.args)]
        if node.path.endswith(".py"):
            require_file(self.path)
            return [*python, self.path, *node.args]
        if (builtin := BUILTIN_NODES.get(node.path)) is not None and not os.path.isfile(self.path):
            return [*python, "-m", builtin.module, *node.args]
        return [*interpreter.wrapper, self._program(node.path, self.path), *node.args]

    def _program(self, name: str, path: str) -> str:
        """Return what to execute for a node that is no Python file; raises `CannotSpawn`."""
        if os.path.isfile(path):
            if not os.access(path, os.X_OK):
                raise CannotSpawn(f"{path} is not executable; use chmod +x, or a .py file")
            return path
        if name in RUST_PACKAGES:
            raise CannotSpawn(why_refused(name))
        if self.interpreter.wrapper:
            return name  # uv searches its own environment
        program = find_program(name, self.environment.get("PATH"), self.interpreter.programs)
        if program is None:
            found = f"{path} is a folder" if os.path.isdir(path) else f"there is no file {path}"
            if os.sep in name:
                raise CannotSpawn(found)
            python = self.interpreter.python[-1]
            raise NoSuchCommand(f"{found}, and there is no program `{name}` on PATH or beside {python}")
        return program

    def process_environment(
        self,
        address: Address,
        *,
        run_id: str = "",
        strict: bool = False,
        allow_shell: bool = False,
    ) -> dict[str, str]:
        """Return the environment of the node's process. ``run_id`` marks it; "": the dataflow's id."""
        env = {**self.environment, "PYTHONUNBUFFERED": "1"}
        env["DORA_NODE_CONFIG"] = encode_address(address).decode()
        env.setdefault("OPENBLAS_THREAD_TIMEOUT", _BLAS_SPIN)
        env[RUN_ID] = run_id or address.dataflow_id
        if record := env.get("DORA_WRITE_EVENTS_TO"):
            env["DORA_WRITE_EVENTS_TO"] = os.path.abspath(record)  # nodes run in another folder
        if self.node.ros2 is not None:
            env[BRIDGE_VARIABLE] = msgspec.json.encode(self.node.ros2).decode()
        if strict:
            env[STRICT_VARIABLE] = "1"
        if allow_shell:
            env[ALLOW_SHELL] = "true"
        return env

    def build_environment(self) -> dict[str, str]:
        """Return the environment of the node's build commands.

        Programs beside dora's interpreter are found even if its environment is not activated.
        """
        env = dict(self.environment)
        if not self.sets_path:
            folders = env.get("PATH", os.defpath).split(os.pathsep)
            beside = os.path.dirname(sys.executable)
            env["PATH"] = os.pathsep.join(folders if beside in folders else [*folders, beside])
        return env


def launch_spec(
    dataflow: Dataflow, node: NodeSpec, *, uv: bool, base: Mapping[str, str] | None = None
) -> LaunchSpec:
    """Return how the programs of a node run. ``uv`` is the option of the run.

    ``base`` is the environment that they inherit, by default this process's.
    """
    base = os.environ if base is None else base
    interpreter = interpreter_of(dataflow, node, uv=uv)
    own = {**dataflow.env, **node.env}
    env = {**base, "PYTHONUNBUFFERED": "1", **interpreter.variables, **own}
    if interpreter.programs is not None and "PATH" not in own:
        env["PATH"] = f"{interpreter.programs}{os.pathsep}{base.get('PATH', os.defpath)}"
    return LaunchSpec(
        node=node,
        path=None if node.path is None else program_path(dataflow, node, node.path),
        directory=dataflow.directory_of(node),
        interpreter=interpreter,
        environment=env,
        sets_path="PATH" in own,
    )


def require_file(path: str) -> None:
    """Raise `CannotSpawn` if there is no such file."""
    if not os.path.isfile(path):
        raise CannotSpawn(f"there is no file {path}")


def _python_of_operators(node: NodeSpec, python: list[str]) -> list[str]:
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


# --------------------------------------------------------------------------- the check before a start


def missing_programs(dataflow: Dataflow, *, uv: bool = False) -> list[Problem]:
    """Return a problem for every command that cannot run here, and every file that a build did not make.

    `dora.dataflow.missing_files` reports the other files. ``uv`` is the option of the run.
    """
    nodes = {node.id: node for node in dataflow.nodes}
    problems: list[Problem] = []
    for program in dataflow.programs:
        node = nodes.get(program.node)
        if node is None or (names_a_file(program.path) and not program.built):
            continue
        try:
            _check(dataflow, node, program, uv=uv)
        except CannotSpawn as error:
            message = f"{program.place.message} cannot be started: {error}"
            hint = "install it, for example with a `build` line" if isinstance(error, NoSuchCommand) else ""
            problems.append(program.place._replace(message=message, hint=hint))
    return each_once(problems)


def _check_ros2(block: Ros2Block, directory: str) -> None:
    """Raise `CannotSpawn` if an engine or a type for a `ros2` block is not here."""
    from dora.ros2.bridge.check import check_block

    try:
        check_block(block, directory)
    except DoraError as error:
        raise CannotSpawn(str(error)) from None


def _check(dataflow: Dataflow, node: NodeSpec, program: Program, *, uv: bool) -> None:
    """Raise `CannotSpawn` if a program cannot be started."""
    if node.path is None:  # the program is an operator's
        require_file(program_path(dataflow, node, program.path))
    else:
        spec = launch_spec(dataflow, node, uv=uv)
        spec.command(allow_shell=True)
        if node.ros2 is not None and spec.interpreter.folder is None:  # a folder has packages of its own
            _check_ros2(node.ros2, spec.directory)
