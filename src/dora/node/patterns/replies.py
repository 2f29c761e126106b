"""Exchanges: how an answer finds the call or goal that it belongs to.

An *exchange* is a request of this node: a `Call` or a `Goal`. Its id travels in the metadata of all its
messages, and it has inputs on which the answer may come. From the first exchange on, a `ReplyInput` wraps
the port of each of these inputs. It passes answers to their exchanges, while the program receives events or
waits for an answer (see `dora.node.receive.wait`). All other events pass through, in order; inputs without
exchanges are not wrapped.

An exchange ends with its answer, or once no answer can come any more: all its inputs have closed, their
source nodes were restarted, or this node was asked to stop. Answers to an ended exchange are ignored and
counted.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from typing import Any, ClassVar, Final, Literal

from dora.errors import CallFailed, CallTimedOut, UndeclaredInput
from dora.node.events import Event, Input, InputClosed
from dora.node.patterns.holding import HoldingInput
from dora.node.receive.inbox import Inbox
from dora.node.receive.input_port import InputPort
from dora.node.receive.stack import insert
from dora.node.send.output import OutputPort
from dora.wire.correlation import GOAL_ID, REQUEST_ID, uuid7
from dora.wire.metadata import MetadataError
from dora.wire.node_config import InputConfig, NodeConfig

# Ids of exchanges whose late answers are recognised. The answer to an older one comes as an event.
_REMEMBERED: Final = 10_000


class Exchange(ABC):
    """A request that is answered by messages with its id."""

    noun: ClassVar[str]
    key: ClassVar[str]  # of the id in metadata

    def __init__(
        self, replies: Replies, output_id: str, named: Iterable[str] | None, timeout: float | None
    ) -> None:
        """``named``: see `Replies.inputs_for`. ``timeout``: seconds from now on; None: no limit.

        Raises `UndeclaredInput`.
        """
        # A restart of the server that waits unread came before this exchange, which it would fail.
        replies.inbox.catch_up()
        self.id = uuid7()
        self.output_id = output_id
        self.awaited = set(replies.inputs_for(output_id, named))  # on which an answer may still come
        self._replies = replies
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic_ns() + int(timeout * 1e9)
        self._answer: Input | None = None
        self._error: Exception | None = None
        self._woken = threading.Event()
        self._wakers: list[Callable[[], None]] = []

    @property
    def done(self) -> bool:
        """Whether it has ended: by an answer, an error, or its timeout.

        It never waits. A program that asks in a loop has to receive events there: answers come with them.
        """
        if not self._has_ended and self._deadline is not None and time.monotonic_ns() >= self._deadline:
            self._expire()
        return self._has_ended

    @property
    def _has_ended(self) -> bool:
        return self._answer is not None or self._error is not None

    @abstractmethod
    def take(self, event: Input) -> bool:
        """Handle a message of this exchange; return True if it was the answer."""

    def lose(self, input_id: str, reason: str) -> None:
        """Remove an input on which no answer comes any more; after the last one the exchange has failed."""
        self.awaited.discard(input_id)
        if not self.awaited:
            self.lose_all(reason)

    def lose_all(self, reason: str) -> None:
        """Fail: no answer comes any more."""
        self.fail(CallFailed(f"the {self.noun} on `{self.output_id}` has no answer: {reason}"))

    def fail(self, error: Exception) -> None:
        if not self._has_ended:
            self._error = error
            self._replies.forget(self, "failed")
            self._wake()

    def _finish(self, answer: Input) -> None:
        self._answer = answer
        self._wake()

    def _wake(self) -> None:
        self._woken.set()
        for wake in tuple(self._wakers):
            wake()

    def _wait_for_answer(self) -> Input:
        self._until(lambda: False)
        return self._result()

    def __await__(self) -> Generator[Any, None, Input]:
        yield from self._until_async(lambda: False).__await__()
        return self._result()

    def _until(self, ready: Callable[[], bool]) -> None:
        """Wait in this thread until ``ready()``, or this exchange has ended."""
        if not self._replies.wait_until(lambda: ready() or self._has_ended, self._woken, self._deadline):
            self._expire()

    async def _until_async(self, ready: Callable[[], bool]) -> None:
        if not await self._replies.wait_until_async(
            lambda: ready() or self._has_ended, self._wakers, self._deadline
        ):
            self._expire()

    def _expire(self) -> None:
        self.fail(
            CallTimedOut(f"the {self.noun} on `{self.output_id}` had no answer within {self._timeout:g} s")
        )

    def _result(self) -> Input:
        if self._answer is None:
            assert self._error is not None
            raise self._error
        return self._answer


class ReplyInput(HoldingInput):
    """A port that wraps another one and passes answers to their exchanges; holds the other events."""

    layer = "replies"

    def __init__(self, port: InputPort, config: InputConfig, replies: Replies) -> None:
        size = sys.maxsize if config.queue_policy == "backpressure" else config.queue_size
        super().__init__(port, size, config.keep)
        self._source_node = config.source.partition("/")[0]
        self._replies = weakref.ref(replies)  # which holds the inbox, and that holds this port

    def _poll_port(self) -> Event | None:
        while self._port.open and (event := self._port.poll()) is not None:
            if isinstance(event, Input):
                replies = self._replies()
                if replies is not None and replies.take(event):
                    continue
            elif isinstance(event, InputClosed) and not self._port.open:
                self._lose(f"node `{self._source_node}` has ended")
            return event
        if not self._port.open:
            self._lose(f"node `{self._source_node}` has ended")
        return None

    def _lose(self, reason: str) -> None:
        if (replies := self._replies()) is not None:
            replies.lose(self.id, reason)

    def source_back(self, node_id: str) -> bool:
        if node_id == self._source_node:
            self.dispatch()  # the answers of its former process
            self._lose(f"node `{node_id}` was restarted before it answered")
        return super().source_back(node_id)

    def close(self) -> None:
        super().close()
        self._lose("this node is closed")


def check_input(config: NodeConfig, input_id: str) -> None:
    """Raise `UndeclaredInput` unless the input exists and comes from another node."""
    known = sorted(item.id for item in config.inputs if item.kind == "link")
    if input_id in known:
        return
    from dora.dataflow.problems import did_you_mean  # only after a mistake

    hint = did_you_mean(input_id, known)
    raise UndeclaredInput(
        f"node `{config.node_id}` has no input `{input_id}` from another node"
        + (f", {hint}" if hint else "")
        + f" (its inputs: {', '.join(known) or 'none'})"
    )


class Replies:
    """The exchanges of one node; made with the first of them."""

    def __init__(self, config: NodeConfig, inbox: Inbox) -> None:
        self._config = config
        self.inbox = inbox
        self._pending: weakref.WeakValueDictionary[str, Exchange] = weakref.WeakValueDictionary()
        self._ended: OrderedDict[str, Literal["asked", "answered", "failed"]] = OrderedDict()
        self._dispatching_others = False
        self.answered = 0
        self.late = 0
        self.duplicates = 0

    def statistics(self) -> dict[str, int]:
        return {
            "pending": len(self._pending),
            "answered": self.answered,
            "late": self.late,
            "duplicates": self.duplicates,
        }

    # ------------------------------------------------------------------ asking

    def inputs_for(self, output_id: str, named: Iterable[str] | None) -> list[str]:
        """Return the inputs on which answers to an output may come, ready for exchanges.

        Those that are ``named``; else all that come from a node which receives this output. Raises
        `UndeclaredInput` if there is none.
        """
        config = self._config
        links = {item.id: item for item in config.inputs if item.kind == "link"}
        if named is not None:
            found = list(named)
            for input_id in found:
                self.check_input(input_id)
        else:
            servers = {
                link.consumer.partition("/")[0]
                for output in config.outputs
                if output.id == output_id
                for link in output.links
            }
            found = [name for name, item in links.items() if item.source.partition("/")[0] in servers]
            if not found:
                raise UndeclaredInput(
                    f"no answer to `{output_id}` can come: node `{config.node_id}` has no input from a "
                    f"node that receives it ({', '.join(sorted(servers)) or 'nobody does'})"
                )
        for input_id in found:
            port = self.inbox.ports.get(input_id)  # None: it was disconnected
            if port is not None and port.find(ReplyInput.layer) is None:
                # From now on, an exchange may wait for its messages.
                wrap = partial(ReplyInput, config=links[input_id], replies=self)
                self.inbox.replace(insert(port, ReplyInput.layer, wrap))
        return found

    def check_input(self, input_id: str) -> None:
        """Raise `UndeclaredInput` unless the input exists and comes from another node.

        Outside of a dataflow (recorded inputs, a terminal) any input may exist.
        """
        if self._config.inputs or self._config.outputs:
            check_input(self._config, input_id)

    def ask(
        self, exchange: Exchange, port: OutputPort, data: Any, metadata: Mapping[str, Any] | None
    ) -> None:
        """Send the message that opens an exchange; the exchange fails at once if no node can answer."""
        self._pending[exchange.id] = exchange  # before the request: another thread may receive the answer
        self._remember(exchange.id, "asked")
        if self.inbox.is_closing:
            exchange.lose_all("this node was asked to stop")
        elif not port.is_heard():
            exchange.lose_all("no node that receives it is running at the moment")
        elif not any(map(self._is_open, exchange.awaited)):
            names = ", ".join(f"`{input_id}`" for input_id in sorted(exchange.awaited))
            exchange.lose_all(f"{names} is closed")
        else:
            port.send(data, {**(metadata or {}), exchange.key: exchange.id})

    def _is_open(self, input_id: str) -> bool:
        port = self.inbox.ports.get(input_id)
        return port is not None and port.open

    # ------------------------------------------------------------------ answers

    def take(self, event: Input) -> bool:
        """Pass an answer to its exchange; return True if this node made the exchange, even an ended one."""
        try:
            metadata = event["metadata"]
        except MetadataError:  # the program gets the error when it reads the event
            return False
        for key in (REQUEST_ID, GOAL_ID):
            exchange_id = metadata.get(key)
            if not isinstance(exchange_id, str):
                continue
            exchange = self._pending.get(exchange_id)
            if exchange is not None:
                if exchange.take(event):
                    self.answered += 1
                    self.forget(exchange, "answered")
                return True
            if (state := self._ended.get(exchange_id)) is not None:
                if state == "answered":
                    self.duplicates += 1
                else:
                    self.late += 1
                return True
        return False

    def lose(self, input_id: str, reason: str) -> None:
        for exchange in list(self._pending.values()):
            if input_id in exchange.awaited:
                exchange.lose(input_id, reason)

    def forget(self, exchange: Exchange, state: Literal["answered", "failed"]) -> None:
        self._pending.pop(exchange.id, None)
        self._remember(exchange.id, state)

    def _remember(self, exchange_id: str, state: Literal["asked", "answered", "failed"]) -> None:
        self._ended[exchange_id] = state
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    # ------------------------------------------------------------------ waiting

    def _fail_at_stop(self) -> None:
        """Fail all exchanges once this node stops; all answers that have arrived were passed on."""
        if self.inbox.is_closing:
            for exchange in list(self._pending.values()):
                exchange.lose_all("this node was asked to stop")

    def dispatch_others(self, input_id: str) -> None:
        """Pass on the answers of all inputs but one, which is being polled."""
        if self._dispatching_others:  # the result of another goal, found below, asks for the same
            return
        self._dispatching_others = True
        try:
            for port in list(self.inbox.ports.values()):
                if port.id != input_id and (layer := port.find(ReplyInput.layer)) is not None:
                    layer.dispatch()
        finally:
            self._dispatching_others = False

    def wait_until(self, ready: Callable[[], bool], woken: threading.Event, deadline: int | None) -> bool:
        """Wait until ``ready()``, which answers and failures change; return False at the deadline."""
        return ready() or self.inbox.wait_until(ready, woken, deadline, self._fail_at_stop)

    async def wait_until_async(
        self, ready: Callable[[], bool], wakers: list[Callable[[], None]], deadline: int | None
    ) -> bool:
        return ready() or await self.inbox.wait_until_async(ready, wakers, deadline, self._fail_at_stop)
