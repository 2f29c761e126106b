"""Services: one request, one response.

The client's side is a `Call`; the server's is a function that `Node.serve` registers. Both follow the
``request_id`` convention, so either side may also be a program that sets and reads the key itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, ClassVar

from dora.errors import CallRefused
from dora.node.events import Input
from dora.node.patterns.replies import Exchange, Replies
from dora.node.patterns.serving import EMPTY, Server, answer_with
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
        self._until(_never)
        return self._result()

    def __await__(self) -> Generator[Any, None, Input]:
        yield from self._until_async(_never).__await__()
        return self._result()

    def __repr__(self) -> str:
        return f"<dora.Call {self.id} on {self.output_id!r}, {'done' if self.done else 'under way'}>"


def _never() -> bool:
    return False


def call(
    replies: Replies,
    port: OutputPort,
    data: Any,
    metadata: Mapping[str, Any] | None,
    timeout: float | None,
    reply: str | Iterable[str] | None,
) -> Call:
    """Send a request; see `Node.call`."""
    named = [reply] if isinstance(reply, str) else reply
    made = Call(replies, port.id, replies.inputs_for(port.id, named), timeout)
    replies.ask(made, port, data, {**(metadata or {}), REQUEST_ID: made.id})
    return made


def responder(handler: Callable[[Input], Any], port: OutputPort) -> tuple[str, Server]:
    """Return the key of requests, and a server that answers them with the results of ``handler``."""

    def respond(request: Input, answer: Any) -> None:
        port.send(EMPTY if answer is None else answer, {REQUEST_ID: request["metadata"][REQUEST_ID]})

    def refuse(request: Input, reason: str) -> None:
        port.send(EMPTY, {REQUEST_ID: request["metadata"][REQUEST_ID], ERROR: reason})

    return REQUEST_ID, answer_with(handler, respond, refuse)
