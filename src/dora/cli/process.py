"""The process of a command: its standard streams and its signals."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def guard_streams() -> None:
    """Make the streams of this process safe to use, at the start of a command.

    A stream that is closed (``>&-``) is connected to /dev/null: otherwise the next file or socket would get
    its number, and all that is printed. Control characters, and characters that the terminal cannot encode,
    are printed as escapes. A failing error stream ends no command.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno == errno.EBADF:
                _connect_to_null(descriptor)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = _stream(sys.stdout, _CommandOutput(1, "w", closefd=False), os.isatty(1))
    sys.stderr = _stream(sys.stderr, _Errors(2, "w", closefd=False), True)


def output_fault(error: Exception) -> str:
    """Return the reason if an error comes from writing to standard output, else "".

    Output that could not be written is discarded then.
    """
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _CommandOutput) or raw.fault is not error or not isinstance(error, OSError):
        return ""
    discard_output()
    return error.strerror or str(error)


def discard_output() -> None:
    """Connect standard output to /dev/null, so that the interpreter does not complain at its end."""
    try:
        _connect_to_null(sys.stdout.fileno())
    except (OSError, ValueError):  # a test's stream is no file
        pass


class _Errors(io.FileIO):
    """Standard error; once it fails (a full disk, a closed pipe), it discards all output."""

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except BlockingIOError:
            raise
        except OSError:
            _connect_to_null(self.fileno())
            return super().write(data)  # type: ignore[arg-type]


class _CommandOutput(io.FileIO):
    """Standard output; keeps the error if it cannot be written."""

    fault: OSError | None = None

    def write(self, data: object) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]
        except OSError as error:
            self.fault = error
            raise


def _stream(before: TextIO | None, raw: io.FileIO, line_buffering: bool) -> TextIO:
    if before is not None:
        before.flush()
    kind: type[io.TextIOWrapper] = io.TextIOWrapper
    if raw.isatty():
        from dora.daemon.logs.terminal import Terminal

        kind = Terminal
    return kind(
        io.BufferedWriter(raw),
        encoding=before.encoding if before is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=line_buffering,
    )


def _connect_to_null(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


@contextmanager
def termination_as_interrupt(*more: signal.Signals) -> Iterator[None]:
    """Make SIGTERM, and ``more`` signals, raise ``KeyboardInterrupt`` in this block.

    Only for the main thread. A signal that is ignored stays ignored (``nohup``). While a dataflow runs, the
    daemon handles SIGTERM instead.
    """
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, *more)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C, SIGTERM and SIGHUP to the end of this block, which must be short.

    A process that is started in the block is then known to who has to stop it. Blocking the signals would
    not do: the process would inherit that. Only for the main thread.
    """
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [
        (number, signal.signal(number, lambda got, _: held.append(got)))
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)
        for got in held:
            signal.raise_signal(got)
