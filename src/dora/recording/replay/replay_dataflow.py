"""The dataflow of a replay: the recorded one, with players in place of some nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from dora.dataflow.durations import duration_text
from dora.dataflow.layout import text_outputs
from dora.dataflow.model import Dataflow, NodeOutput, NodeSpec, TimerSource
from dora.dataflow.paths import DataGraph
from dora.dataflow.problems import no_node
from dora.dataflow.rules import output_rules_in_yaml
from dora.errors import DoraError
from dora.node.host import REPLAY_DIRECTORY
from dora.wire.input_rules import INPUT_RULES
from dora.wire.output_rules import OUTPUT_RULES

# The roles of nodes in a replay.
#
# A node runs again if everything that it gets from other nodes is recorded, or comes from a node that runs
# again. So does a node with timers only and without outputs, such as one that publishes the time: nothing
# can replace it. Players replace the others: cameras, and all other nodes without inputs.


class ReplayRoles(NamedTuple):
    """Ids of nodes. ``left_out``: they can neither run nor be replaced."""

    replaced: tuple[str, ...]
    live: tuple[str, ...]
    left_out: tuple[str, ...]


def assign_roles(
    dataflow: Dataflow, recorded: Collection[str], replace: Collection[str] | None = None
) -> ReplayRoles:
    """Return the role of each node. ``recorded``: ``node/output``. ``replace``: replace only these.

    Raises `DoraError` for a node in ``replace`` that is not there, or of which nothing was recorded.
    """
    if replace is not None:
        return _as_requested(dataflow, recorded, replace)
    live = {node.id for node in dataflow.nodes if not node.is_dynamic and _can_run(dataflow, node)}
    while gone := {node_id for node_id in live if not _is_fed(dataflow, node_id, live, recorded)}:
        live -= gone
    nodes_recorded = {topic.partition("/")[0] for topic in recorded}
    return ReplayRoles(
        replaced=tuple(node.id for node in dataflow.nodes if node.id in nodes_recorded - live),
        live=tuple(node.id for node in dataflow.nodes if node.id in live),
        left_out=tuple(node.id for node in dataflow.nodes if node.id not in nodes_recorded | live),
    )


def _as_requested(dataflow: Dataflow, recorded: Collection[str], replace: Collection[str]) -> ReplayRoles:
    ids = [node.id for node in dataflow.nodes]
    for node_id in replace:
        if node_id not in ids:
            raise DoraError(no_node(node_id, ids))
        node = dataflow.node(node_id)
        if node.outputs and not any(f"{node_id}/{output}" in recorded for output in node.outputs):
            raise DoraError(f"nothing of `{node_id}` is in the recording, so nothing can replace it")
    return ReplayRoles(
        replaced=tuple(node_id for node_id in ids if node_id in replace and dataflow.node(node_id).outputs),
        live=tuple(node_id for node_id in ids if node_id not in replace),
        left_out=tuple(
            node_id for node_id in ids if node_id in replace and not dataflow.node(node_id).outputs
        ),
    )


def _sources(dataflow: Dataflow, node: NodeSpec) -> Iterator[NodeOutput]:
    """Yield the outputs of other nodes that a node gets messages from."""
    for item in node.inputs:
        source = item.source
        if not isinstance(source, NodeOutput) or source.node == node.id:
            continue
        if source.output not in text_outputs(dataflow.node(source.node)):
            yield source


def _can_run(dataflow: Dataflow, node: NodeSpec) -> bool:
    timers_only = all(isinstance(item.source, TimerSource) for item in node.inputs)
    return any(_sources(dataflow, node)) or (bool(node.inputs) and timers_only and not node.outputs)


def _is_fed(dataflow: Dataflow, node_id: str, live: Collection[str], recorded: Collection[str]) -> bool:
    return all(
        source.node in live or str(source) in recorded
        for source in _sources(dataflow, dataflow.node(node_id))
    )


def in_cycles(dataflow: Dataflow, live: Collection[str]) -> set[tuple[str, str]]:
    """Return the pairs (producer, consumer) of nodes that run again and wait for each other."""
    after: dict[str, set[str]] = {node_id: set() for node_id in live}
    for node_id in live:
        for source in _sources(dataflow, dataflow.node(node_id)):
            if source.node in after:
                after[source.node].add(node_id)

    def reachable(start: str) -> set[str]:
        found: set[str] = set()
        todo = [start]
        while todo:
            new = after[todo.pop()] - found
            found |= new
            todo += new
        return found

    reach = {node_id: reachable(node_id) for node_id in live}
    return {(a, b) for a in live for b in after[a] if a in reach[b]}


PLAYER: Final = "dora-replay"  # the `path` of a player, see `dora.daemon.processes.programs`
NODE: Final = "DORA_REPLAY_NODE"


class PlayerSettings(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The messages that a player sends, as variables of its environment.

    Times are seconds from the first message of the recording; None: to its end. ``images``, ``topics``
    and ``image_topics`` are as for `dora.recording.bags.bag.RosBag`.
    """

    file: str = msgspec.field(name="DORA_REPLAY_FILE")
    node_id: str = msgspec.field(name=NODE)
    speed: float = msgspec.field(name="DORA_REPLAY_SPEED", default=1.0)
    loop: bool = msgspec.field(name="DORA_REPLAY_LOOP", default=False)
    begin: float = msgspec.field(name="DORA_REPLAY_FROM", default=0.0)
    end: float | None = msgspec.field(name="DORA_REPLAY_TO", default=None)
    images: bool = msgspec.field(name="DORA_REPLAY_IMAGES", default=False)
    topics: dict[str, str] = msgspec.field(name="DORA_REPLAY_TOPICS", default={})
    image_topics: list[str] = msgspec.field(name="DORA_REPLAY_IMAGE_TOPICS", default=[])


# Keys that a player keeps of the node it replaces: they decide how receivers see its outputs.
_KEPT: Final = ("name", "description", "output_types", "send_stdout_as", "send_logs_as")
_UNCERTAIN_CONDITIONS: Final = frozenset({"deadline", "budget"})  # a replay may have none of them
_PLACES: Final = ("deploy", "_unstable_deploy")  # a replay is on one machine
_LOSSY: Final = tuple(rule.name for rule in INPUT_RULES if rule.loses)
_TIMED: Final = tuple(rule.name for rule in INPUT_RULES if rule.makes_events)  # the events are recorded
_DATED: Final = tuple(rule.name for rule in INPUT_RULES if rule.reads_timestamps)
_MANY: Final = 1000  # messages; nodes that wait for each other must not wait for room, too


def replay_dataflow(
    dataflow: Dataflow,
    roles: ReplayRoles,
    environment: Mapping[str, str],
    *,
    directory: str = "",
    ordered: bool = False,
    lossless: bool = False,
) -> dict[str, Any]:
    """Return the replay dataflow as plain values, to be written as YAML.

    ``environment``: the variables of the players, without `NODE`. ``directory``: where the replay keeps its
    clock and, if it is ``ordered``, the order of events; "" if it has none. ``lossless``: senders wait
    instead of losing messages.
    """
    if directory:
        environment = {**environment, REPLAY_DIRECTORY: directory}
    written = {str(node["id"]): node for node in dataflow.descriptor["nodes"]}
    cycles = in_cycles(dataflow, roles.live)
    names = _full_names(dataflow)
    no_backpressure = {name for node in dataflow.nodes for name in _sources_without_backpressure(node)}
    nodes = []
    for node in dataflow.nodes:
        if node.id in roles.replaced:
            kept = {key: written[node.id][key] for key in _KEPT if key in written[node.id]}
            variables = {**environment, NODE: node.id}
            player = {"id": node.id, "path": PLAYER, **kept, "outputs": _outputs(node), "env": variables}
            nodes.append(_with_possible_conditions(player))
        elif node.id in roles.live:
            room = partial(
                _with_room, node_id=node.id, ordered=ordered, cycles=cycles, no_backpressure=no_backpressure
            )
            rules = room if lossless else _without_ages
            nodes.append(_live(written[node.id], directory if ordered else "", names, rules))
    left_out = (*_PLACES, "nodes", "paths", "black_box")
    root = {key: value for key, value in dataflow.descriptor.items() if key not in left_out}
    if paths := _paths(dataflow, roles):
        root["paths"] = paths
    # The times of its messages are those of the recording, so there are no last seconds.
    return {**root, "black_box": False, "exit_when_nodes_finish": True, "nodes": nodes}


def _paths(dataflow: Dataflow, roles: ReplayRoles) -> list[dict[str, Any]]:
    """Return the budgets of the paths on which every node but the first runs again."""
    graph = DataGraph(dataflow.nodes)
    kept = []
    for path in dataflow.paths:
        item = next(item for item in graph.nodes[path.node].inputs if item.id == path.input)
        between = graph.between(path.source, item.source) if isinstance(item.source, NodeOutput) else set()
        nodes = {output.node for output in between if output != path.source} | {path.node}
        if nodes <= set(roles.live) and path.source.node in {*roles.live, *roles.replaced}:
            kept.append(
                {
                    "from": str(path.source),
                    "to": path.sink,
                    "budget": duration_text(path.budget_ns),
                    "on_miss": path.on_miss,
                    "after": path.after,
                }
            )
    return kept


def _outputs(node: NodeSpec) -> list[Any]:
    """Return the outputs of a player, with the rules that they had.

    Safe states stay: unless the replay is in recorded order, receivers make their safe values themselves.
    """
    return [
        {name: output_rules_in_yaml(rules)} if (rules := node.output_rules.get(name)) else name
        for name in node.outputs
    ]


def _sources_without_backpressure(node: NodeSpec) -> Iterator[str]:
    """Yield how inputs refer to the outputs of a node whose receivers cannot make it wait."""
    for name, rules in node.output_rules.items():
        if any(rule.no_backpressure and getattr(rules, rule.name) is not None for rule in OUTPUT_RULES):
            yield f"{node.id}/{name}"


def _full_names(dataflow: Dataflow) -> dict[str, str]:
    """Return, by its short name, each output of a node with one operator; a player has no operators."""
    return {
        f"{node.id}/{name.removeprefix(node.operators[0].prefix)}": f"{node.id}/{name}"
        for node in dataflow.nodes
        if len(node.operators) == 1
        for name in node.outputs
    }


def _with_full_names(written: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Give the sources of all inputs of a node or operator their full names."""

    def full(value: Any) -> Any:
        if isinstance(value, dict):
            return {**value, "source": full(value["source"])}
        return names.get(value, value)

    return _with_inputs(written, full)


def _live(
    written: Mapping[str, Any],
    directory: str,
    names: Mapping[str, str],
    rules: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    def changed(written: Mapping[str, Any]) -> dict[str, Any]:
        return rules(_with_full_names(_with_possible_conditions(written), names))

    node = {key: value for key, value in written.items() if key not in _PLACES}
    if directory:
        node["env"] = {**(node.get("env") or {}), REPLAY_DIRECTORY: directory}
    node = changed(node)
    if isinstance(operator := node.get("operator"), dict):
        node["operator"] = changed(operator)
    if isinstance(operators := node.get("operators"), list):
        node["operators"] = [changed(operator) for operator in operators]
    return node


def _with_possible_conditions(written: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out `when` of safe states that names deadlines or budgets: a replay may have none."""
    outputs = []
    for output in written.get("outputs") or ():
        if isinstance(output, dict):
            ((name, options),) = output.items()
            safe = (options or {}).get("safe_state")
            if isinstance(safe, dict) and _UNCERTAIN_CONDITIONS.intersection(safe.get("when") or ()):
                safe = {key: value for key, value in safe.items() if key != "when"}
                output = {name: {**options, "safe_state": safe}}
        outputs.append(output)
    return {**written, "outputs": outputs} if outputs else dict(written)


def _with_inputs(written: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Change all inputs of a node or operator."""
    inputs = written.get("inputs")
    if not isinstance(inputs, dict):
        return dict(written)
    return {**written, "inputs": {input_id: change(value) for input_id, value in inputs.items()}}


def _without_ages(written: Mapping[str, Any]) -> dict[str, Any]:
    """Remove rules about timestamps from all inputs: by the recorded ones, all messages are too old."""

    def without(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: option for key, option in value.items() if key not in _DATED}

    return _with_inputs(written, without)


def _with_room(
    written: Mapping[str, Any],
    node_id: str,
    ordered: bool,
    cycles: set[tuple[str, str]],
    no_backpressure: set[str],
) -> dict[str, Any]:
    """Make the senders of all inputs wait; inputs of outputs that never wait, such as latched ones, get
    a larger queue instead.

    Messages that were lost, late or left out are part of the recorded order.
    """

    def with_room(value: Any) -> Any:
        source = value.get("source") if isinstance(value, dict) else value
        if not isinstance(source, str) or source.startswith("dora/"):
            return value
        options = dict(value) if isinstance(value, dict) else {"source": source}
        if source not in no_backpressure:
            options["queue_policy"] = "backpressure"
        elif options.get("queue_policy") == "latest":
            del options["queue_policy"]
        for name in (*_LOSSY, *(_TIMED if ordered else ())):
            options.pop(name, None)
        if source in no_backpressure or (source.partition("/")[0], node_id) in cycles:
            options["queue_size"] = max(int(options.get("queue_size") or 0), _MANY)
        return options

    return _with_inputs(written, with_room)
