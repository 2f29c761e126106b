"""Parameters: the values that a run keeps for its nodes, and how processes learn of changes.

A process gets all values with its configuration, so restarted and dynamic nodes have the present
ones. A change while the process waits for the start is sent when it starts. A node without a
process keeps its parameters for the next one. A program that replaces another one begins with the
parameters of its YAML, if there are any, otherwise with the present ones.
"""

from __future__ import annotations

from typing import Any

from dora.daemon.supervisor.events import ParameterRequest
from dora.daemon.supervisor.state import NodeState, RunState
from dora.dataflow.names import parameter_fault
from dora.dataflow.problems import did_you_mean
from dora.wire.daemon_protocol import (
    Answer,
    DeleteParameter,
    GetParameters,
    Parameters,
    Rejected,
    SetParameter,
)
from dora.wire.node_protocol import ParamDeletedFrame, ParamUpdateFrame
from dora.wire.operations import OperationResult


def answer_request(run: RunState, request: ParameterRequest) -> Answer:
    """Do what a client asks about parameters; return the answer."""
    node = run.find_here(request.node)
    if isinstance(node, Rejected):
        return node
    match request:
        case SetParameter(key=key, value=value):
            if fault := parameter_fault(key, value):
                return Rejected(fault)
            run.set_parameters(node, {**node.parameters, key: value})
            change: ParamUpdateFrame | ParamDeletedFrame = ParamUpdateFrame(key, value)
        case DeleteParameter(key=key):
            if key not in node.parameters:
                return Rejected(_missing(node, key))
            run.set_parameters(node, {k: v for k, v in node.parameters.items() if k != key})
            change = ParamDeletedFrame(key)
        case GetParameters():
            return Parameters(dict(node.parameters))
    if node.present:
        run.send(node, change)
        node.parameters_sent = dict(node.parameters)
    return OperationResult(node.id, node.present)


def set_by_node(run: RunState, node: NodeState, values: dict[str, Any]) -> None:
    """Set what a process asks for, of which it has checked each value.

    Also the process gets the changes, so that all see them in one order.
    """
    good = {key: value for key, value in values.items() if not parameter_fault(key, value)}
    run.set_parameters(node, {**node.parameters, **good})
    if node.present:
        for key, value in good.items():
            run.send(node, ParamUpdateFrame(key, value))
        node.parameters_sent = dict(node.parameters)


def send_changes(run: RunState, node: NodeState) -> None:
    """Send a starting process what has changed since it was admitted."""
    sent, now = node.parameters_sent, node.parameters
    for key in sent:
        if key not in now:
            run.send(node, ParamDeletedFrame(key))
    for key, value in now.items():
        if key not in sent or not _same(sent[key], value):
            run.send(node, ParamUpdateFrame(key, value))
    node.parameters_sent = dict(now)


def _missing(node: NodeState, key: str) -> str:
    hint = did_you_mean(key, node.parameters)
    return f"node `{node.id}` has no parameter `{key}`" + (f"; {hint}" if hint else "")


def _same(one: Any, other: Any) -> bool:
    """Return whether two values are the same to a program, for which 1, 1.0 and true differ."""
    return type(one) is type(other) and repr(one) == repr(other)
