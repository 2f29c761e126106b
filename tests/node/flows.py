"""Short ways to describe nodes of a dataflow for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from dora.dataflow.model import (
    InputSpec,
    LogSource,
    NodeOutput,
    NodeSpec,
    OperatorSpec,
    Source,
    TimerSource,
)

Inputs = Mapping[str, str | tuple[str, dict[str, Any]]]


def source(text: str) -> Source:
    """Parse ``a/out``, ``dora/timer/millis/<n>`` and ``dora/logs``."""
    first, _, rest = text.partition("/")
    if first != "dora":
        return NodeOutput(first, rest)
    if rest.startswith("timer/millis/"):
        return TimerSource(int(rest.rpartition("/")[2]) * 1_000_000, text)
    return LogSource("info", None, text)


def make_inputs(inputs: Inputs | None) -> tuple[InputSpec, ...]:
    made = []
    for input_id, value in (inputs or {}).items():
        text, options = (value, {}) if isinstance(value, str) else value
        made.append(InputSpec(input_id, source(text), **options))
    return tuple(made)


def node(node_id: str, *, inputs: Inputs | None = None, outputs: str = "", **more: Any) -> NodeSpec:
    """Make a node; ``outputs`` are separated by blanks, an input is ``"a/out"`` or with options."""
    more.setdefault("path", f"{node_id}.py")
    return NodeSpec(node_id, inputs=make_inputs(inputs), outputs=tuple(outputs.split()), **more)


def operator(
    operator_id: str, file: str, *, inputs: Inputs | None = None, outputs: str = ""
) -> OperatorSpec:
    return OperatorSpec(
        operator_id, python=file, inputs=make_inputs(inputs), outputs=tuple(outputs.split())
    )


def runtime(node_id: str, *operators: OperatorSpec) -> NodeSpec:
    """Make a node that hosts operators; its inputs and outputs are theirs, with prefixed ids."""
    inputs = tuple(msgspec.structs.replace(i, id=f"{o.id}/{i.id}") for o in operators for i in o.inputs)
    outputs = tuple(f"{o.id}/{output}" for o in operators for output in o.outputs)
    return NodeSpec(node_id, path=None, inputs=inputs, outputs=outputs, operators=operators)
