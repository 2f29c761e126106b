"""Run dataflows made at random, and turn the logs of their nodes into observations.

Compared are the exit status of `dora run`, what each process starts with, and of each node: the messages of
each input and path, in their order; the inputs that closed, the reasons of STOP, the failures that are
reported, and that the events end. A path is the way of a message through the nodes, since no order is
promised between two senders. Where messages may be lost, because the queue is small or a sender goes on
until another node is done, only their order is compared, and whether the newest message arrives.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.compatibility.generator import Dataflow
from benchmarks.compatibility.observations import NOTHING, Difference
from benchmarks.compatibility.runs import Place, place
from benchmarks.runner import Implementation

PROGRAMS = Path(__file__).parent / "random_nodes"
FEWER_UPSTREAM, FEWER_HERE = " (fewer with dora-rs)", " (fewer here)"
LIMIT_S = 90.0
Record = Mapping[str, Any]


def observe(dataflow: Dataflow, side: Implementation) -> dict[str, Any]:
    """Run the dataflow under one implementation; return its observations."""
    with place(side) as where:
        records = where.folder / "records"
        records.mkdir()
        write(dataflow, where)
        done = where.run("run", "dataflow.yml", limit=LIMIT_S, environment={"RECORDS": str(records)})
        logs: dict[str, list[Record]] = defaultdict(list)
        for file in sorted(records.glob("*.jsonl")):
            lines = file.read_text().splitlines()
            logs[file.stem.partition("~")[0]] += [json.loads(line) for line in lines]
    found = observations(dataflow, logs)
    found[f"dataflows/{dataflow.seed}/exit status"] = (
        "it did not end" if done.status is None else done.status
    )
    return found


def write(dataflow: Dataflow, where: Place) -> None:
    """Write the dataflow, its modules and the programs of its nodes into the folder."""
    for name, document in {"dataflow.yml": dataflow.document, **dataflow.files}.items():
        where.write(name, yaml.safe_dump(document, sort_keys=False))
    for program in PROGRAMS.glob("*.py"):
        where.write(program.name, program.read_text())


def observations(dataflow: Dataflow, logs: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Return the observations in the logs of the nodes, which are by the node's name. Pure."""
    sent: dict[str, list[int]] = defaultdict(list)
    for records in logs.values():
        for record in records:
            if record["what"] == "sent":
                sent[record["path"]].append(record["number"])
    found: dict[str, Any] = {f"dataflows/{dataflow.seed}/nodes": sorted(logs)}
    for node, records in logs.items():
        kind = "operator" if node in dataflow.operators else "node"
        for aspect, value in _node(dataflow, node, records, sent).items():
            found[f"dataflows/{dataflow.seed}/{kind} {node}/{aspect}"] = value
    return found


def directed(difference: Difference) -> Difference:
    """Name the side that has less, where one list is a part of the other: fewer messages, fewer events."""
    try:
        upstream, ours = (
            [] if value == NOTHING else json.loads(value)
            for value in (difference.upstream, difference.ours)
        )
    except ValueError:
        return difference
    if not (isinstance(upstream, list) and isinstance(ours, list)):
        return difference
    if in_order(upstream, ours):
        return Difference(difference.where + FEWER_UPSTREAM, difference.upstream, difference.ours)
    if in_order(ours, upstream):
        return Difference(difference.where + FEWER_HERE, difference.upstream, difference.ours)
    return difference


def in_order(part: Sequence[Any], whole: Sequence[Any]) -> bool:
    """Return whether `part` has only items of `whole`, each once and in its order."""
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)


def _node(
    dataflow: Dataflow, node: str, records: Sequence[Record], sent: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    of_kind: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        of_kind[record["what"]].append(record)
    found: dict[str, Any] = {
        "processes": [{k: v for k, v in start.items() if k != "what"} for start in of_kind["start"]],
        "ends": len(of_kind["end"]),
    }
    messages: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in of_kind["input"]:
        messages[record["id"], record["path"]].append(record)
    for (identifier, path), received in messages.items():
        numbers = [record["number"] for record in received]
        if (node, identifier) not in dataflow.lossy:
            content = [[record["number"], record["value"], record["metadata"]] for record in received]
            found[f"messages {identifier} {path}"] = content
        elif path in sent:
            found[f"in order {identifier} {path}"] = in_order(numbers, sent[path])
            if node not in dataflow.leaves:
                # As a list, so that a difference tells which side lacks it.
                found[f"newest {identifier} {path}"] = ["arrives"] if numbers[-1] == sent[path][-1] else []
    for tick in of_kind["tick"]:
        found["ticks"] = {"type": tick["type"], "metadata": tick["metadata"]}
    if node not in dataflow.leaves:
        found["closed"] = sorted({record["id"] for record in of_kind["input_closed"]})
        found["stop"] = sorted(record["id"] for record in of_kind["stop"])
        found["failed"] = sorted([record["id"], record["inputs"]] for record in of_kind["failed"])
        found["errors"] = [record["text"] for record in of_kind["error"]]
    return found
