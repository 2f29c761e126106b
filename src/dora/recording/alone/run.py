"""Run a recorded node by itself in this process, as its own process would run it, and tell how it ended."""

from __future__ import annotations

import os
import re
import runpy
import sys
import sysconfig
import threading
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FrameType, TracebackType
from typing import Final, NamedTuple

import dora
from dora.daemon.processes.launch_spec import CannotSpawn, launch_spec
from dora.daemon.template.program import PythonProgram, program_of
from dora.errors import DoraError
from dora.node import attach
from dora.node.program import Body, forget_modules_of, operators_body, script_body
from dora.recording.alone.host import AloneHost, RunWatch
from dora.recording.alone.recorded_node import Key, RecordedNode, Step
from dora.wire.message import Message

_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_OURS: Final = os.path.dirname(os.path.abspath(dora.__file__)) + os.sep


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


class CodePlace(NamedTuple):
    """A line of the program. ``file`` is absolute."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}, line {self.line}"


class NodeError(NamedTuple):
    """How a node failed. ``kind``: the type of the exception, a signal, or what was expected of an output.

    ``place`` is the line of the program's own code that it came from; None if there is none.
    """

    kind: str
    place: CodePlace | None
    message: str = ""

    def is_like(self, other: NodeError | None, *, also_message: bool = False) -> bool:
        """Return whether it is the same failure: kind and place; the message, too, but for its numbers."""
        if other is None or (self.kind, self.place) != (other.kind, other.place):
            return False
        return not also_message or _NUMBER.sub("0", self.message) == _NUMBER.sub("0", other.message)

    def __str__(self) -> str:
        what = f"{self.kind}: {self.message}" if self.message else self.kind
        return f"{what} ({self.place})" if self.place is not None else what


class Violated(BaseException):
    """An output is not as expected. No program catches it, since it is no ``Exception``."""

    def __init__(self, expression: str, shown: str) -> None:
        super().__init__(f"{expression} is false for {shown}")
        self.expression = expression
        self.shown = shown


class RunEnded(BaseException):
    """The run has been ended before the end of the node: no failure."""


@dataclass
class Outcome:
    """The result of a run. ``error`` is the exception itself; ``step`` the event that the node took last.

    ``threads``: how many threads of its own the node had. ``files``: those of its code, all absolute.
    """

    failure: NodeError | None
    step: int
    missing: int = 0
    threads: int = 0
    error: BaseException | None = None
    files: list[str] = field(default_factory=list)


def run_alone(
    node: RecordedNode,
    program: NodeProgram,
    watch: RunWatch,
    steps: Sequence[Step] | None = None,
    changed: Mapping[Key, Message] | None = None,
) -> Outcome:
    """Run the program with some of the node's events, by default all; return how it ended.

    ``changed``: messages that stand in for recorded ones. `RunEnded`, which ``watch`` may raise, is no
    failure. One run at a time in a process.
    """
    host = AloneHost(node, node.steps if steps is None else steps, watch, changed or {})
    threads = threading.active_count()
    global _package
    _package = program.package
    before, attach.in_process = attach.in_process, lambda _: host
    error: BaseException | None = None
    modules = set(sys.modules)
    files: list[str] = []
    more = 0
    try:
        with program.process() as body:
            try:
                body()
            except BaseException as raised:  # noqa: BLE001 - a program may raise anything
                error = raised
            more = max(threading.active_count(), host.progress.threads) - threads
            files = _files_of(modules, program.folder)
    finally:
        attach.in_process = before
        host.close()
    failure = None if error is None else failure_of(error)
    progress = host.progress
    return Outcome(failure, progress.step, progress.missing, max(more, 0), error, files)


def failure_of(error: BaseException) -> NodeError | None:
    """Return what an exception of a program is as a failure; None for an ordinary end."""
    if isinstance(error, RunEnded) or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return None
    if isinstance(error, Violated):
        return NodeError(error.expression, None, f"false for {error.shown}")
    kind = type(error).__qualname__
    if type(error).__module__ not in ("builtins", "__main__"):
        kind = f"{type(error).__module__}.{kind}"
    text = str(error.code) if isinstance(error, SystemExit) else str(error)
    return NodeError(kind, _place(error.__traceback__), text.partition("\n")[0])


def _place(trace: TracebackType | None) -> CodePlace | None:
    """Return the innermost line of the program's own code, or if it is in a package, of packages."""
    own = other = None
    for frame, line in traceback.walk_tb(trace):
        code: CodeType = frame.f_code
        place = CodePlace(os.path.abspath(code.co_filename), line, code.co_name)
        if is_of_program(frame):
            own = place
        elif not place.file.startswith(_OURS):
            other = place
    return own or other


_package = ""  # the folder of the package whose command the program is


def is_of_program(frame: FrameType) -> bool:
    """Return whether a frame is of the program's own code: not of dora, and of no other package."""
    file = frame.f_code.co_filename
    if _package and os.path.abspath(file).startswith(_package):
        return True
    return not (file.startswith("<") or os.path.abspath(file).startswith(_OURS) or is_installed(file))


def is_installed(file: str) -> bool:
    """Return whether a file is of an installed package or of Python itself."""
    return bool(file) and os.path.abspath(file).startswith(_installed())


@cache
def _installed() -> tuple[str, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib", "scripts")
    return tuple({os.path.abspath(sysconfig.get_path(name)) + os.sep for name in names})


def trace_in_program(error: BaseException) -> TracebackType | None:
    """Return the traceback of an exception from the first line of the program on, None if it has none."""
    trace = error.__traceback__
    while trace is not None and not is_of_program(trace.tb_frame):
        trace = trace.tb_next
    return trace


def _files_of(before: set[str], folder: str) -> list[str]:
    """Return the files of the program: its main one, and modules that it imported from its folder."""
    found = []
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or (name in before and name != "__main__"):
            continue
        file = os.path.abspath(file)
        if file.startswith(os.path.join(folder, "")) and not is_installed(file):
            found.append(file)
    return sorted(found)
