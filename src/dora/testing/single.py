"""One node or operator by itself, in virtual time: `run_node` and `run_operator`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from dora.builder import DataflowBuilder, Operator
from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor.result import DataflowResult
from dora.node.node import Node
from dora.testing.dataflow import DEFAULT_LIMIT, DEFAULT_PATIENCE, VirtualDataflow
from dora.testing.record import Messages

_FEEDER, _SUBJECT = "test", "node"
_SYNC_QUEUE = 10_000  # of an input in a group


class At(NamedTuple):
    """A message to a node under test, at a moment in seconds of virtual time."""

    time: float | None
    id: str
    data: Any
    metadata: Mapping[str, Any] | None = None


Inputs = Iterable[At | tuple[str, Any] | tuple[str, Any, Mapping[str, Any]]]


class NodeRun(NamedTuple):
    """The messages, logs and result of a node under test."""

    outputs: Messages  # output → what was sent
    logs: list[LogEntry]
    time: float  # seconds of virtual time until it ended
    result: DataflowResult

    @property
    def lines(self) -> list[str]:
        """Its output and log messages."""
        return [entry.message for entry in self.logs if entry.node_id != _FEEDER]


def at(seconds: float, input_id: str, data: Any, metadata: Mapping[str, Any] | None = None) -> At:
    """Return an input for `run_node` that is sent at a moment, in seconds of virtual time."""
    return At(seconds, input_id, data, metadata)


def run_node(
    node: Callable[..., object] | str | os.PathLike[str],
    inputs: Inputs = (),
    *,
    timers: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    sync: Sequence[Mapping[str, Any]] = (),
    outputs: Sequence[str] | None = None,
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    stop_after: float | None = None,
    check: bool = True,
    limit: float = DEFAULT_LIMIT,
    patience: float = DEFAULT_PATIENCE,
) -> NodeRun:
    """Run a node by itself in virtual time; return its messages, logs and result.

    ``node``: a function (without parameters, or one that takes the `dora.Node`; ``async`` too), a script,
    or the command of an installed package. ``inputs``: ``(id, data)``, ``(id, data, metadata)``, or with a
    moment `at`, in any order if all have one. Without a moment, a message is sent once the node has
    received the one before, so none is dropped. After the last message the inputs close. ``timers``: input
    → ``"dora/timer/…"``. ``options``: input → its options as in YAML, such as ``queue_size``. ``sync``:
    groups of inputs, as in YAML. ``outputs``: those that it may use; None: any. With timers,
    ``stop_after`` (seconds) ends it.

    Raises the exception of the node, unless ``check`` is False; `VirtualTimeError` if it does not end;
    ``ValueError`` for a moment before the moment of an earlier message, if some have none.
    """
    builder, messages = _bench(inputs, options or {}, timers or {})
    subject = builder.add_node(_SUBJECT, path="dynamic", args=list(args), env=dict(env or {}))
    _connect(subject, builder, timers or {}, options or {}, messages, sync)
    for output in outputs or ():
        subject.add_output(output)
    body: Any = node
    if isinstance(node, str) and os.sep not in node and not node.endswith(".py"):
        subject.path(node)
        body = None
    return _run(body, builder, messages, outputs is None, stop_after, check, limit, patience)


def run_operator(
    operator: Callable[[], Any] | str | os.PathLike[str],
    inputs: Inputs = (),
    *,
    outputs: Sequence[str],
    timers: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    sync: Sequence[Mapping[str, Any]] = (),
    stop_after: float | None = None,
    check: bool = True,
    limit: float = DEFAULT_LIMIT,
    patience: float = DEFAULT_PATIENCE,
) -> NodeRun:
    """Run an operator by itself in virtual time; return its messages, logs and result.

    ``operator``: the class, or the file with ``class Operator``. The other parameters are as for
    `run_node`.
    """
    builder, messages = _bench(inputs, options or {}, timers or {})
    given = isinstance(operator, (str, os.PathLike))
    file = os.path.abspath(os.fspath(operator)) if given else "operator.py"  # type: ignore[arg-type]
    subject = Operator("op", python=file)
    builder.add_node(_SUBJECT).add_operator(subject)
    _connect(subject, builder, timers or {}, options or {}, messages, sync)
    for output in outputs:
        subject.add_output(output)
    body = None if given else {"op": operator}
    run = _run(body, builder, messages, False, stop_after, check, limit, patience)
    return run._replace(
        outputs=Messages({name.removeprefix("op/"): sent for name, sent in run.outputs.items()})
    )


def _bench(
    inputs: Inputs, options: Mapping[str, Mapping[str, Any]], timers: Mapping[str, str]
) -> tuple[DataflowBuilder, list[At]]:
    """Return a dataflow with a node that feeds the inputs, and the messages that it sends."""
    messages = _in_order([item if isinstance(item, At) else At(None, *item) for item in inputs])
    builder = DataflowBuilder("test")
    fed = dict.fromkeys(
        [*(message.id for message in messages), *(name for name in options if name not in timers)]
    )
    if fed:
        feeder = builder.add_node(_FEEDER, path="dynamic")
        for input_id in fed:
            feeder.add_output(input_id)
    return builder, messages


def _in_order(messages: list[At]) -> list[At]:
    """Return messages as they are sent; raises ``ValueError`` if their moments contradict their order."""
    moments = [message.time for message in messages if message.time is not None]
    if len(moments) == len(messages):
        return sorted(messages, key=lambda message: message.time or 0.0)
    for before, after in pairwise(moments):
        if after < before:
            raise ValueError(
                f"a message at {after:g} s comes after one at {before:g} s; put the messages in the order "
                "of their moments, or give each of them a moment"
            )
    return messages


def _connect(
    subject: Any,
    builder: DataflowBuilder,
    timers: Mapping[str, str],
    options: Mapping[str, Mapping[str, Any]],
    messages: list[At],
    sync: Sequence[Mapping[str, Any]],
) -> None:
    if isinstance(sync, Mapping):
        raise ValueError(f"sync must be a list of groups, not one group: write [{sync!r}]")
    if sync:
        subject.config["sync"] = list(sync)
    matched = {input_id for group in sync for input_id in group.get("inputs", ())}
    timed = {message.id for message in messages if message.time is not None}
    for input_id, source in timers.items():
        subject.add_input(input_id, source, **options.get(input_id, {}))
    if builder.nodes[0].id != _FEEDER:
        return
    for input_id in builder.nodes[0].to_dict()["outputs"]:
        given = dict(options.get(input_id, {}))
        if input_id not in timed:
            # A message that waits for its partners does not hold up other inputs.
            size = _SYNC_QUEUE if input_id in matched else 1
            given = {"queue_size": size, "queue_policy": "backpressure", **given}
        subject.add_input(input_id, f"{_FEEDER}/{input_id}", **given)


def _run(
    body: Any,
    builder: DataflowBuilder,
    messages: list[At],
    any_output: bool,
    stop_after: float | None,
    check: bool,
    limit: float,
    patience: float,
) -> NodeRun:
    nodes: dict[str, Any] = {} if body is None else {_SUBJECT: body}
    if builder.nodes[0].id == _FEEDER:
        nodes[_FEEDER] = lambda: _feed(messages)
    with VirtualDataflow(
        builder,
        nodes=nodes,
        any_output=[_SUBJECT] if any_output else (),
        limit=limit,
        patience=patience,
    ) as flow:
        result = flow.run(stop_after, check=check)
    prefix = f"{_SUBJECT}/"
    outputs = Messages(
        {name.removeprefix(prefix): sent for name, sent in flow.outputs.items() if name.startswith(prefix)}
    )
    return NodeRun(outputs, flow.logs, flow.time, result)


def _feed(messages: list[At]) -> None:
    with Node() as node:
        start = time.monotonic()
        for message in messages:
            if message.time is not None:
                time.sleep(max(start + message.time - time.monotonic(), 0))
            node.send_output(message.id, message.data, message.metadata)
            if message.time is None:
                # The next one may be for another input: without this, the node could take it first.
                node._session.output(message.id).wait_for_credit()
