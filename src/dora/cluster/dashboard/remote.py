"""The part of a dataflow that runs on other machines, in the same words as the part that is seen here.

On each of them a process watches as `dora.observe.preview.watcher` does here, for as long as a browser
looks;
what it says comes over the coordinator. Nodes and links of all of them are one state for the page; previews
are passed on.
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

RETRY: Final = 2.0  # seconds until a machine is looked at again


class RemoteQuery(Protocol):
    """A look into another machine, see `dora.cluster.coordinator.relay`."""

    to_process: asyncio.Queue[bytes]
    reason: str

    async def receive(self) -> bytes | None: ...

    def end(self, reason: str = "") -> None: ...


OpenLook = Callable[[str], RemoteQuery]
"""Opens a look into a machine; raises `Refusal`."""


class RemoteObservers:
    """Watches one dataflow on some machines. ``placed`` is node → machine, of those nodes.

    ``note`` gets the state of all these machines, as JSON, ``deliver`` what else is seen.
    """

    def __init__(
        self,
        machines: tuple[str, ...],
        placed: Mapping[str, str],
        open_look: OpenLook,
        note: Callable[[bytes], None],
        deliver: Callable[[FromWatcher], None],
    ) -> None:
        self._placed = placed
        self._open_look = open_look
        self._note = note
        self._deliver = deliver
        self._wanted = Wanted()
        self._looks: dict[str, RemoteQuery] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._faults: dict[str, str] = {}
        self._waiting: dict[int, asyncio.Future[QueryStatus]] = {}
        self._tickets = itertools.count(1)
        self._over: set[str] = set()
        self._saying: set[asyncio.Task[None]] = set()
        self._following = [asyncio.create_task(self._follow(machine)) for machine in machines]

    def want(self, wanted: Wanted) -> None:
        """Say what browsers want to see from now on."""
        self._wanted = wanted
        for machine in self._looks:
            self._say_wanted(machine)

    async def ask(self, machine: str, question: Question, patience: float) -> Answer:
        """Ask a machine that is being watched; raises `Refusal`."""
        look = self._looks.get(machine)
        if look is None:
            raise Refusal(503, self._faults.get(machine) or f"machine `{machine}` does not answer yet")
        ticket = next(self._tickets)
        told = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        self._say(look, Ask(question, ticket))
        try:
            return answered(await asyncio.wait_for(told, patience))
        except TimeoutError:
            raise Refusal(504, f"no answer within {patience:g} s") from None
        finally:
            del self._waiting[ticket]

    async def close(self) -> None:
        """Let all of it end."""
        for task in (*self._following, *self._saying):
            task.cancel()
        await asyncio.gather(*self._following, *self._saying, return_exceptions=True)

    # ----------------------------------------------------------------------- one machine

    async def _follow(self, machine: str) -> None:
        while True:
            try:
                look = self._open_look(machine)
            except Refusal as refusal:
                if refusal.status == 404:  # it runs no more
                    self._end(machine)
                    return
                if refusal.status != 425:  # it will run
                    self._lost(machine, str(refusal))
            else:
                try:
                    if await self._watch(machine, look):
                        return
                    self._lost(machine, look.reason)
                finally:
                    look.end()
                    self._looks.pop(machine, None)
            await asyncio.sleep(RETRY)

    async def _watch(self, machine: str, look: RemoteQuery) -> bool:
        """Look; return whether the dataflow has ended."""
        self._looks[machine] = look
        self._say(look, PageQuery())
        self._say_wanted(machine)
        while (data := await look.receive()) is not None:
            for item in decode_delivery(data):
                if isinstance(item, Frame):
                    self._take(machine, decode_from_watcher(item.body))
                elif isinstance(item, QueryStatus):
                    told = self._waiting.get(item.ticket)
                    if told is not None and not told.done():
                        told.set_result(item)
                elif isinstance(item, QueryEnded):
                    look.reason = look.reason or item.fault
                    if item.ended:
                        self._end(machine)
                        return True
            self._say(look, More())
        return False

    def _say_wanted(self, machine: str) -> None:
        topics = tuple(
            topic
            for topic in self._wanted.topics
            if self._placed.get(topic.partition("/")[0], machine) == machine
        )
        wanted = Wanted(topics, self._wanted.latency)
        self._say(self._looks[machine], Frame(frame(wanted)[4:]))

    def _say(self, look: RemoteQuery, message: ToProcess) -> None:
        async def say() -> None:
            await look.to_process.put(encode(message))

        task = asyncio.create_task(say())  # they are done in the order in which they were made
        self._saying.add(task)
        task.add_done_callback(self._saying.discard)

    # ----------------------------------------------------------------------- all of them

    def _take(self, machine: str, message: FromWatcher) -> None:
        match message:
            case State(state=state):
                self._faults.pop(machine, None)
                self._states[machine] = from_json(state)
                self._tell()
            case Preview() | Picture():
                self._deliver(message)

    def _lost(self, machine: str, fault: str) -> None:
        self._states.pop(machine, None)
        self._faults[machine] = fault or f"machine `{machine}` cannot be looked at"
        self._tell()

    def _end(self, machine: str) -> None:
        self._over.add(machine)
        if len(self._over) == len(self._following):
            self._deliver(Ended())

    def _tell(self) -> None:
        self._note(msgspec.json.encode(merged(self._states, self._placed, self._faults)))


def merged(
    states: Mapping[str, dict[str, Any]], placed: Mapping[str, str], faults: Mapping[str, str]
) -> dict[str, Any]:
    """Return one state of those of several machines: each tells of its nodes, and of the links to them."""

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


def answered(told: QueryStatus) -> Answer:
    """Return an answer; raises `Refusal` with the reason if there is none."""
    if told.answer is None:
        raise Refusal(409, told.fault)
    return told.answer


async def ask_once(look: RemoteQuery, question: Question, patience: float) -> Answer:
    """Ask a machine that nobody watches; raises `Refusal`."""
    try:
        async with asyncio.timeout(patience):
            await look.to_process.put(encode(Ask(question)))
            while (data := await look.receive()) is not None:
                for item in decode_delivery(data):
                    if isinstance(item, QueryStatus):
                        return answered(item)
                    if isinstance(item, QueryEnded):
                        raise Refusal(409, item.fault or "the dataflow has just ended")
                await look.to_process.put(encode(More()))
    except TimeoutError:
        raise Refusal(504, f"no answer within {patience:g} s") from None
    finally:
        look.end()
    raise Refusal(503, look.reason or "the machine does not answer")
