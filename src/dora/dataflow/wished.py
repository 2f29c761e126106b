"""From a wish to the change of a running dataflow that it means."""

from __future__ import annotations

from collections.abc import Mapping

from dora.dataflow.change import (
    Change,
    LinkOptions,
    with_link,
    with_node,
    with_replaced,
    without_link,
)
from dora.dataflow.model import Dataflow
from dora.wire.wishes import AddOperation, ConnectOperation, DisconnectOperation, ReplaceOperation


def make_change(
    wish: AddOperation | ReplaceOperation | ConnectOperation | DisconnectOperation,
    running: Dataflow,
    environ: Mapping[str, str],
) -> tuple[Change, str, str]:
    """Return the change, and the links that it adds and removes, for the log; raises `DoraError`."""
    match wish:
        case AddOperation():
            environ = {**environ, **wish.env}
            return with_node(running, wish.yaml, wish.file, environ, strict_types=wish.strict_types), "", ""
        case ReplaceOperation():
            environ = {**environ, **wish.env}
            change = with_replaced(
                running, wish.node, wish.yaml, wish.file, environ, strict_types=wish.strict_types
            )
            return change, "", ""
        case ConnectOperation(source=source, target=target):
            options = LinkOptions(wish.queue_size, wish.queue_policy)
            change = with_link(running, source, target, options, strict_types=wish.strict_types)
            return change, f"{source} -> {target}", ""
        case DisconnectOperation(source=source, target=target):
            return without_link(running, source, target), "", f"{source} -> {target}"
