"""Parameters: the values that a run keeps for its nodes, and who is told of a change.

A process gets all values with its configuration, so restarted and dynamic nodes have the present
ones. What changes while it waits for the start is told when it starts. Nodes that have no process
keep their parameters for the next one. A program that takes the place of another one begins with the
parameters of its YAML, if that has any, and else with the present ones.
"""

from __future__ import annotations

from typing import Any

from dora.dataflow.parameters import key_fault, value_fault
from dora.dataflow.report import did_you_mean, no_node
from dora.supervise import commands as do
from dora.supervise import events as on
from dora.supervise.node_state import NodeState
from dora.supervise.run_state import RunState
from dora.wire.control import ParamDeleted, ParamUpdate
from dora.wire.requests import Answer, Declined, Done, Parameters


class ParameterRules(RunState):
    """The rules about parameters."""

    def _parameter_request(self, event: on.ParametersAsked | on.ParameterSet | on.ParameterDeleted) -> None:
        self._commands.append(do.Answer(event.connection, self._answer(event)))

    def _answer(self, event: on.ParametersAsked | on.ParameterSet | on.ParameterDeleted) -> Answer:
        node = self.nodes.get(event.node_id)
        if node is None:
            return Declined(no_node(event.node_id, self.nodes))
        if node.machine:
            return Declined(f"node `{event.node_id}` is on machine `{node.machine}`; ask there")
        match event:
            case on.ParameterSet(key=key, value=value):
                if fault := key_fault(key):
                    return Declined(f"the key of a parameter {fault}")
                if fault := value_fault(value):
                    return Declined(f"the value of parameter `{key}` {fault}")
                self._set_parameters(node, {**node.parameters, key: value})
                self._tell(node.spec.id, f"parameter `{key}` was set")
                change: ParamUpdate | ParamDeleted = ParamUpdate(key, value)
            case on.ParameterDeleted(key=key):
                if key not in node.parameters:
                    return Declined(_missing(node, key))
                self._set_parameters(node, {k: v for k, v in node.parameters.items() if k != key})
                self._tell(node.spec.id, f"parameter `{key}` was deleted")
                change = ParamDeleted(key)
            case on.ParametersAsked():
                return Parameters(dict(node.parameters))
        if node.present:
            self._send(node, change)
            node.parameters_told = dict(node.parameters)
        return Done(node.present)

    def _tell_parameters(self, node: NodeState) -> None:
        """Tell a process that starts what has changed since it was admitted."""
        told, now = node.parameters_told, node.parameters
        for key in told:
            if key not in now:
                self._send(node, ParamDeleted(key))
        for key, value in now.items():
            if key not in told or not _same(told[key], value):
                self._send(node, ParamUpdate(key, value))
        node.parameters_told = dict(now)


def _missing(node: NodeState, key: str) -> str:
    hint = did_you_mean(key, node.parameters)
    return f"node `{node.spec.id}` has no parameter `{key}`" + (f"; {hint}" if hint else "")


def _same(one: Any, other: Any) -> bool:
    """Tell whether two values are the same to a program, to which 1, 1.0 and true are not."""
    return type(one) is type(other) and repr(one) == repr(other)
