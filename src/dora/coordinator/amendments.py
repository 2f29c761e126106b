"""What a dataflow on several machines becomes by a wish, and where. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from dora.coordinator.placement import check_files, place_one, text_between
from dora.coordinator.protocol import MachineView, ProposedChange, RunSpec
from dora.coordinator.rules import Refusal, dataflow_of
from dora.dataflow.change import Change, find_node, without_node
from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.wished import make_change
from dora.errors import DoraError, Problem
from dora.wire.wishes import (
    AddOperation,
    ConnectOperation,
    DisconnectOperation,
    RemoveOperation,
    ReplaceOperation,
)

Topological = AddOperation | RemoveOperation | ReplaceOperation | ConnectOperation | DisconnectOperation


class PlannedChange(msgspec.Struct, frozen=True):
    """``node`` is the one that it is about, and ``machine`` where that is."""

    amendment: ProposedChange
    node: str
    machine: str
    warnings: tuple[Problem, ...] = ()


def plan_change(
    spec: RunSpec, wish: Topological, machines: Sequence[MachineView], environ: Mapping[str, str]
) -> PlannedChange:
    """Return what a dataflow becomes; raises `Refusal`.

    ``machines`` are those that there are; ``environ`` is what ``$NAME`` in a YAML text refers to.
    """
    running = dataflow_of(spec)
    added = removed = ""
    try:
        if isinstance(wish, RemoveOperation):
            find_node(running, wish.node)
            change = Change(without_node(running, wish.node), wish.node)
        else:
            change, added, removed = make_change(wish, running, environ)
    except DoraError as error:
        raise Refusal(409, str(error)) from None
    dataflow, node_id = change.dataflow, change.node_id
    placed = {node.id: spec.machines[node.id] for node in dataflow.nodes if node.id in spec.machines}
    if isinstance(wish, AddOperation):
        placed[node_id] = _place_added(dataflow.node(node_id), spec, machines)
    elif isinstance(wish, ReplaceOperation):
        _check_stays(dataflow.node(node_id), running.node(node_id), placed[node_id], machines)
    if crossing := list(text_between(dataflow, placed)):
        raise Refusal(409, "\n".join(crossing))
    revision = spec.revision + 1
    amendment = ProposedChange(
        revision=revision,
        dataflow=msgspec.to_builtins(dataflow),
        machines=placed,
        births=births_after(running, dataflow, spec.births, revision),
        programs=msgspec.to_builtins(change.programs),
        added=added,
        removed=removed,
        replaced=node_id if isinstance(wish, ReplaceOperation) else "",
        grace=wish.grace if isinstance(wish, ReplaceOperation) else None,
    )
    where = placed.get(node_id) or spec.machines[node_id]
    return PlannedChange(amendment, node_id, where, change.warnings)


def _place_added(node: NodeSpec, spec: RunSpec, machines: Sequence[MachineView]) -> str:
    """Return the machine of a node that is added; one that names none stays on the only one in use."""
    used = set(spec.machines.values())
    if node.deploy.machine is None and not node.deploy.labels and len(used) == 1:
        check_files([node])
        return used.pop()
    return place_one(node, machines)


def _check_stays(node: NodeSpec, former: NodeSpec, machine: str, machines: Sequence[MachineView]) -> None:
    """Raise `Refusal` if a node that replaces another one is not for its machine."""
    if node.deploy == former.deploy:
        return
    wanted = place_one(node, machines)
    if wanted != machine:
        raise Refusal(
            409,
            f"node `{node.id}` runs on machine `{machine}`, and what replaces it is for `{wanted}`; a "
            f"replacement stays on the machine: `dora node remove {node.id}`, and add it again",
        )


def births_after(
    before: Dataflow, after: Dataflow, births: Mapping[str, int], revision: int
) -> dict[str, int]:
    """Return the births of a dataflow that follows another one; see `dora.dataflow.links.Place`.

    An input that is fed by something else is another one.
    """
    known = {node.id: {item.id: item.source for item in node.inputs} for node in before.nodes}
    found: dict[str, int] = {}
    for node in after.nodes:
        sources = known.get(node.id)
        names = {node.id: sources is not None}
        for item in node.inputs:
            names[f"{node.id}/{item.id}"] = sources is not None and sources.get(item.id) == item.source
        for name, was_there in names.items():
            if not was_there:
                found[name] = revision
            elif name in births:
                found[name] = births[name]
    return found


def with_present_parameters(spec: RunSpec, amendment: ProposedChange) -> Any:
    """Return the dataflow of an amendment with the parameters that its nodes have by now.

    They may have been set since it was planned. A node that is replaced has those of its YAML, if any.
    """

    def present(node: dict[str, Any]) -> dict[str, Any]:
        if node["id"] == amendment.replaced and node.get("parameters"):
            return node
        known = spec.parameters_of(node["id"])
        return node if known is None else {**node, "parameters": known}

    return {**amendment.dataflow, "nodes": [present(node) for node in amendment.dataflow["nodes"]]}


def undone(wish: AddOperation | ConnectOperation, node_id: str) -> RemoveOperation | DisconnectOperation:
    """Return the wish that takes back what another one has brought."""
    if isinstance(wish, AddOperation):
        return RemoveOperation(node_id)
    return DisconnectOperation(wish.source, wish.target)
