"""Records the messages of a virtual dataflow, with their virtual times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dora.node.events import Input
from dora.testing.scheduler import START_NS
from dora.transport.inprocess import LocalEngine
from dora.wire.message import Message
from dora.wire.node_config import OutputConfig


class Sent(Input):
    """A message that a node sent; ``value``, ``metadata``, ``data`` and `numpy()` as for a received one.

    ``id`` is the output, ``time`` the time of sending, in seconds of virtual time since the start.
    """

    __slots__ = ("time",)
    time: float

    def __repr__(self) -> str:
        return f"Sent({self['id']!r} at {self.time:g} s: {self['value'].to_pylist()!r})"


class Messages(dict[str, list[Sent]]):
    """Output → its messages in the order of sending; ``[]`` for an output without messages."""

    def __missing__(self, output: str) -> list[Sent]:
        return []


class VirtualRecorder:
    """Listens to every output, without being a node."""

    def __init__(self, engine: LocalEngine, now: Callable[[], int]) -> None:
        self.messages = Messages()
        self._engine = engine
        self._now = now

    def observe(self, node_id: str, output: OutputConfig) -> None:
        """Record the messages of an output from now on, as ``"node/output"``."""
        name = f"{node_id}/{output.id}"
        self._engine.listen(output.service, lambda message: self._add(name, output.id, message))

    def _add(self, name: str, output_id: str, message: Message) -> None:
        sent: Any = Sent(Sent.template(output_id))
        sent._content = message
        sent.time = (self._now() - START_NS) / 1e9
        self.messages.setdefault(name, []).append(sent)
