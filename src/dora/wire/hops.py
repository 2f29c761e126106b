"""The hops of a path: where the time of a message went.

A hop is the way to a node, from the moment of sending to the moment at which the node takes the message, or
the work of a node, from there to the moment at which it sends. Times are arguments, so this is pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from msgspec import structs

from dora.wire.node_config import BudgetConfig
from dora.wire.path_statistics import PathLatency, Record
from dora.wire.trail import DataOrigin, Hop, origin_id

_WAY = 1 << 32  # in a word: the way from the output, and not the work that ended with it


class HopTime(NamedTuple):
    """One hop: the way of what an output has sent, or the work until it sent."""

    output: int  # see `dora.wire.trail.origin_id`
    is_way: bool
    time_ns: int

    @property
    def word(self) -> int:
        """The hop as one number, without its time."""
        return self.output | (_WAY if self.is_way else 0)


class HopFinder:
    """Finds the hops of the messages of one path."""

    def __init__(self, budget: BudgetConfig) -> None:
        self._source = origin_id(budget.source)
        self._last = budget.hops[-1].output
        self._fed_by = {hop.output: hop.fed_by for hop in budget.hops}

    def begun_ns(self, origins: Sequence[DataOrigin], hops: Sequence[Hop]) -> int | None:
        """Return when the data was made, the oldest if there is several; None if it is not of this path."""
        times = [origin.oldest_ns for origin in origins if origin.output == self._source]
        times += (hop.sent_ns for hop in hops if hop.output == self._source)
        return min(times, default=None)

    def find(self, begun_ns: int, hops: Sequence[Hop], taken_ns: int) -> list[HopTime]:
        """Return the hops of the message that was taken at this time, the last one first.

        Where a node gets data on several ways, the one counts on which it came last.
        """
        found: list[HopTime] = []
        output, until = self._last, taken_ns
        seen: set[int] = set()
        while output != self._source and output not in seen:
            seen.add(output)
            hop = _last_before(hops, output, until)
            if hop is None:
                break
            found.append(HopTime(output, True, until - hop.sent_ns))
            found.append(HopTime(output, False, hop.sent_ns - hop.taken_ns))
            until = hop.taken_ns
            output = max(self._fed_by[output], key=self._sent(hops, until, begun_ns), default=self._source)
        found.append(HopTime(output, True, until - begun_ns))
        return found

    def _sent(self, hops: Sequence[Hop], until: int, begun_ns: int) -> Callable[[int], int]:
        def sent(output: int) -> int:
            hop = _last_before(hops, output, until)
            if hop is not None:
                return hop.sent_ns
            return begun_ns if output == self._source else -1

        return sent


def _last_before(hops: Sequence[Hop], output: int, until: int) -> Hop | None:
    return max(
        (hop for hop in hops if hop.output == output and hop.sent_ns <= until),
        key=lambda hop: hop.sent_ns,
        default=None,
    )


def hop_text(word: int, name_of: Callable[[int], str]) -> str:
    """Return a hop in words; ``name_of`` returns the name "node/output" of an output by its number.

    >>> hop_text(5, {5: "detector/boxes"}.__getitem__)
    'the work of `detector` until it sent `boxes`'
    """
    name = name_of(word & 0xFFFF_FFFF)
    node, _, output = name.partition("/")
    if word & _WAY:
        return f"the way from `{name}` to its receiver"
    return f"the work of `{node}` until it sent `{output}`"


def named(record: Record, source: str, sink: str, names: Mapping[int, str]) -> PathLatency:
    """Return the latency of a path with names. ``names``: of all outputs, by number."""
    latency = record.latency(source, sink)
    if record.slowest_hop & 0xFFFF_FFFF not in names:  # 0: no message was late
        return latency
    return structs.replace(latency, slowest_hop=hop_text(record.slowest_hop, names.__getitem__))
