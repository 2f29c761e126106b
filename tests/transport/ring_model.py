"""A model of two processes on a ring, which explores everything that may happen.

Both run the code of the product, `RingWriter` and `RingReader`, on a memory of this module. An operation
runs until it touches the memory; the explorer chooses what it finds there, and who goes on next. It tries
every choice. To go on, an operation is run again from its beginning, and finds what it found before.

The memory is weak, like that of arm64. Each place has a history of values, and each process a *view*: for
each place, the oldest value that it may still see. A plain read may return any value from there on, and
what it returns moves the view at this place only. Semaphores order: posting one hands the view of the
process to the one that takes it (release and acquire, which POSIX promises at least). A try to take one may
fail although there is one, for it looks with a plain read first; but the next try sees it, because nothing
stays invisible for ever. ``HEAD`` is only a hint, which may be visible too early as well: reading it may
return any number.

A signal handler may raise an exception in an operation whose name begins with ``interrupted``, once.
CPython runs handlers after calls and at the beginning of functions. Here that may be before each plain
read, after each post and each look at a semaphore, and before a block is released; but not between taking a
semaphore and what the code does next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from dora.transport.shm.ring import BLOCK, CELL, HEAD, RingMemory, RingReader, RingWriter

Access = tuple[Any, ...]  # what is done, the place, and the value that is written
View = dict[Any, int]


class Pause(Exception):
    """The operation touches the memory; nobody has chosen yet what it finds."""


class Violation(AssertionError):
    """The ring broke one of its promises; the message has the steps that led there."""


class Signal(BaseException):
    """What a signal handler raises."""


class Replay:
    """What the running operation finds in the memory."""

    def __init__(self) -> None:
        self.found: tuple[Any, ...] = ()
        self.at = 0
        self.interrupts = False

    def access(self, *access: Any) -> Any:
        if access[0] == "read":
            self.check_signals()
        found = self._access(*access)
        if access[0] in ("post", "zero"):
            self.check_signals()
        return found

    def check_signals(self) -> None:
        if self.interrupts and self._access("signal", None):
            self.interrupts = False
            raise Signal

    @contextmanager
    def interrupted(self, recover: Callable[[], None]) -> Iterator[None]:
        self.interrupts = True
        try:
            yield
        except Signal:
            recover()
        finally:
            self.interrupts = False

    def _access(self, *access: Any) -> Any:
        if self.at == len(self.found):
            raise Pause(access)
        self.at += 1
        return self.found[self.at - 1]


class Words:
    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def __getitem__(self, index: int) -> int:
        value: int = self._replay.access("read", index)
        return value

    def __setitem__(self, index: int, value: int) -> None:
        self._replay.access("write", index, value)


class Semaphore:
    def __init__(self, replay: Replay, name: str) -> None:
        self.take: Callable[[bool], bool] = lambda _: replay.access("take", name)
        self.post: Callable[[], None] = lambda: replay.access("post", name)
        self.is_zero: Callable[[], bool] = lambda: replay.access("zero", name)


def memory(replay: Replay, queue_size: int, cells: int) -> RingMemory:
    slots = range(queue_size + 1)
    return RingMemory(
        Words(replay),
        *(
            [Semaphore(replay, f"{kind}{number}") for number in numbers]  # type: ignore[misc]
            for kind, numbers in (("full", slots), ("free", slots), ("returned", range(cells)))
        ),
    )


class Sender:
    """Sends numbers from 1 on, in blocks that it uses again as soon as it may."""

    ring_type: type[RingWriter[int]] = RingWriter

    def __init__(self, replay: Replay, queue_size: int, cells: int) -> None:
        self._replay = replay
        self.ring = self.ring_type(memory(replay, queue_size, cells), self._release)
        self.idle: list[int] = []
        self.blocks = 0
        self.sent = 0
        self.unsent: list[int] = []  # perhaps

    def _release(self, block: int) -> None:
        self._replay.check_signals()
        if block in self.idle:
            raise Violation(f"block {block} came back twice")
        self.idle.append(block)

    def send(self) -> None:
        self.sent += 1
        if not self.idle:
            self.ring.reclaim()
        if self.idle:
            block = self.idle.pop()
        else:
            block = self.blocks
            self.blocks += 1
        self._replay.access("write", ("block", block), self.sent)
        if not self.ring.push(block, block):
            raise Violation("no slot was left")

    def interrupted_send(self) -> None:
        with self._replay.interrupted(self._put_in_order):
            self.send()

    def _put_in_order(self) -> None:
        self.unsent.append(self.sent)
        self.ring.recover()
        self.idle = [block for block in range(self.blocks) if block not in self.ring.blocks()]

    def end(self) -> None:
        """Take back what a receiver that lives does not have."""
        self.ring.end()

    def receiver_is_dead(self) -> None:
        self.ring.end()
        self.ring.take_all()

    def check_all_idle(self) -> None:
        if self.ring.is_out or sorted(self.idle) != list(range(self.blocks)):
            raise Violation(f"of {self.blocks} blocks only {self.idle} are back")


class Receiver:
    """Receives, and holds messages in their memory as long as there are cells."""

    ring_type = RingReader

    def __init__(self, replay: Replay, queue_size: int, cells: int) -> None:
        self._replay = replay
        self.ring = self.ring_type(memory(replay, queue_size, cells))
        self.received: list[int] = []
        self.held: list[tuple[int, int, int]] = []  # block, number, cell
        self.lost: list[int] = []  # perhaps

    def receive(self) -> None:
        word = self.ring.take()
        if word < 0:
            return
        block = self.ring.words[word + BLOCK]
        number = self._read(block)
        cell = -1
        try:
            if self.ring.cells:
                cell = self.ring.cells[-1]
                del self.ring.cells[-1]
                self.ring.words[word + CELL] = cell + 1
            else:
                self._check(block, number)
            self.ring.give_back(word)
        except Signal:
            self.lost.append(number)
            if cell >= 0:  # the program lets go of what it never got
                self.ring.return_cell(cell)
            raise
        if cell >= 0:
            self.held.append((block, number, cell))
        if self.received and number <= self.received[-1]:
            raise Violation(f"{number} came after {self.received}")
        self.received.append(number)

    def interrupted_receive(self) -> None:
        with self._replay.interrupted(self.ring.put_back):
            self.receive()

    def let_go(self) -> None:
        """Give back the block that is held for the longest time."""
        if self.held:
            block, number, cell = self.held.pop(0)
            self._check(block, number)
            self.ring.return_cell(cell)

    def _read(self, block: int) -> int:
        number: int = self._replay.access("read", ("block", block))
        if not number:
            raise Violation(f"block {block} was read before it was written")
        return number

    def _check(self, block: int, number: int) -> None:
        if self._read(block) != number:
            raise Violation(f"block {block} was written while it was held")


def _snapshot(thing: Any) -> tuple[Any, ...]:
    """Return the state of a sender or receiver and of its ring."""
    return tuple(
        (part, name, _frozen(value))
        for part, each in ((0, thing), (1, thing.ring))
        for name, value in vars(each).items()
        if _is_state(value)
    )


def _is_state(value: Any) -> bool:
    if isinstance(value, list):
        return all(each is None or isinstance(each, (int, tuple)) for each in value)
    return isinstance(value, (int, dict, deque))


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return ("list", *value)
    if isinstance(value, dict):
        return ("dict", *sorted(value.items()))
    if isinstance(value, deque):
        return ("deque", *value)
    return value


_KINDS: dict[str, Callable[[Any], Any]] = {"list": list, "dict": dict, "deque": deque}


def _restore(thing: Any, snapshot: tuple[Any, ...]) -> None:
    for part, name, value in snapshot:
        if isinstance(value, tuple):
            value = _KINDS[value[0]](value[1:])
        setattr(thing.ring if part else thing, name, value)


@dataclass(frozen=True)
class Process:
    """One of the two: where it is in its script, what it has found in this operation, what it may see."""

    snapshot: tuple[Any, ...]
    at: int = 0
    found: tuple[Any, ...] = ()
    view: tuple[tuple[Any, int], ...] = ()


@dataclass(frozen=True)
class State:
    # Of each place: the values that it had, and what a process sees that takes a semaphore with this value.
    histories: tuple[tuple[Any, tuple[tuple[int, tuple[tuple[Any, int], ...]], ...]], ...]
    processes: tuple[Process, Process]


@dataclass
class Explorer:
    """All that may happen with a queue of this size.

    ``scripts``: what sender and receiver do, by the names of their methods. ``kill``: 0 kills the sender, 1
    the receiver, at every step; None neither. ``weak`` False: each read returns the newest value.
    """

    queue_size: int
    cells: int
    scripts: tuple[tuple[str, ...], tuple[str, ...]]
    kill: int | None = None
    weak: bool = True
    types: tuple[type[Sender], type[Receiver]] = (Sender, Receiver)
    states: int = 0
    outcomes: set[tuple[int, ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._replay = Replay()
        sender, receiver = self.types
        self._things: tuple[Any, Any] = (
            sender(self._replay, self.queue_size, self.cells),
            receiver(self._replay, self.queue_size, self.cells),
        )

    def run(self) -> None:
        """Explore everything; raises `Violation`."""
        first = State((), tuple(Process(_snapshot(thing)) for thing in self._things))  # type: ignore[arg-type]
        seen = {first}
        todo = [first]
        while todo:
            state = todo.pop()
            self.states += 1
            following = [next_state for who in (0, 1) for next_state in self._steps(state, who)]
            if not following:
                self._finish(state, None)
            elif self.kill is not None and state.processes[self.kill].at < len(self.scripts[self.kill]):
                self._finish(state, self.kill)
            for next_state in following:
                if next_state not in seen:
                    seen.add(next_state)
                    todo.append(next_state)

    # ------------------------------------------------------------------ one step

    def _steps(self, state: State, who: int) -> Iterator[State]:
        """Yield the states after the next access of a process, for each value that it may find."""
        process = state.processes[who]
        script = self.scripts[who]
        if process.at == len(script):
            return
        access = self._next_access(who, process, script[process.at])
        for found, histories, view in self._choices(state, process, access):
            after = replace(process, found=(*process.found, found), view=view)
            after = self._advance(who, after)
            processes = (after, state.processes[1]) if who == 0 else (state.processes[0], after)
            yield State(histories, processes)

    def _next_access(self, who: int, process: Process, operation: str) -> Access:
        try:
            self._run(who, process, operation)
        except Pause as pause:
            access: Access = pause.args[0]
            return access
        raise AssertionError("an operation that is over was left in the script")

    def _advance(self, who: int, process: Process) -> Process:
        """Go to the next operation that touches the memory, if this one is over."""
        script = self.scripts[who]
        while process.at < len(script):
            try:
                self._run(who, process, script[process.at])
            except Pause:
                return process
            process = replace(process, snapshot=_snapshot(self._things[who]), at=process.at + 1, found=())
        return process

    def _run(self, who: int, process: Process, operation: str) -> None:
        thing = self._things[who]
        _restore(thing, process.snapshot)
        self._replay.found, self._replay.at = process.found, 0
        getattr(thing, operation)()

    def _choices(self, state: State, process: Process, access: Access) -> Iterator[tuple[Any, Any, Any]]:
        """Yield what an access may find, and the memory and the view after it."""
        kind, place, *written = access
        memory, view = dict(state.histories), dict(process.view)
        history = memory.get(place, ((0, ()),))
        newest = len(history) - 1
        oldest = view.get(place, 0) if self.weak else newest
        value, handed_on = history[newest]
        if kind == "signal":
            yield False, state.histories, process.view
            yield True, state.histories, process.view
        elif kind == "read" and place == HEAD and self.weak:
            for number in range(len(self.scripts[0]) + 2):
                yield number, state.histories, process.view
        elif kind == "read":
            for index in self._distinct(history, oldest):
                yield history[index][0], state.histories, _frozen_view({**view, place: index})
        elif kind == "zero":
            for index in self._distinct([(not number, view) for number, view in history], oldest):
                yield history[index][0] == 0, state.histories, _frozen_view({**view, place: index})
        elif kind == "write":
            memory[place] = (*history, (written[0], ()))
            yield None, _frozen_memory(memory), _frozen_view({**view, place: newest + 1})
        elif kind == "post":
            view[place] = newest + 1
            memory[place] = (*history, (value + 1, _frozen_view(_joined(view, handed_on))))
            yield None, _frozen_memory(memory), _frozen_view(view)
        else:
            assert kind == "take"
            zero = next((index for index in range(oldest, newest + 1) if not history[index][0]), None)
            if zero is not None:
                yield False, state.histories, _frozen_view({**view, place: newest})
            if value:
                view = _joined({**view, place: newest + 1}, handed_on)
                view[place] = newest + 1
                memory[place] = (*history, (value - 1, handed_on))
                yield True, _frozen_memory(memory), _frozen_view(view)

    @staticmethod
    def _distinct(history: Any, oldest: int) -> Iterator[int]:
        """Yield the places of different values in a history: to have seen the older one restricts less."""
        values = set()
        for index in range(oldest, len(history)):
            if history[index][0] not in values:
                values.add(history[index][0])
                yield index

    # ------------------------------------------------------------------ at the end

    def _finish(self, state: State, dead: int | None) -> None:
        """Let who is left come to an end, with everything in sight, and check what has become of it all."""
        sender, receiver = state.processes
        known = _frozen_view({place: len(history) - 1 for place, history in state.histories})
        if dead == 1:  # the daemon has said so
            self._complete(state, 0, replace(sender, view=known), ("receiver_is_dead",))
            self._things[0].check_all_idle()
            return
        if dead is None and sender.at < len(self.scripts[0]):
            raise AssertionError("the explorer has stopped early")
        many = len(self.scripts[0]) + 1
        rest = ("receive",) * many + ("let_go",) * (many + len(self.scripts[1]))
        state, _ = self._complete(state, 1, replace(receiver, view=known), rest)
        received = list(self._things[1].received)
        self.outcomes.add(tuple(received))
        if dead == 0:
            sent = sender.at + 1  # at most; what was posted is in order, and whole
            if received and received[-1] > sent:
                raise Violation(f"{received} of {sent}")
            return
        done = self.scripts[0][: sender.at]
        ends = [at for at, operation in enumerate(done) if operation == "end"]
        sent, dropped = (
            sum(operation.endswith("send") for operation in part)  # dropped on purpose
            for part in (done, done[: ends[-1]] if ends else ())
        )
        lost = set(range(dropped + 1, sent + 1)) - set(received) - set(self._things[1].lost)
        _restore(self._things[0], sender.snapshot)
        lost -= set(self._things[0].unsent)
        if any(number + self.queue_size > sent for number in lost):
            raise Violation(f"of {sent} only {received} arrived")
        known = _frozen_view({place: len(history) - 1 for place, history in state.histories})
        self._complete(state, 0, replace(sender, view=known), ("end",))
        self._things[0].check_all_idle()

    def _complete(
        self, state: State, who: int, process: Process, more: tuple[str, ...]
    ) -> tuple[State, Process]:
        """Run a process alone to the end of its script, and what follows; each read returns the newest."""
        weak, scripts = self.weak, self.scripts
        self.weak = False
        self.scripts = (
            ((*scripts[0][: process.at + 1], *more), scripts[1])
            if who == 0
            else (scripts[0], (*scripts[1], *more))
        )
        try:
            processes = (process, state.processes[1]) if who == 0 else (state.processes[0], process)
            state = replace(state, processes=processes)
            state = replace(
                state,
                processes=(
                    (self._advance(0, process), state.processes[1])
                    if who == 0
                    else (state.processes[0], self._advance(1, process))
                ),
            )
            while state.processes[who].at < len(self.scripts[who]):
                (state,) = list(self._steps(state, who))[-1:]
            _restore(self._things[who], state.processes[who].snapshot)
            return state, state.processes[who]
        finally:
            self.weak, self.scripts = weak, scripts


def _joined(view: View, other: tuple[tuple[Any, int], ...]) -> View:
    joined = dict(view)
    for place, index in other:
        joined[place] = max(joined.get(place, 0), index)
    return joined


def _frozen_view(view: View) -> tuple[tuple[Any, int], ...]:
    return tuple(sorted(((place, index) for place, index in view.items() if index), key=repr))


def _frozen_memory(memory: dict[Any, Any]) -> tuple[Any, ...]:
    return tuple(sorted(memory.items(), key=repr))
