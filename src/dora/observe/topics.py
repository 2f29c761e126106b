"""The topics of a running dataflow: its outputs, by the names that YAML gives them."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from dora.dataflow.model import DEFAULT_OPERATOR_ID
from dora.dataflow.problems import did_you_mean, listed
from dora.errors import DoraError
from dora.wire.daemon_protocol import Inspection, LinkView, OutputView


class Topic(msgspec.Struct, frozen=True):
    """One output and its links."""

    name: str  # "node/output"
    node_id: str
    output: OutputView
    links: tuple[LinkView, ...]

    @property
    def subscribers(self) -> list[str]:
        """The inputs that it feeds, as ``node/input``."""
        return [link.consumer for link in self.links]


def topics_of(inspection: Inspection) -> list[Topic]:
    """Return all topics, in the order of the dataflow file."""
    links: dict[str, list[LinkView]] = {}
    for link in inspection.links:
        links.setdefault(link.producer, []).append(link)
    return [
        Topic(name, node.id, output, tuple(links.get(name, ())))
        for node in inspection.nodes
        for output in node.outputs
        for name in (f"{node.id}/{output.id}",)
    ]


def node_of(names: Iterable[str]) -> str:
    """Return the node of the first of these topics, "" if there is none."""
    return next(iter(names), "").partition("/")[0]


def find_topics(inspection: Inspection, names: Iterable[str]) -> list[Topic]:
    """Return the topics of these names, each once; raises `DoraError` for one that is not there."""
    known = {topic.name: topic for topic in topics_of(inspection)}
    found: dict[str, Topic] = {}
    for given in names:
        # dora-rs names the output of a node's only operator with an id that nobody has written.
        name = given if given in known else given.replace(f"/{DEFAULT_OPERATOR_ID}/", "/", 1)
        if name not in known:
            raise DoraError(_missing(given, inspection, known))
        found[name] = known[name]
    return list(found.values())


def find_tappable(inspection: Inspection, names: Iterable[str]) -> list[Topic]:
    """Like `find_topics`, but only topics that can be tapped; all of them if ``names`` is empty."""
    wanted = list(names)
    if not wanted:
        found = [topic for topic in topics_of(inspection) if not topic.output.text]
        if not found:
            raise DoraError("no node of this dataflow has an output")
        return found
    found = find_topics(inspection, wanted)
    for topic in found:
        if topic.output.text:
            raise DoraError(
                f"`{topic.name}` carries lines of the log, which the daemon passes on: they are in the log "
                f"of node `{topic.node_id}`"
            )
    return found


def is_sent_here(inspection: Inspection, node_id: str) -> bool:
    """Return whether a node is on the machine of the daemon that was asked."""
    return all(node.machine == inspection.machine for node in inspection.nodes if node.id == node_id)


def _missing(name: str, inspection: Inspection, known: Iterable[str]) -> str:
    if name.startswith("dora/"):
        return f"`{name}` is generated inside each node that uses it, so it cannot be observed"
    outputs = [f"{name}/{item.id}" for node in inspection.nodes if node.id == name for item in node.outputs]
    if outputs:
        return f"`{name}` is a node; its outputs are {listed(outputs)}"
    topics = list(known)
    same = [topic for topic in topics if topic.endswith(f"/{name}")]
    hint = f"did you mean `{same[0]}`?" if len(same) == 1 else did_you_mean(name, topics)
    return f"this dataflow has no output `{name}`; {hint or '`dora topic list` shows them all'}"
