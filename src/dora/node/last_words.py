"""What a program prints that ends with an exception: its own lines, not those of this library."""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType

from dora.errors import DoraError

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def show_without_traceback(error: Exception) -> None:
    """If nobody catches ``error``, print what it says, without the traceback of a library.

    The program's last words are a sentence for its user then; it still exits with status 1.
    """
    previous = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if value is error:
            print(f"error: {value}", file=sys.stderr)
        else:
            previous(kind, value, trace)

    sys.excepthook = hook


def end_tracebacks_at_the_program() -> None:
    """Let tracebacks of our errors and of Ctrl-C end with the program's own line that led to them.

    Concerns exceptions that nobody catches in the main thread. What else handles these (a debugger, a
    notebook) goes on to do so. ``DORA_DEBUG=1`` leaves tracebacks whole.
    """
    previous = sys.excepthook
    if getattr(previous, "ends_at_the_program", False) or os.environ.get("DORA_DEBUG"):
        return

    def hook(kind: type[BaseException], value: BaseException, _: TracebackType | None) -> None:
        _end_at_the_program(value)
        previous(kind, value, value.__traceback__)

    hook.ends_at_the_program = True  # type: ignore[attr-defined]  # functions take attributes
    sys.excepthook = hook


def print_traceback_of_operator(error: BaseException) -> bool:
    """Print the traceback of an exception, without the frames of the runtime that called the operator.

    Returns False, and prints nothing, if it is an error of ours that no line of an operator led to.
    """
    first = error.__traceback__
    while first is not None and _is_ours(first):
        first = first.tb_next
    if first is None and isinstance(error, DoraError):
        return False
    if not os.environ.get("DORA_DEBUG"):
        error.__traceback__ = first
        _end_at_the_program(error)
    traceback.print_exception(error)
    return True


def _end_at_the_program(error: BaseException) -> None:
    """Take the frames behind the program's last one off an error of ours, or an interrupt."""
    if not isinstance(error, (DoraError, KeyboardInterrupt)):
        return
    last, frame = None, error.__traceback__
    while frame is not None:
        if not _is_ours(frame):
            last = frame
        frame = frame.tb_next
    if last is not None and last.tb_next is not None:
        last.tb_next = None
        error.__cause__ = None  # it lies in the frames that were taken off


def _is_ours(trace: TracebackType) -> bool:
    file = trace.tb_frame.f_code.co_filename
    return file.startswith((_OURS, "<frozen importlib"))
