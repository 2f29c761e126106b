"""Observers of a dataflow on other machines, for its page.

On each machine an observer answers a `SnapshotQuery`, as long as a page is open.
Its messages come over the relay of the coordinator.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from dora.cluster.http.relay import RelayedSession
from dora.cluster.refusal import Refusal
from dora.observe.preview.protocol import (
    Ended,
    FromWatcher,
    page_query,
)
from dora.observe.queries import Preview, SnapshotQuery
from dora.observe.remote.protocol import (
    DeliveryTaken,
    QueryEnded,
    ToProcess,
    decode_delivery,
    encode,
)
from dora.observe.snapshot import Snapshot, merge
from dora.wire.daemon_protocol import GraphText

RETRY: Final = 2.0  # seconds between attempts to observe a machine
OpenSession = Callable[[str], RelayedSession]
"""Opens a session with an observer on a machine; raises `Refusal`."""


class RemoteObservers:
    """Observes one dataflow on some machines. ``placed`` is node → machine.

    ``snapshots`` has the newest one of each machine that is observed, ``faults`` says why others are not.
    ``on_change`` is called when either has changed. ``on_message`` gets other messages.
    """

    def __init__(
        self,
        machines: tuple[str, ...],
        placed: Mapping[str, str],
        open_session: OpenSession,
        on_change: Callable[[], None],
        on_message: Callable[[FromWatcher], None],
    ) -> None:
        self.placed = placed
        self.snapshots: dict[str, Snapshot] = {}
        self.faults: dict[str, str] = {}
        self._open_session = open_session
        self._on_change = on_change
        self._on_message = on_message
        self._query = page_query()
        self._sessions: dict[str, RelayedSession] = {}
        self._ended: set[str] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._tasks = [asyncio.create_task(self._follow(machine)) for machine in machines]

    def change_query(self, query: SnapshotQuery) -> None:
        """Change to another query: browsers show other topics."""
        self._query = query
        for machine in self._sessions:
            self._send_query(machine)

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
                except msgspec.DecodeError:
                    text = f"the observer on machine `{machine}` is of another version of dora"
                    self._set_fault(machine, text)
                finally:
                    session.end()
                    self._sessions.pop(machine, None)
            await asyncio.sleep(RETRY)

    async def _watch(self, machine: str, session: RelayedSession) -> bool:
        """Observe a machine until its session ends; return whether the dataflow has ended."""
        self._sessions[machine] = session
        self._send_query(machine)
        while (data := await session.receive()) is not None:
            for item in decode_delivery(data):
                match item:
                    case Snapshot():
                        self.faults.pop(machine, None)
                        self.snapshots[machine] = item
                        self._on_change()
                    case Preview() | GraphText():
                        self._on_message(item)
                    case QueryEnded():
                        session.end()  # before its connection ends, which would be the reason
                        session.reason = item.fault or session.reason
                        if item.ended:
                            self._end(machine)
                            return True
            self._send(session, DeliveryTaken())
        return False

    def _send_query(self, machine: str) -> None:
        topics = tuple(
            topic
            for topic in self._query.previews
            if self.placed.get(topic.partition("/")[0], machine) == machine
        )
        self._send(self._sessions[machine], msgspec.structs.replace(self._query, previews=topics))

    def _send(self, session: RelayedSession, message: ToProcess) -> None:
        async def send() -> None:
            await session.to_observer.put(encode(message))

        task = asyncio.create_task(send())  # they are done in the order in which they were made
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _set_fault(self, machine: str, fault: str) -> None:
        self.snapshots.pop(machine, None)
        self.faults[machine] = fault or f"machine `{machine}` cannot be observed"
        self._on_change()

    def _end(self, machine: str) -> None:
        self._ended.add(machine)
        if len(self._ended) == len(self._tasks):
            self._on_message(Ended())


def merged(
    here: Snapshot | None,
    remote: Mapping[str, Snapshot],
    faults: Mapping[str, str],
    placed: Mapping[str, str],
) -> Snapshot:
    """Return the merged snapshot of this machine and of others.

    ``remote`` and ``faults``, which say why a machine cannot be observed, are by machine. ``placed`` is
    node → machine.
    """
    parts = [*([here] if here else []), *remote.values()]
    snapshot = parts[0] if parts else Snapshot("", [], [])
    if remote:
        reported = {item.node.id: item.node.machine for item in snapshot.nodes}
        only = "" if here else next(iter(remote))  # a dataflow on one machine does not know its name
        snapshot = merge(
            snapshot,
            remote,
            lambda node: placed.get(node) or reported[node] or only,
        )
    troubles = (*(part.trouble for part in parts), *faults.values())
    return msgspec.structs.replace(snapshot, trouble="; ".join(filter(None, troubles)))
