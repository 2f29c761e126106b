"""The part of a dataflow that runs on other machines, in the same words as the part that is seen here.

The daemons there say how much has been sent and received so far; rates follow from two such surveys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dora.wire.survey import NodeSurvey, Survey


class Elsewhere:
    """Makes figures of the surveys of one dataflow, which come one after the other."""

    def __init__(self, placed: Mapping[str, str]) -> None:
        """``placed`` says on which machine each node is; of others it is the one that tells of them."""
        self._placed = placed
        self._before: dict[str, float] = {}
        self._now: dict[str, float] = {}
        self._then = 0.0
        self._seconds = 0.0

    def figures(self, surveys: Mapping[str, Survey], now: float) -> dict[str, Any]:
        """Return nodes and links as the page reads them. ``surveys`` are by machine, ``now`` in seconds."""
        self._before, self._now = self._now, {}
        self._seconds, self._then = now - self._then if self._before else 0.0, now
        nodes = []
        links = []
        for machine, survey in surveys.items():
            nodes += [
                self._node(machine, node, survey)
                for node in survey.nodes
                if self._is_on(node.node, machine)
            ]
            for link in survey.links:
                if self._is_on(link.input.partition("/")[0], machine):
                    name = f"{link.source} {link.input}"
                    links.append(
                        {
                            "source": link.source,
                            "target": link.input,
                            "hz": self._rate(f"taken {name}", link.received),
                            "bytes_per_second": None,
                            "waiting": None,
                            "dropped": link.dropped,
                            "dropping_hz": self._rate(f"dropped {name}", link.dropped),
                            "latency": None,
                        }
                    )
        return {"nodes": nodes, "links": links}

    def _is_on(self, node: str, machine: str) -> bool:
        return self._placed.get(node, machine) == machine

    def _node(self, machine: str, node: NodeSurvey, survey: Survey) -> dict[str, Any]:
        sent = [output for output in survey.outputs if output.node == node.node]
        taken = [link for link in survey.links if link.input.partition("/")[0] == node.node]
        lives = node.memory > 0
        return {
            "id": node.node,
            "status": node.status,
            "machine": machine,
            "pid": None,
            "restarts": node.restarts,
            "cpu": 100 * self._rate(f"cpu {node.node}", node.cpu_seconds) if lives else None,
            "memory": node.memory if lives else None,
            "sent_hz": self._rate(f"sent {node.node}", sum(output.messages for output in sent)),
            "bytes_per_second": self._rate(f"bytes {node.node}", sum(output.bytes for output in sent)),
            "waiting": sum(link.waiting for link in taken),
            "dropped": sum(link.dropped for link in taken),
            "quiet": None,
            "outputs": [],
        }

    def _rate(self, name: str, total: float) -> float:
        """Return how much has come a second since the last time; a total that fell began anew."""
        self._now[name] = total
        before = self._before.get(name)
        if before is None or total < before or self._seconds <= 0:
            return 0.0
        return (total - before) / self._seconds
