"""Names nodes that wait for each other's first message: nothing happens, and nothing else says why."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from dora.daemon.accounting import Accounting
from dora.daemon.event_loop import Loop
from dora.daemon.supervisor.state import RunState
from dora.dataflow.model import Dataflow, NodeOutput
from dora.dataflow.problems import listed

AFTER: Final = 5.0  # seconds in which all nodes run, and these neither send nor receive anything
_EVERY: Final = 1.0  # seconds


def watch_circles(
    dataflow: Dataflow,
    loop: Loop,
    state: RunState,
    accounting: Accounting,
    warn: Callable[[str], None],
) -> None:
    """Look at the circles of a dataflow now, and again until each of them has sent something."""
    nodes = state.nodes
    elsewhere = {node.id for node in nodes.values() if node.machine}
    left = circles({node: None if node in elsewhere else fed for node, fed in inputs_of(dataflow).items()})
    since: dict[str, float] = {}  # first node of a circle → since when all of it waits

    def waits(node_id: str) -> bool:
        return node_id in nodes and nodes[node_id].present and accounting.activity(node_id)[0]

    def has_begun(node_id: str) -> bool:
        """Return whether a node has sent something, or has gone."""
        has_gone = node_id not in nodes or nodes[node_id].phase == "ended"
        return has_gone or any(accounting.activity(node_id)[1])

    def look() -> None:
        now = time.monotonic()
        for circle in left.copy():
            if any(map(has_begun, circle)):
                left.remove(circle)
            elif not all(map(waits, circle)):
                since[circle[0]] = now
            elif now - since.setdefault(circle[0], now) >= AFTER:
                warn(_sentence(circle))
                left.remove(circle)
        if left:
            loop.call_at(now + _EVERY, look)

    look()


def inputs_of(dataflow: Dataflow) -> dict[str, set[str] | None]:
    """Return the nodes that feed each node; None for one that may send by itself.

    Those are sources, nodes with timers or log inputs, and dynamic nodes.
    """
    found: dict[str, set[str] | None] = {}
    for node in dataflow.nodes:
        sources = [item.source for item in node.inputs]
        waits = sources and not (node.is_dynamic or node.is_shell)
        feeding = {source.node for source in sources if isinstance(source, NodeOutput)}
        only_nodes = all(isinstance(source, NodeOutput) for source in sources)
        found[node.id] = feeding if waits and only_nodes else None
    return found


def circles(inputs: Mapping[str, set[str] | None]) -> list[list[str]]:
    """Return the groups of nodes that can only be woken by each other, in the order of the mapping.

    >>> circles({"a": {"b"}, "b": {"a"}, "c": {"b"}})
    [['a', 'b']]
    >>> circles({"a": {"b"}, "b": {"a", "clock"}, "clock": None})
    []
    """
    fed: dict[str, list[str]] = {}
    for node, feeding in inputs.items():
        for source in feeding or ():
            fed.setdefault(source, []).append(node)
    woken: set[str] = set()
    left = [node for node, feeding in inputs.items() if feeding is None]
    while left:
        new = [node for node in fed.get(left.pop(), ()) if node not in woken]
        woken.update(new)
        left += new
    waiting = {node: feeding for node, feeding in inputs.items() if feeding and node not in woken}
    found: list[list[str]] = []
    above = {node: _above(node, waiting) for node in waiting}
    for node in waiting:
        circle = [other for other in waiting if other in above[node] and node in above[other]]
        # A circle above this one would be the reason for both.
        if len(circle) > 1 and circle not in found and above[node] == set(circle):
            found.append(circle)
    return found


def _above(node: str, feeding: Mapping[str, set[str]]) -> set[str]:
    """Return the nodes that a node gets messages of, directly or through others."""
    found: set[str] = set()
    left = [node]
    while left:
        new = feeding[left.pop()] - found
        found |= new
        left += new
    return found


def _sentence(circle: list[str]) -> str:
    names = listed(circle)
    return (
        f"{names} wait for each other's first message: their inputs come from each other only, "
        "and none of them has sent anything; one has to send first, before its loop or at a timer"
    )
