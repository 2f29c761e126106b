"""Invariants of a run's state, checked after every event."""

from __future__ import annotations

from dora.daemon.supervisor.state import RunState


def validate_state(run: RunState) -> None:
    """Raise ``AssertionError`` if the state contradicts itself, or has no way to the end."""
    names: dict[str, list[str]] = {key: [] for key in ("", *run.nodes)}
    for node_id, name in run.deadlines:
        names[node_id].append(name)
    ending = run.stopping or bool(run.broken_by)

    assert not (run.opened and run.broken_by), "the start barrier is open and broken"
    if run.done:
        assert not run.deadlines, "the run has ended and still waits"
    elif run.only_dynamic_left:
        assert names[""] == ["last-grace"], "the run waits for dynamic nodes without a limit"

    assert [spec.id for spec in run.dataflow.nodes] == list(run.nodes), "nodes differ from the dataflow"
    for node_id, node in run.nodes.items():
        where = f"node {node_id} in phase {node.phase}"
        _check_edges(run, node_id)
        if node.machine:
            assert not names[node_id] and not node.connected, f"{where}: is on another machine"
            assert not (node.awaits_machine and ending), f"{where}: the dataflow is ending"
            continue
        if node.phase == "running":
            assert run.opened, f"{where}: the barrier is not open"
        if node.connected:
            assert node.phase in ("starting", "ready", "running"), f"{where}: connected"
        if node.present:
            assert node.parameters_sent == node.parameters, f"{where}: was not sent its parameters"
        if node.phase in ("ended", "dormant"):
            assert not names[node_id], f"{where}: has deadlines {names[node_id]}"
        if node.phase == "ended":
            assert node.outputs_closed >= set(node.spec.outputs), f"{where}: has open outputs"
        if node.phase == "awaiting fix":
            assert not names[node_id], f"{where}: has deadlines {names[node_id]}"
            assert run.opened and not ending, f"{where}: the dataflow is not running"
            assert node.failure is not None, f"{where}: has no failure"
        if node.replacement is not None:
            assert run.opened and node.alive and not ending, f"{where}: has a replacement"
            assert node.replacement.incarnation > node.incarnation, f"{where}: its replacement is older"
        if node.draining:
            assert run.opened and node.alive and not ending, f"{where}: drains"
            assert {"drain", "drain-kill", "abandon"} & {*names[node_id]}, f"{where}: drains for ever"
        assert node.draining or not {"drain", "drain-kill"} & {*names[node_id]}, f"{where}: does not drain"
        if node.operation is not None:
            assert node.alive or node.connected, f"{where}: has ended, and is asked to"
            assert run.opened and not ending, f"{where}: is asked to end, as all are"
            deadlines = {"operation", "operation-kill", "abandon"} & {*names[node_id]}
            assert deadlines, f"{where}: its operation takes for ever"
        else:
            deadlines = {"operation", "operation-kill"} & {*names[node_id]}
            assert not deadlines, f"{where}: has no operation"
        if node.program_change is not None:
            assert node.replacement is not None or node.draining, f"{where}: nothing replaces it"
        if node.added_by is not None:
            assert node.phase == "starting" and not ending, f"{where}: a client waits for it"
        assert not node.removing, f"{where}: was removed, and is here"
        if node.phase == "backoff":
            assert names[node_id] == ["restart"], f"{where}: will not be restarted"
            assert not ending, f"{where}: the dataflow is ending"
        if not node.spec.is_dynamic and run.begun:
            assert node.phase != "dormant", f"{where}: was never started"
        if run.done or run.only_dynamic_left:
            assert not node.alive, f"{where}: the dataflow is over"
        if node.alive and ending:
            assert names[""], f"{where}: nothing ends it"
        if node.alive and node.kill_reason is not None:
            assert "abandon" in (*names[""], *names[node_id]), f"{where}: is never abandoned"


def _check_edges(run: RunState, node_id: str) -> None:
    node = run.nodes[node_id]
    for output, edges in run.graph.consumers[node_id].items():
        for consumer, input_id in edges:
            closed = input_id in run.nodes[consumer].inputs_closed
            assert closed == (output in node.outputs_closed), (
                f"node {node_id}: {output} and {input_id} differ"
            )
