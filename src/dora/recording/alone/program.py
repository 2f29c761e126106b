"""The program of a recorded node, as its own process would run it: a body, and the process around it."""

from __future__ import annotations

import os
import runpy
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

from dora.daemon.processes.launch_spec import CannotSpawn, launch_spec
from dora.daemon.template.program import PythonProgram, program_of
from dora.errors import DoraError
from dora.node.program import Body, forget_modules_of, operators_body, script_body
from dora.recording.alone.recorded_node import RecordedNode


def _package_of(program: PythonProgram) -> str:
    """Return the folder of the package whose command a program is, "" if it is none."""
    from importlib.metadata import entry_points
    from importlib.util import find_spec

    name = os.path.basename(program.script)
    if program.module or os.path.splitext(name)[1]:
        return ""
    for entry in entry_points(group="console_scripts", name=name):
        spec = find_spec(entry.module.partition(".")[0])
        if spec is not None and spec.origin is not None:
            return os.path.join(os.path.dirname(spec.origin), "")
    return ""


class NodeProgram:
    """A Python program that this interpreter can run."""

    def __init__(self, node: RecordedNode) -> None:
        """Find the program; raises `DoraError` if it is none that runs in this process."""
        spec = node.dataflow.node(node.node_id)
        launch = launch_spec(node.dataflow, spec, uv=False)
        if spec.is_dynamic:
            raise DoraError(
                f"node `{node.node_id}` is dynamic, so the recording does not say which program it is; "
                "name its file as `path` in a dataflow file, and give that: --dataflow FILE"
            )
        try:
            command = launch.command(allow_shell=True)
        except CannotSpawn as error:
            raise DoraError(f"node `{node.node_id}` cannot be run: {error}") from None
        if launch.interpreter.folder is not None:
            python = launch.interpreter.python[0]
            raise DoraError(
                f"node `{node.node_id}` has a Python environment of its own; run the command there: "
                f"{python} -m dora"
            )
        program = program_of(command)
        if program is None:
            raise DoraError(
                f"node `{node.node_id}` is no Python program ({' '.join(command)[:100]}), and only those "
                "run alone; `dora replay` runs all nodes"
            )
        self.package = _package_of(program)
        self.directory = launch.directory
        self.environment = launch.environment
        self._program: PythonProgram = program

    @property
    def folder(self) -> str:
        """The folder of the program's own modules."""
        if self._program.module:
            return self.directory
        return os.path.dirname(os.path.realpath(os.path.join(self.directory, self._program.script)))

    @contextmanager
    def process(self) -> Iterator[Body]:
        """Make this process the node's, and restore it afterwards; the body runs the program."""
        main = types.ModuleType("__main__")
        before = sys.argv, sys.modules.get("__main__"), os.getcwd(), dict(os.environ), list(sys.path)
        try:
            with forget_modules_of([self.folder]):
                os.environ.update(self.environment)
                os.chdir(self.directory)
                sys.argv = list(self._program.arguments)
                sys.path.insert(0, self.folder)
                sys.modules["__main__"] = main
                yield self._body(main)
        finally:
            sys.argv, former, directory, environment, sys.path[:] = before
            if former is not None:
                sys.modules["__main__"] = former
            os.chdir(directory)
            os.environ.clear()
            os.environ.update(environment)

    def _body(self, main: types.ModuleType) -> Body:
        module = self._program.module
        if module == "dora.runtime":
            return operators_body({})
        if module:
            return lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)
        return script_body(os.path.join(self.directory, self._program.script), main)
