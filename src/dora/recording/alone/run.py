"""Run a recorded node by itself in this process, and tell how it ended."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import CodeType, FrameType, TracebackType
from typing import Final, NamedTuple

import dora
from dora.node import attach
from dora.recording.alone.host import AloneHost, RunWatch
from dora.recording.alone.program import NodeProgram
from dora.recording.alone.recorded_node import Key, RecordedNode, Step
from dora.wire.message import Message

_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_OURS: Final = os.path.dirname(os.path.abspath(dora.__file__)) + os.sep


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
    ran: bool = True  # it has connected to its dataflow


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
    connected: list[str | None] = []

    def attached(node_id: str | None) -> AloneHost:
        connected.append(node_id)
        return host

    global _package
    _package = program.package
    before, attach.in_process = attach.in_process, attached
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
            more = max(threading.active_count(), host.threads) - threads
            files = _files_of(modules, program.folder)
    finally:
        attach.in_process = before
        host.close()
    failure = None if error is None else failure_of(error)
    return Outcome(failure, host.step, host.missing, max(more, 0), error, files, bool(connected))


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
