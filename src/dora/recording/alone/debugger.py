"""Debug a recorded node at this terminal: it stops at an event, under pdb or another debugger.

The node runs in a forked process, so "back" is another run, up to the event before. Its messages are shown
beside the recorded ones, and go nowhere.
"""

from __future__ import annotations

import bdb
import io
import os
import pdb
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

import msgspec

import dora.node.log
from dora.node.events import Event, Input, Synced
from dora.recording.alone.host import RunWatch, SentMessage
from dora.recording.alone.recorded_node import RecordedNode, Step
from dora.recording.alone.run import (
    NodeError,
    NodeProgram,
    Outcome,
    is_of_program,
    run_alone,
    trace_in_program,
)
from dora.recording.alone.tries import content_of, recorded_message
from dora.wire.decode import BAD_MESSAGE, decode_arrow
from dora.wire.decoders import msgpack_decoder
from dora.wire.message import Message
from dora.wire.metadata import MetadataError

_MOST_SHOWN: Final = 10  # messages on the way to a stop that are not as recorded
_HELP: Final = (
    "pdb, with `next event`, `back` (to the event before), `what followed` (in the recording), `event` "
    "(show it again); q quits"
)
INTERRUPTED: Final = 130  # the status that shells give for SIGINT: 128 + 2
_VALUES: Final = 12  # of an array
_WIDTH: Final = 160  # characters


class EndOfRun(msgspec.Struct):
    """The end of a run: its exit status, or the event to run to again, with the breakpoints to set."""

    status: int = 0
    again: int = 0  # 0: not again
    breakpoints: list[tuple[str, int, str]] = []


_decode_end = msgpack_decoder(EndOfRun)


class Debugger:
    """Runs a node again and again, up to an event."""

    def __init__(
        self, node: RecordedNode, program: NodeProgram, say: Callable[[str], None], wait: Any = None
    ) -> None:
        """``wait``: a function that returns once a debugger of an editor is connected; None: pdb.

        It returns a function that stops in a frame, or at the next line of the program.
        """
        self._node = node
        self._program = program
        self._say = say
        self._wait = wait

    def run(self, step: int) -> int:
        """Run the node, stop at event ``step`` (0: at none), and return the exit status."""
        answer = EndOfRun(again=step)
        while True:
            answer = self._in_fork(answer)
            if not answer.again:
                return answer.status

    def _in_fork(self, wanted: EndOfRun) -> EndOfRun:
        read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the node, or for pdb
        child = os.fork()
        if child == 0:
            os.close(read)
            DebugRun(self._node, self._program, self._say, self._wait, write).go(wanted)
        os.close(write)
        try:
            with open(read, "rb") as file:
                data = file.read()  # without a deadline: a user may stop at a line for hours
            _, status = os.waitpid(child, 0)
        finally:
            signal.signal(signal.SIGINT, before)
        if data:
            end: EndOfRun = _decode_end(data)
            return end
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            self._say(f"{self._node.node_id} was killed by {name}")
            return EndOfRun(1)
        return EndOfRun(os.waitstatus_to_exitcode(status))


class DebugRun(RunWatch):
    """One run, in a process of its own."""

    def __init__(
        self, node: RecordedNode, program: NodeProgram, say: Callable[[str], None], wait: Any, answer: int
    ) -> None:
        """``answer``: a file descriptor that gets the `EndOfRun`."""
        self.node = node
        self.target = 0
        self.step = 0
        self.event: Event | None = None
        self._program = program
        self._say = say
        self._wait = wait
        self._stop_in: Callable[[FrameType | None], None] | None = None
        self._answer = answer
        self._pdb = _Pdb(self)
        self._stopped = False
        self._counts: dict[tuple[int, str], int] = {}
        self._equal = self._different = 0
        self.status = 0  # 1 once the node has failed

    def go(self, wanted: EndOfRun) -> NoReturn:
        """Run, and end this process."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.target = wanted.again
        sys.breakpointhook = self._breakpoint
        dora.node.log.log_line = _readable
        for file, line, condition in wanted.breakpoints:
            self._pdb.set_break(file, line, cond=condition or None)
        try:
            if self._wait is not None:
                self._stop_in = self._wait()
            outcome = run_alone(self.node, self._program, self)
            self.end(self._report(outcome))
        except KeyboardInterrupt:
            self._say("interrupted")
            self.end(INTERRUPTED)
        except BaseException as error:  # noqa: BLE001 - nothing may go on in this process
            self._say(f"error: {error}")
            self.end(1)

    def end(self, status: int = 0, again: int = 0) -> NoReturn:
        """End this process; with ``again``, another one follows that stops at this event."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(self._answer, msgspec.msgpack.encode(EndOfRun(status, again, self._pdb.all_breakpoints())))
        os._exit(0)

    # ------------------------------------------------------------------ what the node does

    def taken(self, step: int, event: Event) -> None:
        self.step, self.event = step, event
        if step != self.target:
            return
        if not self._stopped and self._equal + self._different:
            self._say(f"sent before: {self._comparison()}")
        self._stopped = True
        self.show_event()
        self._breakpoint()

    def sent(self, sent: SentMessage) -> None:
        recorded = recorded_message(self.node, sent, self._counts)
        equal = recorded is not None and content_of(recorded) == content_of(sent.message)
        if equal:
            self._equal += 1
        else:
            self._different += 1
        is_here = self._stopped and sent.step == self.target
        if is_here or (not equal and self._different <= _MOST_SHOWN):
            beside = "as recorded" if equal else "not recorded"
            if not equal and recorded is not None:
                beside = f"recorded: {message_text(recorded)}"
            self._say(f"sends `{sent.output}` {message_text(sent.message)}  ({beside})")
        elif not equal and self._different == _MOST_SHOWN + 1:
            self._say("sends more that is not as recorded, which is counted")

    # ------------------------------------------------------------------ what is shown

    def show_event(self) -> None:
        """Print the event that the node has taken last."""
        if self.event is None:
            self._say("the node has taken no event yet")
            return
        self._say(step_text(self.node, self._step()))
        for line in event_lines(self.event):
            self._say(line)

    def show_what_followed(self) -> None:
        """Print what is recorded after this event: the messages that the node sent, and the next event."""
        node, prefix = self.node, f"{self.node.node_id}/"
        for recorded in node.sent_at.get(self.step, ()):
            name = recorded.topic.removeprefix(prefix)
            at = node.seconds(recorded.time_ns)
            self._say(f"at {at:.3f} s it sent `{name}` {message_text(recorded.message)}")
        if not node.sent_at.get(self.step):
            self._say("it sent nothing until its next event")
        following = next((step for step in node.steps if step.number > self.step), None)
        if following is not None:
            self._say(f"next: {step_text(node, following)}")
            return
        self._say("this was the last event that it took")
        for line in "\n".join(node.last_lines).splitlines()[-6:]:
            self._say(f"  {line}")

    def _step(self) -> Any:
        return next(step for step in self.node.steps if step.number == self.step)

    def _comparison(self) -> str:
        total = self._equal + self._different
        if not self._different:
            return f"{total:,} messages, as recorded"
        return f"{total:,} messages, {self._different:,} of them not as recorded"

    def _report(self, outcome: Outcome) -> int:
        if isinstance(outcome.error, bdb.BdbQuit):
            return 0
        if isinstance(outcome.error, KeyboardInterrupt):
            self._say("interrupted")
            return INTERRUPTED
        self._say(f"sent: {self._comparison()}")
        if outcome.missing:
            self._say(f"{outcome.missing:,} messages that the node took are not in the recording")
        if outcome.failure is None:
            self._say(f"{self.node.node_id} ended after event {outcome.step:,}, without a failure")
            return 0
        self._show_failure(outcome, outcome.failure)
        return 1

    def _show_failure(self, outcome: Outcome, failure: NodeError) -> None:
        assert outcome.error is not None
        self.status = 1
        trace = trace_in_program(outcome.error)
        sys.stdout.flush()
        traceback.print_exception(type(outcome.error), outcome.error, trace)
        self._say(f"{self.node.node_id} fails at event {outcome.step:,}: {failure}")
        if self._stopped and self._stop_in is None and trace is not None:
            self._pdb.look_at(trace)

    def _breakpoint(self, *_: Any, **__: Any) -> None:
        """Stop in the innermost frame of the program; also where it calls ``breakpoint()``."""
        frame = _innermost(sys._getframe())
        if self._stop_in is not None:
            self._stop_in(frame)
        else:
            self._pdb.stop(frame)


class _Pdb(pdb.Pdb):
    """pdb for a node: it stops in the program alone, never in dora or in packages."""

    def __init__(self, run: DebugRun) -> None:
        streams: tuple[Any, Any] = (None, None) if sys.stdin.isatty() else (_Lines(), sys.stdout)
        super().__init__("tab", *streams, nosigint=True)
        self.prompt = "(dora) "
        self._run = run
        self._greeted = False

    def stop(self, frame: FrameType | None) -> None:
        """Stop at the next line of the program; ``frame`` is its innermost one, None if there is none."""
        if not self._greeted:
            self._greeted = True
            self.message(_HELP)
        if frame is not None:
            self.set_trace(frame)
            return
        self.reset()
        self.set_step()
        sys.settrace(self.trace_dispatch)

    def user_opcode(self, _: FrameType) -> None:
        """Go on to the next line: from Python 3.13 on, pdb would stop before the program has the event."""
        self.set_step()

    def look_at(self, trace: Any) -> None:
        """Look at where the node has failed."""
        self.reset()
        self.interaction(None, trace)

    def stop_here(self, frame: FrameType) -> bool:
        return is_of_program(frame) and bool(super().stop_here(frame))

    def all_breakpoints(self) -> list[tuple[str, int, str]]:
        """Return the file, the line and the condition of each breakpoint."""
        return [(each.file, each.line, each.cond or "") for each in bdb.Breakpoint.bpbynumber if each]

    def do_next(self, arg: str) -> Any:
        """next: go on to the next line. `next event`: go on to the next event that the node takes."""
        if arg.strip() != "event":
            return super().do_next(arg)
        self._run.target = self._run.step + 1
        return super().do_continue("")

    do_n = do_next

    def do_back(self, arg: str) -> None:
        """back: run again, to the event before this one. `back 10`: to the tenth before."""
        count = int(arg) if arg.strip().isdecimal() else 1
        if self._run.step == 0:
            self.error("the node has taken no event yet")
            return
        first = self._run.node.steps[0].number
        self._run.end(again=max(self._run.step - count, first, 1))

    def do_what(self, arg: str) -> None:
        """what followed: show what is recorded after this event."""
        if arg.strip() == "followed":
            self._run.show_what_followed()
        else:
            self.error("write `what followed`")

    def do_event(self, _: str) -> None:
        """event: show the event that the node has taken last."""
        self._run.show_event()

    def do_quit(self, _: str) -> None:
        """quit: end the node and this command."""
        self._run.end(self._run.status)

    do_q = do_exit = do_quit  # type: ignore[assignment]  # its parameter has another name

    def do_EOF(self, _: str) -> None:
        """Ctrl-D: as quit."""
        self.message("")
        self._run.end(self._run.status)


class _Lines(io.TextIOBase):
    """Standard input that is no terminal, byte by byte: the process after "back" reads the rest."""

    def readline(self, _: int | None = -1, /) -> str:  # type: ignore[override]
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(0, 1)):
            line += byte
        return line.decode(errors="replace")


def _innermost(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of the program among the callers."""
    while frame is not None:
        if is_of_program(frame):
            return frame
        frame = frame.f_back
    return None


def _readable(node_id: str, level: str, message: str, *_: Any, **__: Any) -> str:
    """Return a line of the node's log for a terminal."""
    return f"{level.upper()} {node_id}: {message}"


def value_text(array: Any) -> str:
    """Return the type of an Arrow array, its length and its first values.

    >>> import pyarrow as pa
    >>> value_text(pa.array([1, 2]))
    'int64[2]: [1, 2]'
    """
    values = array.slice(0, _VALUES).to_pylist()
    more = f" … {len(array) - _VALUES:,} more" if len(array) > _VALUES else ""
    return _short(f"{array.type}[{len(array):,}]: {values}{more}")


def message_text(message: Message) -> str:
    """Return the values of a message as `value_text` does; its size if they cannot be read."""
    try:
        return value_text(decode_arrow(message))
    except BAD_MESSAGE:
        return f"{message.body_size:,} bytes"


def event_lines(event: Event) -> list[str]:
    """Return what is in an event."""
    if isinstance(event, Synced):
        return [line for message in event.messages() for line in _input_lines(message, message["id"])]
    if isinstance(event, Input):
        return _input_lines(event, "value")
    return [f"  {key}: {_short(str(event[key]))}" for key in event if key not in ("kind", "type")]


def _input_lines(event: Input, label: str) -> list[str]:
    try:
        lines = [f"  {label}: {value_text(event['value'])}"]
        metadata = {key: value for key, value in event["metadata"].items() if key != "timestamp"}
    except (*BAD_MESSAGE, MetadataError) as error:
        return [f"  {label}: it cannot be read: {error}"]
    return [*lines, f"  metadata: {_short(str(metadata))}"] if metadata else lines


def step_text(node: RecordedNode, step: Step) -> str:
    """Return the number of an event, its time and what it is."""
    last = node.steps[-1].number
    at = node.seconds(step.entry.time_ns)
    return f"event {step.number:,} of {last:,}, at {at:.3f} s: {node.describe(step.entry)}"


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}…"
