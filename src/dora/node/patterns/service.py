"""Services: one request, one response.

The client's side is a `Call`; the server's is a function that `Node.serve` registers. Both follow the
``request_id`` convention, so either side may also be a program that sets and reads the key itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from dora.errors import CallRefused
from dora.node.events import Input
from dora.node.patterns.replies import Exchange
from dora.node.patterns.serving import EMPTY, Server
from dora.node.process import print_error_of_handler
from dora.node.send.output import OutputPort
from dora.wire.correlation import ERROR, REQUEST_ID


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
        return f"<dora.Call {self.id} on {self.output_id!r}, {'done' if self.done else 'under way'}>"


def responder(handler: Callable[[Input], Any], port: OutputPort) -> Server:
    """Return a server that sends what ``handler`` returns, or that it raised."""
    name = getattr(handler, "__name__", str(handler))

    def respond(request: Input, answer: Any, **error: str) -> None:
        data = EMPTY if answer is None else answer
        port.send(data, {REQUEST_ID: request["metadata"][REQUEST_ID], **error})

    def fail(request: Input, error: Exception) -> None:
        print_error_of_handler(name, error)
        respond(request, None, **{ERROR: f"`{name}` raised {type(error).__name__}: {error}"})

    async def serve_async(request: Input) -> None:
        try:
            respond(request, await handler(request))
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            fail(request, error)

    def serve(request: Input) -> None:
        try:
            respond(request, handler(request))
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            fail(request, error)

    return serve_async if inspect.iscoroutinefunction(handler) else serve
