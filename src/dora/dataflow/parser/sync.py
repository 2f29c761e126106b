"""Synchronised inputs: the field ``sync`` of nodes and operators, and its checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from msgspec import structs

from dora.dataflow.durations import duration_text
from dora.dataflow.model import InputSpec, LogSource, NodeOutput, NodeSpec, TimerSource
from dora.dataflow.problems import ProblemReport, TextSpan, listed
from dora.dataflow.yaml.field_types import (
    DATA,
    ChoiceType,
    FieldType,
    ListType,
    MapType,
    Reader,
    Schema,
    report_expected,
)
from dora.dataflow.yaml.number_types import DurationType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode
from dora.wire.input_rules import SyncBy, SyncGroup, SyncPolicy


class Frames(FieldType[int]):
    """A range of messages before the matching one, ``[-32, 0]``; the value is how many come before it."""

    def read(self, value: YamlNode, reader: Reader) -> int | None:
        """Return how many messages come before the matching one, 0 or more."""
        if isinstance(value, SequenceNode) and len(value.items) == 2:
            first, last = (item.value if isinstance(item, ScalarNode) else None for item in value.items)
            if type(first) is int and type(last) is int:
                if first <= 0 and last == 0:
                    return -first
                at = value.items[0 if last == 0 else 1]
                reader.report.error(
                    at,
                    "a history goes from an earlier message to the matching one, whose number is 0",
                    f"for the matching message and the {abs(first) or 8} before it: "
                    f"`[-{abs(first) or 8}, 0]`",
                )
                return None
        hint = "write `[-8, 0]` for the matching message and the eight before it"
        report_expected(value, reader, "the first and last message of a history", hint)
        return None

    def schema(self) -> Schema:
        return {
            "type": "array",
            "prefixItems": [{"type": "integer", "maximum": 0}, {"const": 0}],
            "items": False,
            "minItems": 2,
            "maxItems": 2,
        }


SYNC_BLOCK = SchemaBlock(
    "a group in `sync`",
    [
        Field(
            "inputs",
            ListType(DATA, "inputs"),
            "The inputs of the group, two or more. The first one leads: each of its messages makes a set.",
            required=True,
        ),
        Field(
            "tolerance",
            DurationType(zero="kept"),
            "How far the timestamp of a message may be from the leading one's: `5ms`. `0`: not at "
            "all. Unset: `0`, with `policy: latest` any age.",
        ),
        Field(
            "by",
            ChoiceType(get_args(SyncBy)),
            "What is compared: the `timestamp` in the metadata, or the order of arrival.",
            default="timestamp",
        ),
        Field(
            "policy",
            ChoiceType(get_args(SyncPolicy)),
            "Which message of each other input a set gets: the nearest one within the tolerance, one of "
            "the same timestamp, or the latest one before the leading message. Unset: `nearest`; `exact` "
            "without a tolerance; `latest` with `by: arrival`.",
        ),
        Field(
            "history",
            MapType(Frames(), "histories"),
            "Inputs of which a set has earlier messages too: `{arm: [-32, 0]}` gives a list of 33 "
            "messages, which ends with the matching one.",
        ),
        Field(
            "timeout",
            DurationType(),
            "How long a leading message waits for the others: `100ms`. Then, or once it is sure that one "
            "is missing, the set is given as it is. Unset: incomplete sets are not given.",
        ),
    ],
    reference="sync",
    example="{inputs: [left, right], tolerance: 5ms}",
)

SYNC = Field(
    "sync",
    ListType(SYNC_BLOCK, "groups", "begin each group with `- inputs: [left, right]`", keeps_rest=True),
    "Groups of inputs whose messages come as sets that belong together, in one event `SYNC`.",
)


class SyncChecks:
    """The groups of one dataflow, and what is wrong with them."""

    def __init__(self, report: ProblemReport) -> None:
        self._report = report
        self._places: dict[tuple[str, int], TextSpan] = {}  # of the groups, by node and number

    def of(
        self, node_id: str, checked: CheckedBlock, inputs: Sequence[InputSpec], owner: str, first: int = 0
    ) -> tuple[SyncGroup, ...]:
        """Return the groups of a node or operator; only meaningful if the report has no error.

        ``first``: the number of its first group in the node.
        """
        report = self._report
        known = {item.id: item for item in inputs}
        # Inputs that could not be used have an error of their own.
        written = checked.nodes.get("inputs")
        names = {*known, *(written.entries if isinstance(written, MappingNode) else ())}
        seen: dict[str, TextSpan] = {}
        groups: list[SyncGroup] = []
        for block in checked.get("sync") or ():
            group = _group(block, report)
            if group is None:
                continue
            if not block.failed("tolerance"):
                self._places[node_id, first + len(groups)] = block.place("inputs")
            for input_id in group.inputs:
                _check_input(input_id, block, names, seen, report, owner)
                _check_queue(input_id, block, group, known.get(input_id), report)
            for input_id, frames in group.history.items():
                _check_history(input_id, frames, block, group, known.get(input_id), report)
            if block.has("tolerance"):
                _check_timestamps(block, group, known, report)
            groups.append(group)
        return tuple(groups)

    def warn_of_strangers(self, nodes: Sequence[NodeSpec]) -> None:
        """Warn of groups that match equal timestamps of inputs which never share a source."""
        by_id = {node.id: node for node in nodes}
        origins: dict[str, frozenset[str]] = {}
        for node in nodes if self._places else ():
            sources = {item.id: item.source for item in node.inputs}
            for number, group in enumerate(node.syncs):
                place = self._places.get((node.id, number))
                if group.policy == "latest" or group.tolerance_ns or place is None:
                    continue
                lead, *others = group.inputs
                first = _origins(sources.get(lead), by_id, origins)
                for other in others:
                    found = _origins(sources.get(other), by_id, origins)
                    has_ticks = isinstance(sources.get(lead), TimerSource)
                    if first and found and (has_ticks or not first & found):
                        names = [name.rpartition("/")[2] for name in (lead, other)]
                        self._report.warn(
                            place,
                            f"`{names[0]}` and `{names[1]}` never share a source, so they hardly ever have "
                            "the same timestamp",
                            "give the group a tolerance, for example `tolerance: 5ms`",
                        )
                        break


def within(prefix: str, group: SyncGroup) -> SyncGroup:
    """Return the group of an operator with the ids that its node has for the inputs."""
    return structs.replace(
        group,
        inputs=tuple(f"{prefix}{name}" for name in group.inputs),
        history={f"{prefix}{name}": frames for name, frames in group.history.items()},
    )


def _group(block: CheckedBlock, report: ProblemReport) -> SyncGroup | None:
    inputs: tuple[str, ...] | None = block.get("inputs")
    if inputs is None:
        return None
    if len(inputs) < 2:
        report.error(
            block.place("inputs"),
            "a group in `sync` has two inputs or more, the one that leads first",
            "for example `inputs: [left, right]`",
        )
        return None
    by = block.get("by")
    tolerance: int | None = block.get("tolerance")
    policy: str | None = block.get("policy")
    if by == "arrival":
        _check_arrival(block, report)
        policy, tolerance = "latest", None
    if policy == "nearest" and not block.has("tolerance"):
        report.error(
            block.place("policy"),
            "`policy: nearest` needs a tolerance, within which a message is near",
            "add for example `tolerance: 5ms`",
        )
        return None
    if policy == "exact" and tolerance:
        report.error(
            block.place("tolerance"),
            "`policy: exact` matches equal timestamps, so it has no tolerance",
            "leave one of the two out",
        )
    if policy is None:
        policy = "nearest" if tolerance else "exact"
    if policy != "latest" and tolerance is None:
        tolerance = 0
    return SyncGroup(
        inputs=inputs,
        policy=policy,  # type: ignore[arg-type]  # the field has these words
        by=by,
        tolerance_ns=tolerance,
        history=block.get("history") or {},
        timeout_ns=block.get("timeout"),
    )


def _check_arrival(block: CheckedBlock, report: ProblemReport) -> None:
    if block.has("tolerance"):
        report.error(
            block.keys["tolerance"],
            "with `by: arrival` no timestamps are compared, so there is no tolerance",
            "leave out `tolerance`, or write `by: timestamp`",
        )
    if block.get("policy") in ("nearest", "exact"):
        report.error(
            block.place("policy"),
            f"with `by: arrival` no timestamps are compared, so nothing is `{block.get('policy')}`",
            "write `policy: latest`, or `by: timestamp`",
        )
    if block.has("timeout"):
        report.error(
            block.keys["timeout"],
            "with `by: arrival` a set is given when its leading message arrives, so nothing waits",
            "leave out `timeout`, or write `by: timestamp`",
        )


def _check_input(
    input_id: str,
    block: CheckedBlock,
    names: set[str],
    seen: dict[str, TextSpan],
    report: ProblemReport,
    owner: str,
) -> None:
    at = block.place("inputs", input_id)
    if input_id not in names:
        known = f"its inputs are {listed(sorted(names))}" if names else "it has none"
        report.error(
            at,
            f"{owner} has no input `{input_id}` that `sync` could match",
            report.did_you_mean(input_id, names) or known,
        )
    elif input_id in seen:
        report.error(
            at,
            f"the input `{input_id}` of {owner} is in two groups of `sync`; the first is on line "
            f"{seen[input_id].line + 1}",
            "leave it out of one of them; another input with the same source can be in the other group",
        )
    seen.setdefault(input_id, at)


def _check_queue(
    input_id: str, block: CheckedBlock, group: SyncGroup, known: InputSpec | None, report: ProblemReport
) -> None:
    if known is not None and known.queue_policy == "latest" and group.policy != "latest":
        report.warn(
            block.place("inputs", input_id),
            f"the queue of `{input_id}` keeps the latest message only, so one that matches is often lost",
            f"leave out `queue_policy: latest` of `{input_id}`, or write `policy: latest` into the group",
        )


def _check_history(
    input_id: str,
    frames: int,
    block: CheckedBlock,
    group: SyncGroup,
    known: InputSpec | None,
    report: ProblemReport,
) -> None:
    if input_id not in group.inputs:
        report.error(
            block.place("history", input_id, of_key=True),
            f"`history` names `{input_id}`, which is no input of this group",
            report.did_you_mean(input_id, group.inputs) or f"its inputs are {listed(group.inputs)}",
        )
    elif known is not None and frames + 1 > known.queue_size:
        report.error(
            block.place("history", input_id),
            f"this history has {frames + 1} messages, but the queue of `{input_id}` holds "
            f"{known.queue_size}",
            f"write `{input_id}: {{source: {known.source}, queue_size: {frames + 1}}}`, or more",
        )


def _check_timestamps(
    block: CheckedBlock, group: SyncGroup, known: Mapping[str, InputSpec], report: ProblemReport
) -> None:
    for input_id in group.inputs:
        item = known.get(input_id)
        if group.by == "timestamp" and item is not None and isinstance(item.source, LogSource):
            report.error(
                block.place("inputs", input_id),
                f"`{input_id}` has log entries, which carry no timestamp of a source to compare",
                "leave it out, or write `by: arrival` without a tolerance",
            )


def _origins(
    source: Any, nodes: Mapping[str, NodeSpec], known: dict[str, frozenset[str]]
) -> frozenset[str]:
    """Return the nodes from which messages of a source can come, itself included."""
    if isinstance(source, TimerSource):
        return frozenset({str(source)})  # each input has ticks of its own, with times of their own
    if not isinstance(source, NodeOutput):
        return frozenset()
    if source.node not in known:
        found: set[str] = set()
        pending = [source.node]
        while pending:
            name = pending.pop()
            if name not in found and name in nodes:
                found.add(name)
                pending += [
                    item.source.node for item in nodes[name].inputs if isinstance(item.source, NodeOutput)
                ]
        known[source.node] = frozenset(found)
    return known[source.node]


def described(group: SyncGroup) -> str:
    """Return how a group matches, in a few words.

    >>> described(SyncGroup(("left", "right"), tolerance_ns=5_000_000))
    'nearest within 5ms'
    >>> described(SyncGroup(("left", "right"), policy="exact")), described(
    ...     SyncGroup(("left", "right"), policy="latest", by="arrival", tolerance_ns=None))
    ('exact', 'latest by arrival')
    """
    words: str = group.policy
    if group.by == "arrival":
        words += " by arrival"
    elif group.tolerance_ns:
        words += f" within {duration_text(group.tolerance_ns)}"
    return words
