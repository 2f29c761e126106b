"""Make a forked process like one that was executed: ``python -u script.py``.

It runs in the new process, before any code of the user.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import runpy
import signal
import socket
import sys
import threading
import time
from functools import cache
from types import TracebackType
from typing import Any, Final, NoReturn

from dora._ending import end_as_plain
from dora.daemon.processes.scheduling import set_scheduling
from dora.daemon.template import generators
from dora.daemon.template.context import ignored_signals
from dora.daemon.template.program import PythonProgram
from dora.daemon.template.protocol import Forked, ForkRequest, Refused, send_answer
from dora.daemon.template.variables import Variables, change_variables, set_variables

_PR_SET_NAME: Final = 15
_PR_SET_MM: Final = 35
_PR_SET_MM_MAP: Final = 14


def become(
    request: ForkRequest,
    program: PythonProgram,
    output: int,
    errors: int,
    channel: socket.socket,
    *,
    printed: bytes,
    changes: Variables,
) -> None:
    """Make this process what the request asks for, and announce it; it ends if that is not possible.

    ``printed`` is what its packages have printed when they were imported, and ``changes`` are the variables
    that they have set.
    """
    try:
        os.setpgid(0, 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
        os.chdir(request.directory)
        os.umask(request.umask)
        for kind, limits in request.limits.items():
            if resource.getrlimit(kind) != limits:
                resource.setrlimit(kind, limits)
        _set_ignored_signals(request.ignored)
        set_scheduling(request.scheduling)
        _show_in_proc(request, program)
        set_variables(request.environment)
        change_variables(changes)
        time.tzset()
        _renew_state()
        _set_up_interpreter(program)
        end_as_plain()
    except Exception as error:  # noqa: BLE001 - no fault may end here in the code of the template
        send_answer(channel, Refused(f"a forked process could not be set up: {error}"))
        os._exit(0)
    if not send_answer(channel, Forked(os.getpid())):
        os._exit(0)  # the daemon has given up, and may have started the node plainly
    # From now on the daemon reads the pipe. Before, more output than a pipe holds would block this process.
    try:
        while printed:
            printed = printed[os.write(1, printed) :]
    except OSError:
        os._exit(1)  # the daemon has ended


def rehearse() -> None:
    """Do what `become` does, to no effect, in a process that is going to do it later.

    A forked process copies each page of memory when it writes to it first, and that takes longer than the
    work itself.
    """
    with open("/proc/self/cmdline", "rb") as file:
        arguments = file.read()
    variables = [b"%s=%s" % item for item in os.environb.items()]
    try:
        show(arguments, b"".join(pair + b"\0" for pair in variables))
    except OSError:
        return  # `become` reports it
    set_variables(variables)


_ignored: frozenset[int] = frozenset()  # signals


def remember_ignored_signals() -> None:
    """Remember, in the template, the signals that it ignores before it has imported anything."""
    global _ignored
    _ignored = ignored_signals()


def _set_ignored_signals(ignored: frozenset[int]) -> None:
    """Ignore what the daemon ignores now: it handles signals that were ignored when the template began.

    A package may set a signal at its import; that stays, unless the daemon and the template differ in it.
    """
    for number in ignored - _ignored:
        signal.signal(number, signal.SIG_IGN)
    for number in _ignored - ignored:
        is_interrupt = number == signal.SIGINT
        signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def _set_up_interpreter(program: PythonProgram) -> None:
    sys.executable = program.interpreter
    sys.orig_argv[:] = program.original
    sys.argv[:] = program.arguments
    if program.module:
        sys.path.insert(0, os.getcwd())
    else:
        sys.path.insert(0, os.path.dirname(os.path.realpath(program.script)))


def _renew_state() -> None:
    """Renew what libraries hold for a process, apart from what they renew at a fork by themselves."""
    main = threading.main_thread()
    if hasattr(main, "_set_native_id"):
        main._set_native_id()
    if (logging := sys.modules.get("logging")) is not None:  # it counts from its import
        now = time.time_ns() if isinstance(logging._startTime, int) else time.time()  # since Python 3.13
        logging._startTime = now  # type: ignore[attr-defined]
    generators.renew()
    if (process := sys.modules.get("multiprocessing.process")) is not None:
        process.ORIGINAL_DIR = os.getcwd()  # type: ignore[attr-defined]
        process.current_process().authkey = os.urandom(32)


# --------------------------------------------------------------------------- /proc

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sbrk.restype = ctypes.c_void_p
_shown: mmap.mmap | None = None  # what /proc shows; the kernel reads it there


class _MemoryMap(ctypes.Structure):
    """``struct prctl_mm_map`` of the kernel (include/uapi/linux/prctl.h)."""

    _fields_ = [
        *(
            (name, ctypes.c_uint64)
            for name in (
                *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack"),
                *("arg_start", "arg_end", "env_start", "env_end", "auxv"),
            )
        ),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]


# Their numbers in /proc/self/stat, see proc(5).
_STAT: Final = {
    "start_code": 26,
    "end_code": 27,
    "start_stack": 28,
    "start_data": 45,
    "end_data": 46,
    "start_brk": 47,
}


@cache
def memory_layout() -> dict[str, int]:
    """Return the places in memory that /proc/self/stat shows. Those of a fork are the same."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        stat = file.read().rpartition(")")[2].split()
    return {name: int(stat[number - 3]) for name, number in _STAT.items()}


def _show_in_proc(request: ForkRequest, program: PythonProgram) -> None:
    """Have /proc show the command line and the environment of the request; raises ``OSError``."""
    command = program.original if program.name else [os.fsdecode(word) for word in request.command]
    arguments = b"".join(os.fsencode(word) + b"\0" for word in command)
    variables = b"".join(pair + b"\0" for pair in request.environment)
    show(arguments, variables)
    if program.name:
        _libc.prctl(_PR_SET_NAME, ctypes.c_char_p(os.fsencode(program.name)), 0, 0, 0)


def show(arguments: bytes, variables: bytes) -> None:
    """Set what /proc shows as command line and environment of this process; raises ``OSError``."""
    global _shown
    size = len(arguments) + len(variables)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    shown = mmap.mmap(-1, size, flags=flags)
    shown.write(arguments + variables)
    start = ctypes.addressof(ctypes.c_char.from_buffer(shown))
    new = _MemoryMap(
        **memory_layout(),
        arg_start=start,
        arg_end=start + len(arguments),
        env_start=start + len(arguments),
        env_end=start + size,
        exe_fd=0xFFFFFFFF,
    )
    length = ctypes.c_ulong(ctypes.sizeof(new))
    new.brk = _libc.sbrk(0)
    if _libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(new), length, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    _shown = shown  # last: the kernel reads the former one until here


# --------------------------------------------------------------------------- running the program


def run(program: PythonProgram, namespace: dict[str, Any]) -> None:
    """Run the program in the namespace of ``__main__``, as the interpreter does.

    Tracebacks begin with the program. Raises ``SystemExit`` and ``KeyboardInterrupt`` for the interpreter,
    which ends the process.
    """
    try:
        if program.module:
            runpy._run_module_as_main(program.module)  # type: ignore[attr-defined]
        else:
            with open(program.script, "rb") as file:
                source = file.read()
            exec(compile(source, namespace["__file__"], "exec", dont_inherit=True), namespace)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001 - what the interpreter would do
        _report(error)


def _without_ours(error: BaseException) -> TracebackType | None:
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    return traceback


def _show_error(error: BaseException) -> None:
    error.__context__ = None
    error.__traceback__ = _without_ours(error)
    sys.__excepthook__(type(error), error, error.__traceback__)


def _report(error: BaseException) -> NoReturn:
    """Report an uncaught error as the interpreter does, without the frames of this module."""
    traceback = error.__traceback__ = _without_ours(error)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, traceback
    try:
        sys.excepthook(type(error), error, traceback)
    except SystemExit:
        raise
    except BaseException as fault:  # noqa: BLE001
        sys.stderr.write("Error in sys.excepthook:\n")
        _show_error(fault)
        sys.stderr.write("\nOriginal exception was:\n")
        _show_error(error)
    if isinstance(error, KeyboardInterrupt):
        sys.excepthook = lambda *_: None  # it is reported; the interpreter ends the process by SIGINT
        raise error
    sys.exit(1)
