"""Metrics of one run for OpenTelemetry: asked for by its reader, taken from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from dora.inspection.surveyor import collect_all_metrics
from dora.wire.survey import DataflowMetrics

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

_FAREWELL_MS: Final = 2000
_YOUNG: Final = 10.0  # seconds of a run in which numbers are taken at every look
_LOOK_EVERY: Final = 10.0  # seconds between them afterwards

Values = Callable[[DataflowMetrics], Iterable[tuple[float, dict[str, str]]]]


def _outputs(survey: DataflowMetrics) -> Iterator[tuple[float, dict[str, str]]]:
    for item in survey.outputs:
        yield item.messages, {"dora.node": item.node, "dora.output": item.output}


def _output_bytes(survey: DataflowMetrics) -> Iterator[tuple[float, dict[str, str]]]:
    for item in survey.outputs:
        yield item.bytes, {"dora.node": item.node, "dora.output": item.output}


def _nodes(field: str) -> Values:
    return lambda survey: ((getattr(item, field), {"dora.node": item.node}) for item in survey.nodes)


def _links(field: str) -> Values:
    return lambda survey: (
        (getattr(item, field), {"dora.source": item.source, "dora.input": item.input})
        for item in survey.links
    )


# name, how OpenTelemetry observes it, unit, what it is, its values
_METRICS: Final[tuple[tuple[str, str, str, str, Values], ...]] = (
    ("dora.node.cpu.time", "counter", "s", "Processor time of a node's processes", _nodes("cpu_seconds")),
    ("dora.node.memory.usage", "up_down_counter", "By", "Memory of a node's processes", _nodes("memory")),
    ("dora.node.restarts", "counter", "{restart}", "Restarts of a node", _nodes("restarts")),
    ("dora.output.messages", "counter", "{message}", "Messages sent on an output", _outputs),
    ("dora.output.io", "counter", "By", "Bytes sent on an output", _output_bytes),
    ("dora.link.received", "counter", "{message}", "Messages taken by an input", _links("received")),
    ("dora.link.dropped", "counter", "{message}", "Messages that a link lost", _links("dropped")),
    ("dora.link.waiting", "up_down_counter", "{message}", "Messages in a queue", _links("waiting")),
)


class Metrics:
    """The instruments; `close` sends their last values."""

    def __init__(self, exporter: Any, resource: Any, dataflow_id: str) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        self._dataflow_id = dataflow_id
        self._last: DataflowMetrics | None = None
        self._begun = self._looked = time.monotonic()
        self._provider = MeterProvider(
            [PeriodicExportingMetricReader(exporter)], resource=resource, shutdown_on_exit=False
        )
        meter = self._provider.get_meter("dora")
        for name, kind, unit, description, values in _METRICS:
            make = getattr(meter, f"create_observable_{kind}")
            make(
                name,
                callbacks=[self._observe(values, first=values is _METRICS[0][-1])],
                unit=unit,
                description=description,
            )

    def look(self) -> None:
        """Take numbers now and then: when the last ones are sent, there is nobody left to be asked."""
        now = time.monotonic()
        if now - self._begun < _YOUNG or now - self._looked >= _LOOK_EVERY:
            self._looked = now
            self._survey()

    def _survey(self) -> None:
        for found in collect_all_metrics([self._dataflow_id]):
            self._last = found

    def _observe(
        self, values: Values, *, first: bool
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation

        def observe(options: CallbackOptions) -> Iterator[Observation]:  # noqa: ARG001
            if first:  # the others follow at once, and tell of the same moment
                self._survey()
            if self._last is not None:
                for value, attributes in values(self._last):
                    yield Observation(value, attributes)

        return observe

    def close(self) -> None:
        self._provider.shutdown(_FAREWELL_MS)
