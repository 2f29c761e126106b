"""The server side of services and actions: functions that handle the requests of an input.

A `Serving` wraps the inbox of a node that serves. It calls the function of an input for each request there,
outside of the inbox's lock, in the thread or task that receives, and returns all other events. Nodes that
serve nothing do not pay for it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Final

from dora.errors import ReceiveClosed
from dora.node.events import Error, Event, Input, Stop
from dora.node.receive.inbox import Inbox, timed_out

Server = Callable[[Input], Awaitable[None] | None]  # what it returns is awaited

EMPTY: Final = b""  # the data of an answer that has none


class Serving:
    """An `Inbox` for a program that has registered functions for some inputs."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._servers: dict[str, tuple[str, Server]] = {}
        self._on_stop: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []

    def add(self, input_id: str, key: str, server: Server) -> None:
        """Have ``server`` called for messages on an input that carry ``key``; once per input."""
        if input_id in self._servers:
            raise ValueError(f"input `{input_id}` is served already")
        self._servers[input_id] = (key, server)

    def on_stop(self, call: Callable[[], None], at_end: Callable[[], None]) -> None:
        """Have functions called when a ``STOP`` comes, and before the stream is reported as ended."""
        self._on_stop.append(call)
        self._at_end.append(at_end)

    def stop(self) -> None:
        """Call the functions for a ``STOP``."""
        for call in self._on_stop:
            call()

    def _server_of(self, event: Event | None) -> Server | None:
        """Return the server of an event; None if the program gets the event."""
        if isinstance(event, Input):
            key, server = self._servers.get(event["id"], ("", None))
            return server if server is not None and isinstance(event["metadata"].get(key), str) else None
        if isinstance(event, Stop):
            self.stop()
        elif event is None and self._inbox.ended:
            for call in self._at_end:
                call()
        return None

    def _serve(self, event: Event | None) -> bool:
        """Serve an event; return False if the program gets it."""
        server = self._server_of(event)
        if server is None or not isinstance(event, Input):
            return False
        if inspect.iscoroutinefunction(server):
            raise TypeError(
                f"input `{event['id']}` is served by an `async def` function, so events have to be "
                "received with `async for` or `await node.recv_async()`"
            )
        server(event)
        return True

    def next(self, timeout: float | None) -> Event | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            event = self._inbox.next(_left(deadline))
            if isinstance(event, Error) and event.is_timeout:
                return timed_out(timeout)
            if not self._serve(event):
                return event
            if deadline is not None and time.monotonic() >= deadline:
                return timed_out(timeout)

    def try_next(self) -> Event | None:
        while True:
            event = self._inbox.try_next()
            if not self._serve(event):
                return event

    def drain(self) -> list[Event]:
        events: list[Event] = []
        while (event := self.try_next()) is not None:
            events.append(event)
        if not events and self._inbox.ended:
            raise ReceiveClosed("Could not drain events. Channel is closed")
        return events

    def is_empty(self) -> bool:
        return self._inbox.is_empty()

    async def next_async(self, timeout: float | None) -> Event | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            event = await self._inbox.next_async(_left(deadline))
            if isinstance(event, Error) and event.is_timeout:
                return timed_out(timeout)
            server = self._server_of(event)
            if server is None or not isinstance(event, Input):
                return event
            served = server(event)
            if served is not None:
                await served
            if deadline is not None and time.monotonic() >= deadline:
                return timed_out(timeout)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
