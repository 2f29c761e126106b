"""Queries on nodes of other machines, over the coordinator; `dora.observe.remote` answers them there.

Also snapshots of a dataflow whose nodes are not all on this machine, merged from all of its machines.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import msgspec

from dora._version import __version__
from dora.cluster.protocol import CLOSE_WITH_REASON, JUST_ENDED, VERSION_HEADER
from dora.daemon.client import DaemonClient
from dora.errors import ConnectError, DoraError
from dora.observe.load import Load
from dora.observe.queries import QueryBegun, ReplaceableQuery, SnapshotQuery
from dora.observe.remote.protocol import (
    MAX_DELIVERY,
    DeliveryTaken,
    EndQuery,
    Item,
    Query,
    QueryEnded,
    decode_delivery,
    encode,
)
from dora.observe.snapshot import RunSource, Snapshot, merge
from dora.transport.proof import proven_socket
from dora.wire.daemon_protocol import ANSWER_TIMEOUT, Inspection

if TYPE_CHECKING:
    from dora.cluster.client import Client

CLOSE_TIMEOUT: Final = 2.0  # seconds for the last results; a machine that is later is left out
_START_TIMEOUT: Final = 5.0  # seconds after which a query no longer waits for other machines to begin
_POLL_INTERVAL: Final = 0.2  # seconds between two checks whether the query is over

# Without a handler, Python prints a traceback of a broken connection. `_read` reports it in a sentence.
_log: Final = logging.getLogger("dora.observe.client")
_log.addHandler(logging.NullHandler())

Incoming = queue.SimpleQueue[tuple["ObserverConnection", list[Item]]]


class ObserverConnection:
    """A connection to the observer of one machine, for one query."""

    def __init__(self, client: Client, dataflow_id: str, machine: str) -> None:
        """Connect; raises `DoraError` if the coordinator or the machine refuses or is not there."""
        from http.client import HTTPException

        from websockets.exceptions import InvalidHandshake, WebSocketException
        from websockets.sync.client import connect

        self.machine = machine
        self.ending: QueryEnded | None = None
        self._incoming: Incoming = queue.SimpleQueue()
        # The lock keeps `begin` and the thread that reads apart. Without it, a result could get into the
        # first queue after `begin` has emptied that, and nobody would see it.
        self._lock = threading.Lock()
        headers = {VERSION_HEADER: __version__}
        if (token := client.token()) is not None:
            headers["Authorization"] = f"Bearer {token.value}"
        path = f"/api/dataflows/{quote(dataflow_id)}/observe?{urlencode({'machine': machine})}"
        try:
            self._connection = connect(
                f"ws://{client.where}{path}",
                sock=proven_socket(client.address, client.port, token, client.authority),
                additional_headers=headers,
                max_size=MAX_DELIVERY * 2,
                compression=None,
                logger=_log,
                proxy=None,
                open_timeout=5.0,
                ping_interval=2.0,
                ping_timeout=4.0,  # with the interval: a cut is noticed within 6 s
                close_timeout=0.5,
            ).__enter__()  # a connection without `with` is deprecated; `close` ends it
        except InvalidHandshake:
            client.status()  # raises, with the reason, if it is the token
            raise client.not_a_coordinator() from None
        except (OSError, HTTPException, WebSocketException) as error:
            client.status()  # raises, with the reason, as for every command
            raise DoraError(f"cannot connect to coordinator at {client.where}: {error}") from None
        threading.Thread(target=self._read, name="dora-remote-observer", daemon=True).start()

    def begin(self, query: Query, incoming: Incoming) -> None:
        """Begin a query; its results go to ``incoming``."""
        with self._lock:
            while not self._incoming.empty():
                incoming.put(self._incoming.get())  # the end may have come already
            self._incoming = incoming
        self._send(query)  # last: its results are for the new queue

    def replace(self, query: ReplaceableQuery) -> None:
        """Replace the query that runs by another one of its kind."""
        self._send(query)

    def more(self) -> None:
        """Ask for the next delivery."""
        self._send(DeliveryTaken())

    def enough(self) -> None:
        """End the query."""
        self._send(EndQuery())

    def close(self) -> None:
        self._connection.close()

    def _send(self, message: Any) -> None:
        from websockets.exceptions import WebSocketException

        try:
            self._connection.send(encode(message))
        except WebSocketException:
            pass  # `_read` reports the end

    def _read(self) -> None:
        from websockets.exceptions import ConnectionClosed, WebSocketException
        from websockets.frames import CloseCode

        fault = f"the observer on machine `{self.machine}` is gone"
        try:
            while True:
                data = self._connection.recv()
                self._arrive(decode_delivery(data if isinstance(data, bytes) else b""))
        except ConnectionClosed as error:
            received = error.rcvd
            if received is None:
                fault = "the connection to the coordinator broke"
            elif received.code == CLOSE_WITH_REASON:
                fault = received.reason
            elif received.code in (CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART):
                fault = "the coordinator has ended"
        except WebSocketException as error:
            fault = f"the connection to the coordinator broke: {error}"
        except msgspec.DecodeError:
            fault = f"the observer on machine `{self.machine}` is of another version of dora"
        self._arrive([QueryEnded(fault)])

    def _arrive(self, items: list[Item]) -> None:
        with self._lock:
            self._incoming.put((self, items))


class RemoteObserver:
    """Runs a query on several machines at once and merges the results (an `Observation`)."""

    def __init__(
        self,
        connections: dict[str, ObserverConnection],
        query_for: Callable[[str], Query],
        duration: float | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """Begin; ``connections`` and ``query_for`` are by machine.

        The time begins when all machines have begun, at most `_START_TIMEOUT` seconds after the first.
        """
        self._incoming: Incoming = queue.SimpleQueue()
        self._open = set(connections.values())
        self._awaited = set(connections.values())  # their queries have not begun
        self._duration = duration
        self._enough = enough
        self._deadline: float | None = None
        self.ended = False
        self.faults: list[str] = []
        self.last: list[Item] = []
        self.missed: dict[str, tuple[int, int]] = {}
        for machine, connection in connections.items():
            connection.begin(query_for(machine), self._incoming)

    def results(self) -> Iterator[Item | None]:
        """Yield results, and None after each turn, until the query is over on all machines."""
        while self._open and not self.is_over():
            for item in self._take(_POLL_INTERVAL):
                yield item
                if self._enough():
                    return
            yield None

    def wait(self) -> list[Item]:
        """Wait a moment for results."""
        return self._take(_POLL_INTERVAL)

    def incoming(self) -> list[Item]:
        """Return the results that have arrived, without waiting."""
        found = []
        while not self._incoming.empty():
            found += self._take(0)
        return found

    def present(self) -> set[str]:
        """Return the machines on which the query still runs."""
        return {connection.machine for connection in self._open}

    def reason(self) -> str:
        """Return why the query is over on all machines."""
        return JUST_ENDED if self.ended or not self.faults else self.faults[-1]

    def is_over(self) -> bool:
        """Return whether the query has got what it asked for, or its time has passed."""
        return self._enough() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def finish(self) -> None:
        """End the query on all machines, and keep its last results in ``last``."""
        for connection in self._open:
            connection.enough()
        deadline = time.monotonic() + CLOSE_TIMEOUT
        while self._open and time.monotonic() < deadline:
            self.last += self._take(deadline - time.monotonic())

    def _take(self, seconds: float) -> list[Item]:
        try:
            connection, items = self._incoming.get(timeout=max(seconds, 0.001))  # below 0 is an error
        except queue.Empty:
            return []
        results: list[Item] = []
        for item in items:
            if isinstance(item, QueryEnded):
                self._end(connection, item)
            elif isinstance(item, QueryBegun):
                self._start_clock(connection)
            else:
                results.append(item)
        if connection in self._open:
            connection.more()
        return results

    def _start_clock(self, connection: ObserverConnection) -> None:
        """Start the time of the query: on this machine it has begun, or never will."""
        self._awaited.discard(connection)
        if self._duration is not None:
            wait = _START_TIMEOUT if self._awaited else 0.0
            end = time.monotonic() + wait + self._duration
            self._deadline = end if self._deadline is None else min(self._deadline, end)

    def _end(self, connection: ObserverConnection, ending: QueryEnded) -> None:
        if connection not in self._open:
            return
        self._open.discard(connection)
        if connection in self._awaited:
            self._start_clock(connection)
        connection.ending = ending
        self.ended = self.ended or ending.ended
        self.missed |= ending.missed
        if ending.fault:
            self.faults.append(ending.fault)


class DistributedSource:
    """A `SnapshotSource` of one dataflow: its nodes on this machine, if any, and those on others.

    Each machine counts for its own nodes and for the links to them. Of a machine that does not answer, the
    snapshot has what the others know.
    """

    def __init__(
        self,
        name: str,
        inspection: Inspection,
        run: DaemonClient | None,
        connections: Mapping[str, ObserverConnection],
        machine_of: Callable[[str], str],
        every: float,
        *,
        latency: bool,
    ) -> None:
        """Begin. ``run`` is the part of this machine, if there is one; ``connections`` are by machine.

        Raises `ConnectError`, `DoraError`.
        """
        self.name = name
        self.inspection = inspection
        self._machine_of = machine_of
        self._local = None if run is None else RunSource(run, latency=latency)
        self._remote = RemoteObserver(dict(connections), lambda _: SnapshotQuery(every, latency))
        self._newest: dict[str, Snapshot] = {}  # by machine
        self._asked = set(connections)
        self._deadline = time.monotonic() + every + ANSWER_TIMEOUT

    @property
    def faults(self) -> list[str]:
        """Why machines stopped to answer, or measure no latencies."""
        return [*self._remote.faults, *(part.trouble for part in self._newest.values() if part.trouble)]

    def watch(self, seconds: float) -> None:
        if self._local is not None:
            self._local.watch(seconds)
        else:
            time.sleep(seconds)

    def detect_activity(self) -> None:
        if self._local is not None:
            self._local.detect_activity()

    def pids(self) -> list[int]:
        return [] if self._local is None else self._local.pids()

    def ask(self) -> None:
        """Ask the daemon of this machine; raises `ConnectError` once the dataflow has ended."""
        if self._local is not None:
            self._local.ask()
        elif not self._remote.present():
            raise ConnectError(self._remote.reason())

    def refresh(self, loads: dict[int, Load]) -> Snapshot:
        """Return the newest merged snapshot; wait for the first snapshot of each machine."""
        self._keep(self._remote.incoming())
        while self._remote.present() - self._newest.keys() and time.monotonic() < self._deadline:
            self._keep(self._remote.wait())
        remote = {
            machine: self._newest[machine] for machine in self._remote.present() & self._newest.keys()
        }
        if self._local is not None:
            self.inspection = self._local.inspection
            own = self._local.refresh(loads)
        elif remote:
            own = next(iter(remote.values()))
        else:
            return Snapshot("", [], [])
        return merge(own, remote, self._machine_of)

    def _keep(self, items: Sequence[object]) -> None:
        for item in items:
            if not isinstance(item, Snapshot):
                continue
            if item.machine in self._asked:
                self._newest[item.machine] = item
            else:  # the dataflow is on one machine, whose name it does not know
                self._newest.update(dict.fromkeys(self._asked, item))

    def close(self) -> None:
        if self._local is not None:
            self._local.close()
