"""Services: one request, one response; and how a node serves requests, also the goals of actions.

The client's side is a `Call`; the server's is a function that `Node.serve` registers. Both follow the
``request_id`` convention, so either side may also be a program that sets and reads the key itself.

A `Serving` wraps the inbox of a node that serves. It calls the function of an input for each request there,
outside of the inbox's lock, in the thread or task that receives, and returns all other events. Nodes that
serve nothing do not pay for it.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar, Final

from dora.errors import CallRefused, ReceiveClosed, SendError
from dora.node.events import Error, Event, Input, Stop
from dora.node.patterns.replies import Exchange
from dora.node.process import print_error_of_handler
from dora.node.receive.inbox import Inbox, timed_out
from dora.node.send.output import OutputPort
from dora.wire.correlation import ERROR, REQUEST_ID

Server = Callable[[Input], Awaitable[None] | None]  # what it returns is awaited

EMPTY: Final = b""  # the data of an answer that has none


class Call(Exchange):
    """A request under way; made by `Node.call`.

    >>> reply = node.call("request", data, timeout=2).wait()              # doctest: +SKIP
    >>> reply = await node.call("request", data, timeout=2)               # doctest: +SKIP

    Several may be under way at once, and answered in any order. Dropping the object gives up the
    call: its answer will be ignored and counted.
    """

    noun: ClassVar[str] = "call"
    key: ClassVar[str] = REQUEST_ID

    def take(self, event: Input) -> bool:
        error = event["metadata"].get(ERROR)
        if error is not None:
            self.fail(CallRefused(str(error)))
        else:
            self._finish(event)
        return True

    def wait(self) -> Input:
        """Wait for the response and return it, an `Input` event.

        Raises `CallTimedOut` (a ``TimeoutError``), `CallRefused` if the server answered with an error,
        and `CallFailed` once no response can come any more: the server ended or was restarted, or this
        node was asked to stop. Events that come meanwhile stay for `Node.next`.
        """
        return self._wait_for_answer()

    def __repr__(self) -> str:
        return f"<dora.Call {self.id} on {self.output_id!r}, {'done' if self._has_ended else 'under way'}>"


def sendable(text: str) -> str:
    """Return a text that can be sent: an error may quote a file name that is no Unicode.

    >>> sendable("no file caf\\udce9")
    'no file caf?'
    """
    return text.encode("utf-8", "replace").decode()


def responder(handler: Callable[[Input], Any], port: OutputPort) -> Server:
    """Return a server that sends what ``handler`` returns, or that it raised."""
    name = getattr(handler, "__name__", str(handler))

    def respond(request: Input, answer: Any, **error: str) -> None:
        data = EMPTY if answer is None else answer
        port.send(data, {REQUEST_ID: request["metadata"][REQUEST_ID], **error})

    def refuse(request: Input, reason: str) -> None:
        respond(request, None, **{ERROR: sendable(f"`{name}` {reason}")})

    def fail(request: Input, error: Exception) -> None:
        print_error_of_handler(name, error)
        refuse(request, f"raised {type(error).__name__}: {error}")

    async def serve_async(request: Input) -> None:
        try:
            respond(request, await handler(request))
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            fail(request, error)
        except BaseException as error:
            # Most likely the task that receives is canceled, by a timeout around it. The request is out of
            # its queue, so it is answered now or never.
            with suppress(SendError):  # the node was closed meanwhile
                refuse(request, f"was ended by {type(error).__name__}")
            raise

    def serve(request: Input) -> None:
        try:
            respond(request, handler(request))
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            fail(request, error)

    return serve_async if inspect.iscoroutinefunction(handler) else serve


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
        return None

    def _wait_at_end(self) -> None:
        """Call the functions for the end of the stream; they may wait."""
        for call in self._at_end:
            call()

    def _serve(self, event: Event | None) -> bool:
        """Serve an event; return False if the program gets it."""
        server = self._server_of(event)
        if event is None and self._inbox.ended:
            self._wait_at_end()
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
            # Requests that come one after the other must not keep the program from its timeout.
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
            if event is None and self._at_end and self._inbox.ended:
                import asyncio  # 40 ms, for programs that use it

                # In another thread, as what it waits for may need this loop.
                await asyncio.to_thread(self._wait_at_end)
            if server is None or not isinstance(event, Input):
                return event
            served = server(event)
            if served is not None:
                await served
            if deadline is not None and time.monotonic() >= deadline:
                return timed_out(timeout)


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(deadline - time.monotonic(), 0.0)
