"""What must hold in every state of a `Supervisor`; checked after every step under test."""

from __future__ import annotations

from dora.supervise.machine import Supervisor


def validate_state(supervisor: Supervisor) -> None:
    """Raise ``AssertionError`` if the state contradicts itself, or has no way to the end."""
    names: dict[str, list[str]] = {key: [] for key in ("", *supervisor.nodes)}
    for node_id, name in supervisor.deadlines:
        names[node_id].append(name)
    ending = supervisor.stopping or bool(supervisor.broken_by)

    assert not (supervisor.opened and supervisor.broken_by), "the start barrier is open and broken"
    if supervisor.done:
        assert not supervisor.deadlines, "it has ended and still waits"
    elif supervisor.leaving:
        assert names[""] == ["farewell"], "it waits for dynamic nodes without a limit"

    assert [spec.id for spec in supervisor.dataflow.nodes] == list(supervisor.nodes), "other nodes"
    for node_id, node in supervisor.nodes.items():
        where = f"node {node_id} in phase {node.phase}"
        _check_edges(supervisor, node_id)
        if node.machine:
            assert not names[node_id] and not node.connected, f"{where}: it is on another machine"
            continue
        if node.phase == "running":
            assert supervisor.opened, f"{where}: the barrier is not open"
        if node.connected:
            assert node.phase in ("starting", "ready", "running"), f"{where}: connected"
        if node.present:
            assert node.parameters_told == node.parameters, f"{where}: was not told of parameters"
        if node.retired:
            assert names[node_id] == ["retired"] or supervisor.leaving or supervisor.done, f"{where}: stays"
        elif node.phase in ("ended", "dormant"):
            assert not names[node_id], f"{where}: has deadlines {names[node_id]}"
        if node.phase == "ended" and not node.retired:
            assert node.outputs_closed >= set(node.spec.outputs), f"{where}: has open outputs"
        if node.phase == "mending":
            assert not names[node_id], f"{where}: has deadlines {names[node_id]}"
            assert supervisor.opened and not ending, f"{where}: the dataflow is not running"
            assert node.failure is not None, f"{where}: for no reason"
        if node.successor is not None:
            assert supervisor.opened and node.alive and not ending, f"{where}: has a successor"
            assert node.successor.incarnation > node.incarnation, f"{where}: its successor is older"
            has_registered = node.successor.connection is not None
            waits = has_registered and not (node.makes_way or supervisor.stands_by)
            assert not waits, f"{where}: its successor waits"
        if node.makes_way:
            assert supervisor.opened and node.alive and not ending, f"{where}: makes way"
            assert {"way", "way-kill", "abandon"} & {*names[node_id]}, f"{where}: nobody hurries it"
        assert not ({"way", "way-kill"} & {*names[node_id]} and not node.makes_way), f"{where}: is hurried"
        if node.asked:
            assert node.alive or node.connected, f"{where}: is asked to end, and has"
            assert supervisor.opened and not ending, f"{where}: is asked to end, as all are"
            assert {"asked", "asked-kill", "abandon"} & {*names[node_id]}, f"{where}: nobody hurries it"
        assert not ({"asked", "asked-kill"} & {*names[node_id]} and not node.asked), f"{where}: is hurried"
        if node.replacement is not None:
            assert node.successor is not None or node.makes_way, f"{where}: nothing replaces it"
        if node.added_by is not None:
            assert node.phase == "starting" and not ending, f"{where}: somebody waits for it"
        assert not node.leaves, f"{where}: has left, and is here"
        if node.phase == "backoff":
            assert names[node_id] == ["restart"], f"{where}: will not be restarted"
            assert not ending, f"{where}: the dataflow is ending"
        if not node.spec.is_dynamic and supervisor.begun:
            assert node.phase != "dormant", f"{where}: was never started"
        if supervisor.done or supervisor.leaving:
            assert not node.alive, f"{where}: the dataflow is over"
        if node.alive and ending:
            assert names[""], f"{where}: nothing ends it"
        if node.alive and node.doom is not None:
            assert "abandon" in (*names[""], *names[node_id]), f"{where}: nobody gives it up"


def _check_edges(supervisor: Supervisor, node_id: str) -> None:
    node = supervisor.nodes[node_id]
    for output, edges in supervisor.graph.consumers[node_id].items():
        for consumer, input_id in edges:
            closed = input_id in supervisor.nodes[consumer].inputs_closed
            assert closed == (output in node.outputs_closed), (
                f"node {node_id}: {output} and {input_id} differ"
            )
