"""Observers of a dataflow on other machines, for its page.

On each machine an observer runs like `dora.observe.preview.watcher` does here, as long as a page is open.
Its messages come over the relay of the coordinator. The states of all machines are merged into one, and
previews are forwarded.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from dora.cluster.coordinator.policy import Refusal
from dora.observe.preview.protocol import (
    Ended,
    FromWatcher,
    Picture,
    Preview,
    State,
    Wanted,
    decode_from_watcher,
    frame,
)
from dora.observe.remote.protocol import (
    Ask,
    Frame,
    More,
    PageQuery,
    QueryEnded,
    QueryStatus,
    Question,
    ToProcess,
    decode_delivery,
    encode,
)
from dora.wire.daemon_protocol import Answer
from dora.wire.decoders import from_json

RETRY: Final = 2.0  # seconds between attempts to observe a machine


class RemoteSession(Protocol):
    """A session with an observer, see `dora.cluster.coordinator.relay`."""

    to_observer: asyncio.Queue[bytes]
    reason: str

    async def receive(self) -> bytes | None: ...

    def end(self, reason: str = "") -> None: ...


OpenSession = Callable[[str], RemoteSession]
"""Opens a session with an observer on a machine; raises `Refusal`."""


class RemoteObservers:
    """Observes one dataflow on some machines. ``placed`` is node → machine.

    ``on_state`` gets the merged state of these machines, as JSON, ``on_message`` other messages.
    """

    def __init__(
        self,
        machines: tuple[str, ...],
        placed: Mapping[str, str],
        open_session: OpenSession,
        on_state: Callable[[bytes], None],
        on_message: Callable[[FromWatcher], None],
    ) -> None:
        self._placed = placed
        self._open_session = open_session
        self._on_state = on_state
        self._on_message = on_message
        self._wanted = Wanted()
        self._sessions: dict[str, RemoteSession] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._faults: dict[str, str] = {}
        self._waiting: dict[int, asyncio.Future[QueryStatus]] = {}
        self._tickets = itertools.count(1)
        self._ended: set[str] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._tasks = [asyncio.create_task(self._follow(machine)) for machine in machines]

    def update_wanted(self, wanted: Wanted) -> None:
        """Set the topics that browsers want to see."""
        self._wanted = wanted
        for machine in self._sessions:
            self._send_wanted(machine)

    async def ask(self, machine: str, question: Question, timeout: float) -> Answer:
        """Ask the observer of a machine; raises `Refusal`."""
        session = self._sessions.get(machine)
        if session is None:
            raise Refusal(503, self._faults.get(machine) or f"machine `{machine}` does not answer yet")
        ticket = next(self._tickets)
        reply = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._send(session, Ask(question, ticket))
        try:
            return answer_of(await asyncio.wait_for(reply, timeout))
        except TimeoutError:
            raise Refusal(504, f"no answer within {timeout:g} s") from None
        finally:
            del self._waiting[ticket]

    async def close(self) -> None:
        """End all observers."""
        for task in (*self._tasks, *self._sending):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._sending, return_exceptions=True)

    # ----------------------------------------------------------------------- one machine

    async def _follow(self, machine: str) -> None:
        while True:
            try:
                session = self._open_session(machine)
            except Refusal as refusal:
                if refusal.status == 404:  # it has ended
                    self._end(machine)
                    return
                if refusal.status != 425:  # it is still starting
                    self._set_fault(machine, str(refusal))
            else:
                try:
                    if await self._watch(machine, session):
                        return
                    self._set_fault(machine, session.reason)
                finally:
                    session.end()
                    self._sessions.pop(machine, None)
            await asyncio.sleep(RETRY)

    async def _watch(self, machine: str, session: RemoteSession) -> bool:
        """Observe a machine until its session ends; return whether the dataflow has ended."""
        self._sessions[machine] = session
        self._send(session, PageQuery())
        self._send_wanted(machine)
        while (data := await session.receive()) is not None:
            for item in decode_delivery(data):
                if isinstance(item, Frame):
                    self._receive(machine, decode_from_watcher(item.body))
                elif isinstance(item, QueryStatus):
                    reply = self._waiting.get(item.ticket)
                    if reply is not None and not reply.done():
                        reply.set_result(item)
                elif isinstance(item, QueryEnded):
                    session.reason = session.reason or item.fault
                    if item.ended:
                        self._end(machine)
                        return True
            self._send(session, More())
        return False

    def _send_wanted(self, machine: str) -> None:
        topics = tuple(
            topic
            for topic in self._wanted.topics
            if self._placed.get(topic.partition("/")[0], machine) == machine
        )
        wanted = Wanted(topics, self._wanted.latency)
        self._send(self._sessions[machine], Frame(frame(wanted)[4:]))

    def _send(self, session: RemoteSession, message: ToProcess) -> None:
        async def send() -> None:
            await session.to_observer.put(encode(message))

        task = asyncio.create_task(send())  # they are done in the order in which they were made
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    # ----------------------------------------------------------------------- all of them

    def _receive(self, machine: str, message: FromWatcher) -> None:
        match message:
            case State(state=state):
                self._faults.pop(machine, None)
                self._states[machine] = from_json(state)
                self._publish()
            case Preview() | Picture():
                self._on_message(message)

    def _set_fault(self, machine: str, fault: str) -> None:
        self._states.pop(machine, None)
        self._faults[machine] = fault or f"machine `{machine}` cannot be observed"
        self._publish()

    def _end(self, machine: str) -> None:
        self._ended.add(machine)
        if len(self._ended) == len(self._tasks):
            self._on_message(Ended())

    def _publish(self) -> None:
        self._on_state(msgspec.json.encode(merged(self._states, self._placed, self._faults)))


def merged(
    states: Mapping[str, dict[str, Any]], placed: Mapping[str, str], faults: Mapping[str, str]
) -> dict[str, Any]:
    """Merge the states of several machines: each has its own nodes, and the links to them."""

    def is_on(node: str, machine: str) -> bool:
        return placed.get(node, machine) == machine

    return {
        "nodes": [
            {**node, "machine": machine}
            for machine, state in states.items()
            for node in state["nodes"]
            if is_on(node["id"], machine)
        ],
        "links": [
            link
            for machine, state in states.items()
            for link in state["links"]
            if is_on(link["target"].partition("/")[0], machine)
        ],
        "trouble": "; ".join(
            text for text in (*(state["trouble"] for state in states.values()), *faults.values()) if text
        ),
    }


def answer_of(reply: QueryStatus) -> Answer:
    """Return the answer in a reply; raises `Refusal` with its reason if there is none."""
    if reply.answer is None:
        raise Refusal(409, reply.fault)
    return reply.answer


async def ask_once(session: RemoteSession, question: Question, timeout: float) -> Answer:
    """Ask a machine that is not being observed; raises `Refusal`."""
    try:
        async with asyncio.timeout(timeout):
            await session.to_observer.put(encode(Ask(question)))
            while (data := await session.receive()) is not None:
                for item in decode_delivery(data):
                    if isinstance(item, QueryStatus):
                        return answer_of(item)
                    if isinstance(item, QueryEnded):
                        raise Refusal(409, item.fault or "the dataflow has just ended")
                await session.to_observer.put(encode(More()))
    except TimeoutError:
        raise Refusal(504, f"no answer within {timeout:g} s") from None
    finally:
        session.end()
    raise Refusal(503, session.reason or "the machine does not answer")
