"""Looks at nodes of other machines, over the coordinator; what looks there is `dora.observe.remote`."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import msgspec

from dora._version import __version__
from dora.cluster.protocol import VERSION_HEADER, WITH_REASON
from dora.errors import ConnectError, DoraError
from dora.observe.remote.protocol import (
    MAX_DELIVERY,
    Ask,
    Begun,
    Enough,
    Item,
    More,
    Query,
    QueryEnded,
    QueryStatus,
    Question,
    decode_delivery,
    encode,
)
from dora.transport.proof import proven_socket
from dora.transport.tls import duplex_client_context

if TYPE_CHECKING:
    from dora.cluster.client import Client
    from dora.wire.daemon_protocol import Answer

PATIENCE: Final = 20.0  # seconds that another machine may take to answer
LAST_WORDS: Final = 2.0  # seconds for what it says at the end
_STRAGGLERS: Final = 5.0  # seconds that a look waits for those on other machines to begin
_TURN: Final = 0.2  # seconds between looks whether it is enough
_ENDED: Final = "the dataflow has just ended"

Arrived = queue.SimpleQueue[tuple["ObserverConnection", list[Item]]]


class ObserverConnection:
    """A connection to what looks at one machine. Questions first, then at most one look."""

    def __init__(self, client: Client, dataflow_id: str, machine: str) -> None:
        """Connect; raises `DoraError` if the coordinator or the machine refuses or is not there."""
        from http.client import HTTPException

        from websockets.exceptions import InvalidHandshake, WebSocketException
        from websockets.sync.client import connect

        self.machine = machine
        self.over: QueryEnded | None = None
        self._arrived: Arrived = queue.SimpleQueue()
        self._switching = threading.Lock()
        headers = {VERSION_HEADER: __version__}
        if (token := client.token()) is not None:
            headers["Authorization"] = f"Bearer {token.value}"
        path = f"/api/dataflows/{quote(dataflow_id)}/look?{urlencode({'machine': machine})}"
        encryption = duplex_client_context(client.authority)
        try:
            proven = None if encryption is not None else proven_socket(client.address, client.port, token)
            self._connection = connect(
                f"{'ws' if encryption is None else 'wss'}://{client.where}{path}",
                sock=proven,
                ssl=encryption,
                additional_headers=headers,
                max_size=MAX_DELIVERY * 2,
                compression=None,
                proxy=None,
                open_timeout=5.0,
                ping_interval=2.0,
                ping_timeout=4.0,
                close_timeout=0.5,
            )
        except InvalidHandshake:
            client.status()  # says what is wrong with the token, if it is that
            raise client.foreign() from None
        except (OSError, HTTPException, WebSocketException) as error:
            client.status()  # says what is wrong, as to every command
            raise DoraError(f"cannot connect to coordinator at {client.where}: {error}") from None
        threading.Thread(target=self._read, name="dora-afar", daemon=True).start()

    def ask(self, question: Question, patience: float = PATIENCE) -> Answer:
        """Ask the daemon of the dataflow there.

        Raises `DoraError` with its reason if it declines, `ConnectError` if the dataflow ends, and
        ``TimeoutError``; then the session is of no use any more.
        """
        if self.over is None:
            self._say(Ask(question))
        deadline = time.monotonic() + patience
        while self.over is None:
            try:
                _, items = self._arrived.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise TimeoutError from None
            self.more()
            for item in items:
                if isinstance(item, QueryEnded):
                    self.over = item
                elif isinstance(item, QueryStatus):
                    if item.answer is None:
                        raise DoraError(item.fault)
                    return item.answer
        if self.over.ended:
            raise ConnectError(_ENDED)
        raise DoraError(self.over.fault or _ENDED)

    def begin(self, look: Query, arrived: Arrived) -> None:
        """Begin a look; what it brings comes to ``arrived``."""
        with self._switching:
            while not self._arrived.empty():
                arrived.put(self._arrived.get())  # it may be over already
            self._arrived = arrived
        self._say(look)

    def more(self) -> None:
        """Say that the last delivery is done with."""
        self._say(More())

    def enough(self) -> None:
        self._say(Enough())

    def close(self) -> None:
        self._connection.close()

    def _say(self, message: Any) -> None:
        from websockets.exceptions import WebSocketException

        try:
            self._connection.send(encode(message))
        except WebSocketException:
            pass  # it is over, which arrives

    def _read(self) -> None:
        from websockets.exceptions import ConnectionClosed, WebSocketException
        from websockets.frames import CloseCode

        fault = f"what looked on machine `{self.machine}` is gone"
        try:
            while True:
                data = self._connection.recv()
                self._arrive(decode_delivery(data if isinstance(data, bytes) else b""))
        except ConnectionClosed as error:
            received = error.rcvd
            if received is None:
                fault = "the connection to the coordinator broke"
            elif received.code == WITH_REASON:
                fault = received.reason
            elif received.code in (CloseCode.GOING_AWAY, CloseCode.SERVICE_RESTART):
                fault = "the coordinator has ended"
        except WebSocketException as error:
            fault = f"the connection to the coordinator broke: {error}"
        except msgspec.DecodeError:
            fault = f"what looks on machine `{self.machine}` is of another version of dora"
        self._arrive([QueryEnded(fault)])

    def _arrive(self, items: list[Item]) -> None:
        with self._switching:
            self._arrived.put((self, items))


class RemoteObserver:
    """Looks at several machines at once, until something ends them. ``with`` lets them end."""

    def __init__(
        self,
        sessions: dict[str, ObserverConnection],
        look_of: Callable[[str], Query],
        duration: float | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> None:
        """``sessions`` and ``look_of`` are by machine.

        The time begins when all looks have, `_STRAGGLERS` seconds after the first at the latest.
        """
        self._arrived: Arrived = queue.SimpleQueue()
        self._open = set(sessions.values())
        self._awaited = set(sessions.values())  # their looks have not begun
        self._duration = duration
        self._enough = enough
        self._deadline: float | None = None
        self.ended = False  # the dataflow has
        self.faults: list[str] = []
        self.missed: dict[str, tuple[int, int]] = {}
        for machine, session in sessions.items():
            session.begin(look_of(machine), self._arrived)

    def items(self) -> Iterator[Item | None]:
        """Yield what is seen, and None now and then, for what else there is to do."""
        while self._open and not self.is_enough():
            for item in self._take(_TURN):
                yield item
                if self._enough():
                    return
            yield None

    def turn(self) -> list[Item]:
        """Wait a moment for something, and return it."""
        return self._take(_TURN)

    def present(self) -> set[str]:
        """Return the machines whose looks go on."""
        return {session.machine for session in self._open}

    def last_words(self) -> str:
        """Return why there is nothing to be seen any more."""
        return _ENDED if self.ended or not self.faults else self.faults[-1]

    def is_enough(self) -> bool:
        """Tell whether the count or the time is reached."""
        return self._enough() or (self._deadline is not None and time.monotonic() >= self._deadline)

    def newest(self) -> list[Item]:
        """Return what has come, without waiting."""
        found = []
        while not self._arrived.empty():
            found += self._take(0)
        return found

    def rest(self) -> list[Item]:
        """Let all looks end, and return what they say at the end."""
        for session in self._open:
            session.enough()
        deadline = time.monotonic() + LAST_WORDS
        found: list[Item] = []
        while self._open and time.monotonic() < deadline:
            found += self._take(deadline - time.monotonic())
        return found

    def _take(self, seconds: float) -> list[Item]:
        try:
            session, items = self._arrived.get(timeout=max(seconds, 0.001))
        except queue.Empty:
            return []
        seen: list[Item] = []
        for item in items:
            if isinstance(item, QueryEnded):
                self._note(session, item)
            elif isinstance(item, Begun):
                self._count_down(session)
            else:
                seen.append(item)
        if session in self._open:
            session.more()
        return seen

    def _count_down(self, session: ObserverConnection) -> None:
        """Note that a look has begun, or never will."""
        self._awaited.discard(session)
        if self._duration is not None:
            wait = _STRAGGLERS if self._awaited else 0.0
            end = time.monotonic() + wait + self._duration
            self._deadline = end if self._deadline is None else min(self._deadline, end)

    def _note(self, session: ObserverConnection, over: QueryEnded) -> None:
        if session not in self._open:
            return
        self._open.discard(session)
        if session in self._awaited:
            self._count_down(session)
        session.over = over
        self.ended = self.ended or over.ended
        self.missed |= over.missed
        if over.fault:
            self.faults.append(over.fault)
