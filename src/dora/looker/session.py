"""The connection of a process that looks with the one it looks for."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from typing import Final
from urllib.parse import urlsplit

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from dora.coordinator.proof import proven_socket
from dora.coordinator.tokens import Token
from dora.coordinator.two_way import two_way_context
from dora.errors import DoraError
from dora.inspection.afar import (
    Ask,
    Enough,
    Frame,
    Item,
    More,
    Query,
    QueryEnded,
    decode_to_process,
)
from dora.inspection.thinned import ConflatedQueue, rest_after
from dora.machine.look_order import StartMessage

MAX_FRAME: Final = 16 << 20
ANSWER_PATIENCE: Final = 4.0  # seconds that the coordinator may take to answer a ping
LAST_WORDS: Final = 2.0  # seconds for what was said last
_LINGER: Final = 2.0  # seconds that a look may take to end once nobody waits for it


class ObserverServer:
    """``with`` closes it. Sends one delivery at a time, and meanwhile keeps what is newest."""

    def __init__(self, order: StartMessage) -> None:
        headers = {"Authorization": f"Bearer {order.token}"}
        encryption = two_way_context(order.authority)
        place = urlsplit(order.url)
        assert place.hostname is not None and place.port is not None
        token = Token(order.token, "that of the daemon")
        try:
            proven = None if encryption is not None else proven_socket(place.hostname, place.port, token)
            self._connection: ClientConnection = connect(
                order.url,
                sock=proven,
                ssl=encryption,
                additional_headers=headers,
                max_size=MAX_FRAME,
                compression=None,
                proxy=None,
                open_timeout=5.0,
                ping_interval=ANSWER_PATIENCE / 2,
                ping_timeout=ANSWER_PATIENCE,
                close_timeout=0.5,
            )
        except (OSError, HTTPException, WebSocketException) as error:
            raise DoraError(f"the coordinator cannot be reached for a look: {error}") from None
        self._machine = order.machine
        self._thinned = ConflatedQueue()
        self._changed = threading.Condition()
        self._may_send = True
        self._over: QueryEnded | None = None  # to be said when all else was
        self._done = threading.Event()  # everything is said, or nobody hears it
        self._wishes: queue.SimpleQueue[Ask | Query | None] = queue.SimpleQueue()
        self.frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()  # of a dashboard; None: no more
        self._enough = False
        for work in (self._read, self._write, self._watch_daemon):
            threading.Thread(target=work, name=f"dora{work.__name__}", daemon=True).start()

    def wishes(self) -> Iterator[Ask | Query]:
        """Yield what is asked for, until nobody asks any more."""
        while (wish := self._wishes.get()) is not None:
            yield wish

    def over(self) -> bool:
        """Tell whether nobody wants to see more."""
        return self._enough

    @property
    def lost(self) -> dict[str, int]:
        """What was put and is not sent, because newer things came: by key."""
        with self._changed:
            return dict(self._thinned.lost)

    def put(self, key: str, item: Item, keep: int = 1) -> None:
        """Send an item when there is room; of those that wait under a key, the newest ``keep`` stay."""
        with self._changed:
            if self._over is None:
                self._thinned.put(key, item, keep)
                self._changed.notify_all()

    def finish(self, over: QueryEnded) -> None:
        """Say why it is over, after all that waits; returns when it is said, or nobody hears it."""
        with self._changed:
            self._over = self._over or over
            self._changed.notify_all()
        self._done.wait(LAST_WORDS)

    def __enter__(self) -> ObserverServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    # ----------------------------------------------------------------------- threads

    def _read(self) -> None:
        try:
            for data in self._connection:
                match decode_to_process(data if isinstance(data, bytes) else data.encode()):
                    case More():
                        with self._changed:
                            self._may_send = True
                            self._changed.notify_all()
                    case Enough():
                        self._end()
                    case Frame(body=body):
                        self.frames.put(body)
                    case wish:
                        self._wishes.put(wish)
        except (WebSocketException, ValueError):
            pass  # gone, or nobody that we understand
        self._done.set()
        self._end()
        self._end_for_good()

    def _end(self) -> None:
        self._enough = True
        self._wishes.put(None)
        self.frames.put(None)

    def _end_for_good(self) -> None:
        time.sleep(_LINGER)  # for what is under way to end in order
        os._exit(0)

    def _write(self) -> None:
        begun = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._may_send or self._over is not None)
                under_way = time.monotonic() - begun if begun else 0.0
            if self._over is None:
                time.sleep(rest_after(under_way))
            with self._changed:
                self._changed.wait_for(lambda: not self._thinned.is_empty or self._over is not None)
                if self._over is not None:
                    self._thinned.put("over", self._over)
                last = self._over is not None
                deliveries: list[bytes] = []
                while not self._thinned.is_empty and (last or not deliveries):
                    deliveries.append(self._thinned.take())
                self._may_send = False
            try:
                begun = time.monotonic()
                for data in deliveries:
                    self._connection.send(data)
            except WebSocketException:
                last = True
            if last:
                self._done.set()
                return

    def _watch_daemon(self) -> None:
        while os.read(sys.stdin.fileno(), 1 << 10):
            pass
        self.finish(QueryEnded(f"the daemon of machine `{self._machine}` has ended"))
        self._end()
        self._end_for_good()
