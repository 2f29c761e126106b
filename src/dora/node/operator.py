"""Operators: Python classes that share one process, the runtime.

A file with a ``class Operator``::

    from dora import DoraStatus

    class Operator:
        def on_event(self, dora_event, send_output) -> DoraStatus:
            if dora_event["type"] == "INPUT":
                send_output("out", dora_event["value"], dora_event["metadata"])
            return DoraStatus.CONTINUE
"""

from __future__ import annotations

import enum
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from dora.errors import DoraError
from dora.node.events import Event, Reference
from dora.node.input import QueuePort
from dora.node.output import OutputPort
from dora.wire.control import OperatorConfig
from dora.wire.decode import as_arrow
from dora.wire.metadata import normalise


class DoraStatus(enum.Enum):
    """What an operator wants to happen after an event."""

    CONTINUE = 0
    STOP = 1  # this operator ends; its outputs close
    STOP_ALL = 2  # the whole dataflow is stopped


class SendOutput(Protocol):
    """The second argument of ``on_event``; data and metadata as for `Node.send_output`."""

    def __call__(self, output_id: str, data: Any, metadata: Mapping[str, Any] | None = None) -> None: ...


class OperatorError(DoraError):
    """An operator cannot be loaded, or answered an event with something that is no status."""


class Outlet:
    """One output of an operator: its links out of the process, its consumers inside."""

    def __init__(self, port: OutputPort, consumers: list[QueuePort]) -> None:
        self.port = port
        self.consumers = consumers
        self._leaves = port.has_links or not consumers

    def send(self, data: Any, metadata: Mapping[str, Any] | None) -> None:
        if self.consumers:
            value = as_arrow(data)
            content = Reference(value, normalise(metadata) if metadata else {}, time.time_ns())
            for consumer in self.consumers:
                consumer.put(content)
        if self._leaves:
            self.port.send(data, metadata)


class HostedOperator:
    """One operator inside the runtime: the user's object and what surrounds it."""

    def __init__(self, config: OperatorConfig) -> None:
        self.id = config.id
        self.config = config
        self.ended = False
        self.open_inputs: set[str] = set()
        self._on_event: Callable[[Event, SendOutput], Any]

    def load(self, descriptor: dict[str, Any]) -> None:
        """Import the file and make the ``Operator``; errors of the user's code pass through."""
        source = self.config.source
        if not os.path.isfile(source):
            raise OperatorError(f"operator `{self.id}`: the file {source} does not exist")
        directory = os.path.dirname(os.path.abspath(source))
        if directory not in sys.path:
            sys.path.append(directory)
        name = os.path.splitext(os.path.basename(source))[0]
        # Two operators may come from one file: each gets a module of its own.
        spec = importlib.util.spec_from_file_location(name, source)
        if spec is None or spec.loader is None:
            raise OperatorError(f"operator `{self.id}`: {source} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(name, module)
        spec.loader.exec_module(module)
        make = getattr(module, "Operator", None)
        if make is None:
            raise OperatorError(f"operator `{self.id}`: {source} has no class `Operator`")
        operator = make()
        operator.dataflow_descriptor = descriptor
        on_event = getattr(operator, "on_event", None)
        if not callable(on_event):
            raise OperatorError(
                f"operator `{self.id}`: class `Operator` in {source} has no method "
                "`on_event(self, dora_event, send_output)`"
            )
        self._on_event = on_event

    def handle(self, event: Event, send_output: SendOutput) -> DoraStatus:
        """Pass an event to the user's code; raises `OperatorError` for an answer that is no status."""
        answer = self._on_event(event, send_output)
        if answer.__class__ is DoraStatus:
            return answer
        try:
            return DoraStatus(answer.value)
        except (AttributeError, ValueError):
            raise OperatorError(
                f"operator `{self.id}`: on_event must return a DoraStatus, not {answer!r} "
                "(write `return DoraStatus.CONTINUE`)"
            ) from None
