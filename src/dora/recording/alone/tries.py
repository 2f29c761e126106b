"""Run a node again and again, each time in a forked process, so that one run leaves nothing to the next.

A fork takes 3 ms, an interpreter with NumPy and Arrow a fifth of a second. The packages that the program
imports in the first run are imported before the second, for all further ones.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn

import msgspec

from dora.errors import DoraError
from dora.recording.alone.expectation import Expectation
from dora.recording.alone.host import RunWatch, SentMessage
from dora.recording.alone.recorded_node import Key, RecordedNode, Step
from dora.recording.alone.run import NodeError, NodeProgram, is_installed, run_alone
from dora.wire.decoders import msgpack_decoder
from dora.wire.message import Message

# Seconds for the first run, which imports all packages. Further runs get a third of it, or `_TIMES` as long
# as the first one took, if that is more. A run that takes longer counts as a hang.
_PATIENCE: Final = 30.0
_TIMES: Final = 10  # as long as the first run may another one take
_ORPHAN: Final = 5  # seconds more, after which a run ends itself
_MOST_TEXT: Final = 500  # characters of the message of an error


class Report(msgspec.Struct):
    """The result of a run in a forked process. Times are in seconds.

    Like `Outcome`, as far as it can be sent. ``equal``: how many messages were sent as they are recorded,
    ``different`` describes the first that was not. ``modules``: packages that the program has imported.
    ``checked``: messages for which an expectation had a value.
    """

    failure: NodeError | None
    step: int = 0
    missing: int = 0
    threads: int = 0
    files: list[str] = []
    equal: int = 0
    different: str = ""
    modules: list[str] = []
    checked: int = 0


_decode_report = msgpack_decoder(Report)


class _Observer(RunWatch):
    """In the forked process: checks what is sent, and compares it with what is recorded."""

    def __init__(self, node: RecordedNode, expectation: Expectation | None) -> None:
        self.equal = 0
        self.different = ""
        self._node = node
        self._expectation = expectation
        self._counts: dict[tuple[int, str], int] = {}

    def sent(self, sent: SentMessage) -> None:
        recorded = recorded_message(self._node, sent, self._counts)
        if recorded is not None and content_of(recorded) == content_of(sent.message):
            self.equal += 1
        elif not self.different:
            self.different = f"the first other message on `{sent.output}` comes after event {sent.step:,}"
        if self._expectation is not None:
            self._expectation.check(sent)


def recorded_message(
    node: RecordedNode, sent: SentMessage, counts: dict[tuple[int, str], int]
) -> Message | None:
    """Return the recorded message that a sent one corresponds to; ``counts`` is kept between the calls."""
    place = sent.step, sent.output
    count = counts[place] = counts.get(place, -1) + 1
    there = node.sent_on(*place)
    return there[count].message if count < len(there) else None


def content_of(message: Message) -> tuple[bytes, bytes]:
    """Return what two equal messages have in common: their type and their values."""
    from dora.wire.decode import decode_bytes

    return message.schema, decode_bytes(message) if message.body_size else b""


class Tries:
    """Runs a node in forked processes, and counts the runs."""

    def __init__(
        self, node: RecordedNode, program: NodeProgram, expectation: Expectation | None = None
    ) -> None:
        import dora.node.node
        import dora.node.runtime
        import dora.wire.decode

        dora.wire.decode.warm_up()
        gc.collect()
        gc.freeze()  # else a collection in a child would copy the pages of all objects
        self.count = 0
        self._node = node
        self._program = program
        self._expectation = expectation
        self._patience = _PATIENCE

    def run(
        self, steps: Sequence[Step] | None = None, changed: Mapping[Key, Message] | None = None
    ) -> Report:
        """Run the node with some of its events, by default all; raises `DoraError` without a process."""
        began = time.monotonic()
        report = _in_fork(lambda: self._run(steps, changed), self._patience)
        self.count += 1
        if self.count == 1:
            self._patience = max(_PATIENCE / 3, _TIMES * (time.monotonic() - began))
            _import(report.modules)
        return report

    def _run(self, steps: Sequence[Step] | None, changed: Mapping[Key, Message] | None) -> Report:
        observer = _Observer(self._node, self._expectation)
        modules = set(sys.modules)
        outcome = run_alone(self._node, self._program, observer, steps, changed)
        failure = outcome.failure
        return Report(
            failure and failure._replace(message=failure.message[:_MOST_TEXT]),
            step=outcome.step,
            missing=outcome.missing,
            threads=outcome.threads,
            files=outcome.files,
            equal=observer.equal,
            different=observer.different,
            modules=_packages(modules),
            checked=0 if self._expectation is None else self._expectation.checked,
        )


def _packages(before: set[str]) -> list[str]:
    """Return the modules of packages that were imported since then, in the order of their imports."""
    return [
        name
        for name, module in sys.modules.items()
        if name not in before
        and (name.startswith("dora.") or is_installed(getattr(module, "__file__", None) or ""))
    ]


def _import(modules: Sequence[str]) -> None:
    """Import modules for the runs to come, as far as that works."""
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException:  # noqa: BLE001 - a package may raise anything; then each run imports it
            return


def _in_fork(function: Callable[[], Report], patience: float) -> Report:
    """Return what a function returns in a forked process; how that ended, if it was killed or hangs.

    Processes that it has started are killed after it.
    """
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        child = os.fork()
    except OSError as error:
        os.close(read)
        os.close(write)
        raise DoraError(f"no process can be started for another try: {error.strerror}") from None
    if child == 0:
        _be_the_child(function, read, write, patience)
    os.close(write)
    data, deadline = b"", time.monotonic() + patience
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([read], [], [], left)[0]:
                return _failed("Hang", f"it does not end within {patience:.0f} s")
            piece = os.read(read, 1 << 16)
            if not piece:
                break
            data += piece
    finally:
        os.close(read)
        # Before the child is waited for: until then, no other process group can have its number.
        for kill in (os.killpg, os.kill):  # it may not have made its group yet
            with suppress(OSError):
                kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)  # after reading: a child whose pipe is full does not end
    if os.WIFSIGNALED(status):
        return _failed(signal.Signals(os.WTERMSIG(status)).name, "the process was killed by it")
    if not data:
        return _failed("SystemExit", f"os._exit({os.waitstatus_to_exitcode(status)})")
    report: Report = _decode_report(data)
    return report


def _failed(kind: str, message: str) -> Report:
    return Report(NodeError(kind, None, message))


def _be_the_child(function: Callable[[], Report], read: int, write: int, patience: float) -> NoReturn:
    try:
        os.close(read)
        os.setsid()  # a group of its own, which the parent can kill as a whole
        # For a parent that was killed: no terminal reaches this group.
        signal.alarm(int(patience) + _ORPHAN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        # The end of the pipe is the end of this process, whatever forks of it do.
        os.register_at_fork(after_in_child=lambda: os.dup2(nothing, write, inheritable=False))
        data = msgspec.msgpack.encode(function())
        while data:
            data = data[os.write(write, data) :]
    except BaseException as error:  # noqa: BLE001 - nothing may go on in the child
        os.write(write, msgspec.msgpack.encode(_failed("DoraError", str(error)[:_MOST_TEXT])))
    finally:
        os._exit(0)  # not `sys.exit`: exit handlers are the parent's
