"""The process of a node: garbage collection, tracebacks, and memory that is not swapped.

With NumPy and pyarrow loaded, a full garbage collection takes 8 ms, in the middle of the messages. So what
a node has imported at its start is exempt (`freeze_gc`).
"""

from __future__ import annotations

import os
import sys
import traceback
from types import TracebackType
from typing import Final

from dora._ending import exempt_imports
from dora.errors import DoraError, StartFailed
from dora.wire.node_config import decode_address

# Of <sys/mman.h> on Linux: Python has no names for them.
_MCL_CURRENT: Final = 1
_MCL_FUTURE: Final = 2
_MCL_ONFAULT: Final = 4


def freeze_gc() -> None:
    """Import what this node is going to need, and exempt all that is loaded from garbage collection.

    Does nothing in a process that no dataflow started: it may live on after the node.
    """
    text = os.environ.get("DORA_NODE_CONFIG")
    if not text:
        return
    try:
        address = decode_address(text)
    except ValueError:
        return  # `Node()` reports the error
    if address.data_inputs:
        import pyarrow as pa  # noqa: F401 - messages are decoded with it
    # If it was forked, its template has imported this and exempted all.
    # The number of exempt objects does not tell: CPython 3.12 begins with some.
    if "dora.node.before_fork" not in sys.modules:
        exempt_imports()


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def show_without_traceback(error: Exception) -> None:
    """Print the message of ``error``, without a traceback, if the program does not catch it.

    The program still exits with status 1. A notebook shows the message alone, too.
    """
    error._render_traceback_ = lambda: [f"error: {error}"]  # type: ignore[attr-defined]  # for IPython
    previous = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        if value is error:
            print(f"error: {value}", file=sys.stderr)
        else:
            previous(kind, value, trace)

    sys.excepthook = hook


def end_tracebacks_at_the_program() -> None:
    """End tracebacks of dora's errors and of Ctrl-C at the program's own line that led to them.

    That concerns uncaught exceptions in the main thread. Other excepthooks (of a debugger, a notebook)
    still run. ``DORA_DEBUG=1`` leaves tracebacks whole.
    """
    previous = sys.excepthook
    if getattr(previous, "ends_at_the_program", False) or os.environ.get("DORA_DEBUG"):
        return

    def hook(kind: type[BaseException], value: BaseException, _: TracebackType | None) -> None:
        _end_at_the_program(value)
        previous(kind, value, value.__traceback__)

    hook.ends_at_the_program = True  # type: ignore[attr-defined]  # functions take attributes
    sys.excepthook = hook


def print_traceback_of_program(error: BaseException) -> bool:
    """Print the traceback of an exception, without the frames of dora that called the program's function.

    Return False, and print nothing, for an error of dora that no line of the program led to.
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


def print_error_of_handler(name: str, error: BaseException) -> None:
    """Print what the function ``name`` of the program has raised: its traceback, or an error of dora."""
    if not print_traceback_of_program(error):
        print(f"error: in `{name}`: {error}", file=sys.stderr, flush=True)


def _end_at_the_program(error: BaseException) -> None:
    """Remove the frames after the program's last one from an error of dora, or an interrupt."""
    if not isinstance(error, (DoraError, KeyboardInterrupt)):
        return
    last, frame = None, error.__traceback__
    while frame is not None:
        if not _is_ours(frame):
            last = frame
        frame = frame.tb_next
    if last is not None and last.tb_next is not None:
        last.tb_next = None
        error.__cause__ = None  # it lies in the frames that were removed


def _is_ours(trace: TracebackType) -> bool:
    file = trace.tb_frame.f_code.co_filename
    return file.startswith((_OURS, "<frozen importlib"))


def lock_memory() -> None:
    """Keep the memory of this process in RAM, what is mapped and what will be; raises `StartFailed`.

    For a node with ``lock_memory: true`` (Linux).

    Pages that are mapped now are read into RAM at once. Later ones are locked one by one, when they are
    first used: a channel of shared memory reserves far more addresses than it ever uses.
    """
    import ctypes  # for few nodes

    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (_MCL_CURRENT, _MCL_FUTURE | _MCL_ONFAULT):
        if libc.mlockall(flags):
            reason = os.strerror(ctypes.get_errno())
            raise StartFailed(f"`lock_memory`: the memory of this process cannot be locked: {reason}")
