"""The dataflow of a replay: that of the recording, with players in the place of some nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dora.dataflow.model import Dataflow
from dora.node.ordered_inbox import REPLAY_DIRECTORY
from dora.recording.roles import ReplayRoles, in_cycles

PLAYER: Final = "dora-replay"  # the `path` of a player, see `dora.daemon.builtin`
FILE: Final = "DORA_REPLAY_FILE"
NODE: Final = "DORA_REPLAY_NODE"
SPEED: Final = "DORA_REPLAY_SPEED"
LOOP: Final = "DORA_REPLAY_LOOP"
FROM: Final = "DORA_REPLAY_FROM"
TO: Final = "DORA_REPLAY_TO"

# What a player keeps of the node that it replaces: it decides how its receivers see the outputs.
_KEPT: Final = ("name", "description", "output_types", "send_stdout_as", "send_logs_as")
_PLACES: Final = ("deploy", "_unstable_deploy")  # a replay is on one machine
_ROOM_IN_CYCLES: Final = 1000  # messages; who waits for each other must not wait for room too


def rewrite(
    dataflow: Dataflow,
    who: ReplayRoles,
    environment: Mapping[str, str],
    *,
    directory: str = "",
    ordered: bool = False,
    lossless: bool = False,
) -> dict[str, Any]:
    """Return the description of the replay as plain values, to be written as YAML.

    ``environment``: the variables of the players, without `NODE`. ``directory``: where the replay keeps its
    clock and, if it is ``ordered``, the order of events; "" if it has none. ``lossless``: senders wait
    instead of losing messages.
    """
    if directory:
        environment = {**environment, REPLAY_DIRECTORY: directory}
    written = {str(node["id"]): node for node in dataflow.descriptor["nodes"]}
    cycles = in_cycles(dataflow, who.live)
    nodes = []
    for node in dataflow.nodes:
        if node.id in who.replaced:
            kept = {key: written[node.id][key] for key in _KEPT if key in written[node.id]}
            variables = {**environment, NODE: node.id}
            nodes.append(
                {"id": node.id, "path": PLAYER, **kept, "outputs": list(node.outputs), "env": variables}
            )
        elif node.id in who.live:
            nodes.append(_live(written[node.id], node.id, directory if ordered else "", lossless, cycles))
    root = {key: value for key, value in dataflow.descriptor.items() if key not in (*_PLACES, "nodes")}
    return {**root, "exit_when_nodes_finish": True, "nodes": nodes}


def _live(
    written: Mapping[str, Any], node_id: str, directory: str, lossless: bool, cycles: set[tuple[str, str]]
) -> dict[str, Any]:
    node = {key: value for key, value in written.items() if key not in _PLACES}
    if directory:
        node["env"] = {**(node.get("env") or {}), REPLAY_DIRECTORY: directory}
    if lossless:
        _wait_for_room(node, node_id, bool(directory), cycles)
        if isinstance(node.get("operator"), dict):
            node["operator"] = dict(node["operator"])
            _wait_for_room(node["operator"], node_id, bool(directory), cycles)
        if isinstance(node.get("operators"), list):
            node["operators"] = [dict(operator) for operator in node["operators"]]
            for operator in node["operators"]:
                _wait_for_room(operator, node_id, bool(directory), cycles)
    return node


def _wait_for_room(
    written: dict[str, Any], node_id: str, ordered: bool, cycles: set[tuple[str, str]]
) -> None:
    """Let the senders of all inputs wait. What was lost, or late, is part of the recorded order."""
    inputs = written.get("inputs")
    if not isinstance(inputs, dict):
        return
    changed: dict[str, Any] = {}
    for input_id, value in inputs.items():
        source = value.get("source") if isinstance(value, dict) else value
        if not isinstance(source, str) or source.startswith("dora/"):
            changed[input_id] = value
            continue
        options = dict(value) if isinstance(value, dict) else {"source": source}
        options["queue_policy"] = "backpressure"
        if ordered:
            options.pop("input_timeout", None)
        if (source.partition("/")[0], node_id) in cycles:
            options["queue_size"] = max(int(options.get("queue_size") or 0), _ROOM_IN_CYCLES)
        changed[input_id] = options
    written["inputs"] = changed
