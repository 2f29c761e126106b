"""All exceptions of dora.

::

    DoraError (RuntimeError)
    ├── DataflowError           the YAML cannot be used; carries every problem found
    ├── BuildError              a ``build`` command failed
    ├── DataflowFailed          a dataflow ran and at least one node failed; names it and the reason
    ├── NotInDataflow           ``Node()`` outside a dataflow
    ├── ConnectError            the daemon refused this node, or cannot be reached
    │   └── StartFailed         the start barrier broke: another node ended before it was ready
    ├── DaemonLost              the daemon went away while the node was running
    ├── SendError               an output could not be sent
    │   ├── UndeclaredOutput    the output is not in the node's ``outputs`` (strict mode and loans)
    │   ├── UnsupportedData     the data or metadata has no form on the wire (also a TypeError)
    │   ├── SharedMemoryFull    /dev/shm has no room for the message
    │   └── SampleAlreadySent   a loaned sample was sent twice
    ├── CallFailed              a call or a goal has no answer: the other side ended, or the node stops
    │   ├── CallTimedOut        no answer within the timeout (also a TimeoutError)
    │   └── CallRefused         the other side answered with an error
    ├── UndeclaredInput         a program names an input that the dataflow does not declare for it
    ├── ReceiveClosed           ``drain()`` on a stream that is closed and empty
    ├── WrongProcess            a forked child process used the node of its parent
    └── TransportError          an engine (iceoryx2, shm) reported something unexpected

Existing dora programs catch ``RuntimeError``, so everything derives from it.
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

__all__ = [
    "BuildError",
    "CallFailed",
    "CallRefused",
    "CallTimedOut",
    "ConnectError",
    "DaemonLost",
    "DataflowError",
    "DataflowFailed",
    "DoraError",
    "NotInDataflow",
    "Problem",
    "ReceiveClosed",
    "SampleAlreadySent",
    "SendError",
    "SharedMemoryFull",
    "StartFailed",
    "TransportError",
    "UndeclaredInput",
    "UndeclaredOutput",
    "UnsupportedData",
    "WrongProcess",
]


def system_fault(error: OSError) -> str:
    """Return a sentence, without a full stop, for an error of the system: what cannot be used, and why.

    >>> system_fault(PermissionError(13, "Permission denied", "/etc/x"))
    '/etc/x cannot be used: Permission denied'
    """
    reason = error.strerror or str(error)
    return f"{os.fsdecode(error.filename)} cannot be used: {reason}" if error.filename else reason


_SHOWN = 180  # characters of a source line


class DoraError(RuntimeError):
    """Base of every error that dora raises on purpose. ``str(error)`` is meant for users."""


def cannot_write(path: str | os.PathLike[str], error: OSError) -> DoraError:
    """Return the error about a file that cannot be written; an error of the system need not name it.

    >>> cannot_write("page.html", OSError(28, "No space left on device"))
    DoraError('cannot write page.html: No space left on device')
    """
    return DoraError(f"cannot write {os.fsdecode(path)}: {error.strerror or error}")


class Problem(NamedTuple):
    """An error or a warning about a dataflow file.

    ``str(problem)`` shows the place, the message, the source line with carets under the token, and the
    hint.
    """

    message: str  # one sentence, without a full stop
    file: str = "<dataflow>"
    line: int = 0  # from 1; 0: the problem has no place in the file
    column: int = 0  # from 1, in characters
    hint: str = ""  # how to fix it; "": there is no obvious way
    severity: Literal["error", "warning"] = "error"
    source: str = ""  # the line of the file
    width: int = 1  # characters to underline
    note: str = ""  # more about the place, such as the node that uses the file

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        lines = [f"{place}: {self.severity}: {self.message}"]
        if self.line:
            source, start, width = _excerpt(self.source, self.column - 1, self.width)
            before, marked = source[:start], source[start : start + width]
            gap = "".join("\t" if c == "\t" else " " * _cells(c) for c in before)
            number = str(self.line)
            lines.append(f"  {number} | {source}".rstrip())
            lines.append(f"  {' ' * len(number)} | {gap}{'^' * max(_cells(marked), 1)}")
        if self.hint:
            lines.append(f"    help: {self.hint}")
        if self.note:
            lines.append(f"    note: {self.note}")
        return "\n".join(lines)


def _excerpt(source: str, start: int, width: int) -> tuple[str, int, int]:
    """Return the part of a line to show, and the marked piece in it: generated lines may be very long.

    >>> _excerpt("x" * 1000 + "HERE" + "y" * 1000, 1000, 4)[0].count("x")
    60
    """
    if len(source) <= _SHOWN:
        return source, start, width
    first = max(min(start - _SHOWN // 3, len(source) - _SHOWN), 0)
    last = first + _SHOWN
    shown = ("…" if first else "") + source[first:last] + ("…" if last < len(source) else "")
    return shown, start - first + bool(first), min(width, last - start)


def _cells(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


class DataflowError(DoraError):
    """The dataflow description cannot be used. ``str(error)`` shows every problem with its place."""

    problems: tuple[Problem, ...]

    def __init__(self, message: str = "", problems: tuple[Problem, ...] = ()) -> None:
        """``problems``: all problems; ``message``: one sentence, if there is no file to point into."""
        shown = [str(problem) for problem in problems[:50]]
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more")
        super().__init__(message or "\n\n".join(shown))
        self.problems = problems or (Problem(message),)


class BuildError(DoraError):
    """A ``build`` command could not be started or exited with a non-zero status."""


class DataflowFailed(DoraError):
    """A dataflow ran to its end and at least one node failed. ``str(error)`` is the report."""


class NotInDataflow(DoraError):
    """A node was created outside a dataflow."""


class ConnectError(DoraError):
    """The daemon cannot be reached or refused this node."""


class StartFailed(ConnectError):
    """Another node of the dataflow ended before all nodes were ready."""


class DaemonLost(DoraError):
    """The connection to the daemon broke while the node was running."""


class SendError(DoraError):
    """An output could not be sent."""


class UndeclaredOutput(SendError):
    """The output is not declared for this node in the dataflow."""


class UnsupportedData(SendError, TypeError):
    """The data or metadata passed to a send function cannot be sent."""


class SharedMemoryFull(SendError):
    """There is no room in the shared memory for the message."""


class SampleAlreadySent(SendError):
    """A loaned sample was sent, or asked for its memory, a second time."""


class CallFailed(DoraError):
    """A call or a goal will not be answered."""


class CallTimedOut(CallFailed, TimeoutError):
    """A call or a goal was not answered in time. An answer that comes later is ignored."""


class CallRefused(CallFailed):
    """The other side answered with an error; ``str(error)`` is its text."""


class UndeclaredInput(DoraError):
    """The input is not declared for this node in the dataflow."""


class ReceiveClosed(DoraError):
    """The event stream is closed and empty."""


class WrongProcess(DoraError):
    """A forked child process used a node, which belongs to the process that made it."""


class TransportError(DoraError):
    """A transport engine reported an error that is not the user's."""
