"""Interceptors: what stands between a program and the inputs and outputs of its node.

`Inbox.intercept` and `OutputPort.intercept` add one. Without any, an event and a message pay one test
for truth each. They stand in this order, from the transport to the program:

1. the type check (`dora.node.interceptors.type_check`),
2. the recorder of inputs (`dora.node.interceptors.input_recorder`),
3. tracing (`dora.node.interceptors.tracing`).

An event passes them from the first to the last, a message that is sent from the last to the first. Queues
of their own are no interceptors: `ReplyInput` and `Serving` hold events back or handle them, so they are a
port and an inbox by composition. The event log is none either, because it would cost time at each poll:
the inbox gives it each event, after all interceptors (`dora.node.receive.inbox.EventSink`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

if TYPE_CHECKING:
    from dora.node.events import Event
    from dora.transport.interface import Loan

P = ParamSpec("P")
R = TypeVar("R")

Metadata = Mapping[str, Any] | None
Lent = tuple["Loan", int, bytes]  # the loan, the offset of the body, the metadata section


class ReceiveInterceptor:
    """Watches the events that a node takes from its inbox. By default it does nothing."""

    def before_poll(self) -> None:
        """Prepare for the next event: the program has finished the former one."""

    def after_poll(self, event: Event | None) -> None:
        """Handle the event that the program gets; None if there is none at the moment."""

    def timed_out(self) -> None:
        """Handle a wait that ended without an event."""

    def found_nothing(self) -> None:
        """Handle a poll of the program, without waiting, that found no event."""

    def close(self) -> None:
        """Finish: the node leaves the dataflow."""


class SendInterceptor:
    """Stands around what an output does. By default it passes everything on to ``proceed``."""

    def send(self, proceed: Callable[[Any, Metadata], None], data: Any, metadata: Metadata) -> None:
        proceed(data, metadata)

    def loan(
        self, proceed: Callable[[bytes, int, Metadata], Lent], schema: bytes, size: int, metadata: Metadata
    ) -> Lent:
        """Lend memory for a message; its metadata is written now."""
        return proceed(schema, size, metadata)

    def send_loan(
        self,
        proceed: Callable[[Loan, bytes, bytes, int], None],
        loan: Loan,
        schema: bytes,
        section: bytes,
        size: int,
    ) -> None:
        """Send memory that was lent; ``section`` is its encoded metadata."""
        proceed(loan, schema, section, size)


def surround(
    innermost: Callable[P, R], steps: Iterable[Callable[Concatenate[Callable[P, R], P], R]]
) -> Callable[P, R]:
    """Return a function with each step around the one before; the last step runs first.

    >>> def twice(proceed, number):
    ...     return 2 * proceed(number)
    >>> surround(abs, [twice, twice])(-3)
    12
    """
    proceed = innermost
    for step in steps:
        proceed = partial(step, proceed)
    return proceed
