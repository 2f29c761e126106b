"""Requests of the coordinator to the machines of a running dataflow, and their answers.

Each request has a ticket. The agent of the machine hands it to the socket of the dataflow's worker
(`dora.cluster.agent.worker_process`), and answers with the ticket. The request waits until
then, or until the dataflow, the machine's part of it, or the connection to the machine has ended.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Any, Final

from dora.cluster.coordinator.connections import DaemonConnection
from dora.cluster.coordinator.fleet import Fleet
from dora.cluster.coordinator.store import Store
from dora.cluster.protocol import (
    ACTIVE,
    JUST_ENDED,
    Answered,
    Ask,
    ToDaemon,
)
from dora.cluster.refusal import Refusal
from dora.wire.daemon_protocol import LookRequest, NodeRequest, Rejected, answer_timeout

# Seconds between checks that a dataflow still runs during a request. An answer needs none of them; they
# notice that none will come.
POLL_INTERVAL: Final = 0.5


class MachineGone(Refusal):
    """A machine, or its part of the dataflow, was gone before its answer."""


def _partition_gone(machine: str, what: str) -> MachineGone:
    return MachineGone(503, f"the partition on machine `{machine}` has ended during {what}")


class Requests:
    """Asks machines. All methods run in the coordinator's event loop."""

    def __init__(self, store: Store, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self._asked: dict[int, asyncio.Future[Any]] = {}
        # From a random number on: so an answer to a killed coordinator fits no request of this one.
        self._tickets = itertools.count(secrets.randbelow(1 << 48) + 1)

    def on_answer(self, message: Answered) -> None:
        """Complete the request that a daemon has answered."""
        if (asked := self._asked.pop(message.ticket, None)) is not None and not asked.done():
            asked.set_result(message.answer)

    async def ask(self, dataflow_id: str, machine: str, request: NodeRequest | LookRequest) -> Any:
        """Return the answer of a dataflow on a machine to the request of a client; raises as `send`."""
        run = self._fleet.run(dataflow_id)
        if run is not None and not run.has_partition(machine):  # it is back, and its nodes are not yet
            raise MachineGone(
                503, f"machine `{machine}` has no part of the dataflow at the moment; try again"
            )
        return await self.send(
            dataflow_id,
            machine,
            lambda ticket: Ask(dataflow_id, ticket, request),
            timeout=answer_timeout(request),
            changes=not isinstance(request, LookRequest),
        )

    async def send(
        self,
        dataflow_id: str,
        machine: str,
        make: Callable[[int], ToDaemon],
        *,
        timeout: float | None = None,
        changes: bool = True,
    ) -> Any:
        """Send the message that ``make`` makes of a ticket to a machine, and return its answer.

        Raises `Refusal`: with the reason of the machine, or after ``timeout`` seconds; `MachineGone` if the
        dataflow, the machine, or its part of the dataflow is gone meanwhile. ``changes``: the request
        changes something, which the sentences say.
        """
        connection = self.connection(machine, changes=changes)
        what = "the change" if changes else "the request"
        ticket = next(self._tickets)
        asked = self._asked[ticket] = asyncio.get_running_loop().create_future()
        try:
            connection.send(make(ticket))
            async with asyncio.timeout(timeout):
                while not (await asyncio.wait({asked}, timeout=POLL_INTERVAL))[0]:
                    self._check(dataflow_id, connection, what)
        except TimeoutError:
            raise Refusal(504, f"machine `{machine}` has not answered within {timeout:g} s") from None
        finally:
            self._asked.pop(ticket, None)
        answer = asked.result()
        if answer == Rejected(JUST_ENDED):
            self._check(dataflow_id, connection, what)
            raise _partition_gone(machine, what)
        if isinstance(answer, Rejected):
            raise Refusal(409, answer.reason)
        return answer

    def _check(self, dataflow_id: str, connection: DaemonConnection, what: str) -> None:
        """Raise `MachineGone` if no answer will come."""
        machine = connection.machine
        if self.has_ended(dataflow_id):
            raise MachineGone(409, "the dataflow has ended meanwhile")
        if self._fleet.connections.get(machine) is not connection:
            raise MachineGone(503, f"the connection to machine `{machine}` broke during {what}")
        run = self._fleet.run(dataflow_id)
        if run is None or not run.has_partition(machine):
            raise _partition_gone(machine, what)

    def connection(self, machine: str, *, changes: bool = True) -> DaemonConnection:
        """Return the connection to a machine; raises `MachineGone`. ``changes`` is as in `send`."""
        connection = self._fleet.connections.get(machine)
        if connection is None:
            effect = ", so nothing was changed; try again" if changes else ""
            raise MachineGone(503, f"machine `{machine}` is not connected at the moment{effect}")
        return connection

    def has_ended(self, dataflow_id: str) -> bool:
        """Return whether a dataflow does not run any more."""
        view = self._store.find(dataflow_id)
        return view is None or view.status not in ACTIVE
