"""Host of a node in a virtual dataflow: it replaces the socket, the pipes and the shared memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from dora.errors import DaemonLost
from dora.node.host import Host
from dora.node.receive.inbox import Inbox
from dora.node.saved_state import StateInMemory, StateStore
from dora.node.send.output import OutputPort
from dora.node.standalone.host import AnyOutput
from dora.testing.scheduler import Flag, Scheduler, current
from dora.testing.virtual_time import DoorbellsByFd
from dora.transport.board import Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.inprocess import LocalEngine
from dora.transport.interface import Engine, Receiver
from dora.transport.latch import Latch, LatchInMemory, ReadLatch
from dora.wire.node_config import InputConfig, LinkConfig, NodeConfig, OutputConfig
from dora.wire.node_protocol import ToDaemon, ToNode
from dora.wire.output_rules import LatchRule


class VirtualDoorbell(Doorbell):
    """A doorbell on which a task of the scheduler waits; it rings itself, too."""

    def __init__(self, scheduler: Scheduler, by_fd: DoorbellsByFd, why: str, *, of_node: bool) -> None:
        self.channel: VirtualChannel | None = None  # of the node's current process
        self._scheduler = scheduler
        self._why = why
        self._flag = Flag()
        # Asyncio loops poll a file descriptor, and are woken by a flag of their own.
        self._listeners: list[Flag] = []
        self._by_fd = by_fd
        self.fd, self._pipe = -1, -1
        if of_node:
            self.fd, self._pipe = os.pipe()
            os.set_blocking(self.fd, False)
            os.set_blocking(self._pipe, False)
            by_fd[self.fd] = self._listeners

    def wait(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else self._scheduler.now + round(timeout * 1e9)
        self._scheduler.wait(self._flag, deadline, self._why)
        return self.channel is not None and bool(self.channel.frames)

    def ring(self) -> None:
        self._scheduler.raise_flag(self._flag)
        if self._listeners:
            try:
                os.write(self._pipe, b"\0")
            except OSError:  # it rings already
                pass
            for flag in tuple(self._listeners):
                self._scheduler.raise_flag(flag)

    def rearm(self) -> None:
        """Do nothing: waiting consumes the ring."""

    def clear(self) -> None:
        self._flag.raised = False
        if self.fd >= 0:
            super().clear()

    def close(self) -> None:
        if self.fd >= 0:
            del self._by_fd[self.fd]
            os.close(self.fd)
            os.close(self._pipe)
            self.fd = self._pipe = -1


class VirtualBell(Bell):
    def __init__(self, doorbell: VirtualDoorbell) -> None:
        super().__init__("")
        self._doorbell = doorbell

    def ring(self) -> None:
        self._doorbell.ring()


class VirtualChannel:
    """A node's connection to the daemon of its dataflow, inside one process."""

    def __init__(self, doorbell: VirtualDoorbell, say: Callable[[ToDaemon], None]) -> None:
        self.frames: deque[ToNode] = deque()
        self.lost = False
        self._doorbell = doorbell
        self._say = say

    def fileno(self) -> int:
        return self._doorbell.fd

    def send(self, message: ToDaemon) -> None:
        if self.lost:
            raise DaemonLost("the daemon is gone")
        self._say(message)

    def wait(self) -> ToNode:
        while not self.frames:
            if self.lost:
                raise DaemonLost("the daemon closed the connection")
            self._doorbell.wait(None)
        return self.frames.popleft()

    def read(self) -> Iterator[ToNode]:
        while self.frames:
            yield self.frames.popleft()

    def is_readable(self) -> bool:
        return bool(self.frames) or self.lost

    def leave(self) -> None:
        self.close()

    def close(self) -> None:
        self.lost = True


class VirtualInbox(Inbox):
    """An inbox that gives up its turn when a poll finds nothing, and never spins."""

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **{**options, "spin_us": 0})

    def next(self, timeout: float | None) -> Any:
        event = super().next(_noticeable(timeout))
        if timeout == 0 and getattr(event, "is_timeout", False):
            self._idle_poll()
        return event

    async def next_async(self, timeout: float | None) -> Any:
        return await super().next_async(_noticeable(timeout))

    def try_next(self) -> Any:
        event = super().try_next()
        if event is None:
            self._idle_poll()
        return event

    def is_empty(self) -> bool:
        empty = super().is_empty()
        if empty:
            self._idle_poll()
        return empty

    def _idle_poll(self) -> None:
        found = current()
        if found is not None and not self._ending:
            found[0].idle_poll()


def _noticeable(timeout: float | None) -> float | None:
    """Return a timeout that takes time: a program that waits until a moment may be left with 0.3 ns."""
    return timeout and max(timeout, 1e-9)


class VirtualHost(Host):
    """The host of one process of a node."""

    owns_process = False

    def __init__(
        self,
        channel: VirtualChannel,
        config: NodeConfig,
        board: Board,
        engine: LocalEngine,
        doorbells: Mapping[str, VirtualDoorbell],
        any_output: Callable[[str], OutputConfig] | None,
        state: StateInMemory,
    ) -> None:
        super().__init__(channel, config, board)
        self._local = engine
        self._doorbells = doorbells
        self._any_output = any_output
        self._state = state
        self._receivers: list[Receiver] = []

    def make_engine(self) -> Engine:
        return _RegisteringEngine(self._local, self._receivers)

    def make_outputs(self, engine: Engine) -> dict[str, OutputPort]:
        outputs = super().make_outputs(engine)
        if self._any_output is None:
            return outputs
        make_config = self._any_output

        def make(output_id: str) -> OutputPort:
            config = make_config(output_id)
            return OutputPort(config, engine.sender(config), self.board, rings=False)

        some = AnyOutput(make)
        some.update(outputs)
        return some

    def _make_latch(self, output: OutputConfig, rule: LatchRule) -> Latch:
        latches = self._local.latches
        latch = latches[output.slot] = LatchInMemory(rule, latches.get(output.slot))
        return latch

    def latch_reader(self, output_slot: int) -> ReadLatch:
        latch = self._local.latches.get(output_slot)
        return latch.read if latch is not None else list

    def bell(self, path: str) -> Bell:
        return VirtualBell(self._doorbells[path])

    def doorbell(self, path: str, also: int = -1) -> Doorbell:  # noqa: ARG002
        return self._doorbells[path]

    def state(self) -> StateStore:
        return self._state

    def inbox_type(self) -> type[Inbox]:
        return VirtualInbox

    def leave(self) -> None:
        """Remove the receivers of an ended process from their links."""
        for receiver in self._receivers:
            receiver.close()
        self._receivers.clear()


class _RegisteringEngine(LocalEngine):
    """The common engine, which also lists the receivers of one node."""

    def __init__(self, engine: LocalEngine, receivers: list[Receiver]) -> None:
        super().__init__(engine)
        self._receivers = receivers

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> Any:
        receiver = super().receiver(item, arrived)
        self._receivers.append(receiver)
        return receiver


def observed(output: OutputConfig, slot: int) -> OutputConfig:
    """Return an output with one more link, so that all messages are sent.

    ``slot`` is an unused line of the board.
    """
    tap = LinkConfig(slot=slot, node_slot=slot, bell="", consumer="(the test)")
    return msgspec.structs.replace(output, links=[*output.links, tap])
