"""The layer of an input at which paths with budgets end: it checks how long the data took."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dora.node.events import BudgetMissed, Event, Input
from dora.node.receive.input_port import InputPort, WrappingInput
from dora.node.receive.path_meter import PathMeter
from dora.wire.hops import HopFinder, hop_text
from dora.wire.message import ORIGIN_NS, Header
from dora.wire.node_config import BudgetConfig, InputConfig
from dora.wire.path_statistics import path_number
from dora.wire.trail import hops_of, origin_id, origins_of, output_of

_now = time.time_ns

OnMiss = Callable[[str, BudgetMissed], None]
"""Acts on a late message: gets the path's ``on_miss`` and the event, before the message is given out."""


class BudgetInput(WrappingInput):
    """Calls ``on_miss`` for late messages; gives out `BudgetMissed` before them if the path asks for it."""

    layer = "budget"

    def __init__(
        self,
        port: InputPort,
        item: InputConfig,
        meter: PathMeter,
        on_miss: OnMiss,
    ) -> None:
        super().__init__(port)
        self._paths = [_Path(budget, item.slot, meter) for budget in item.budgets]
        self._on_miss = on_miss

    def poll(self) -> Event | None:
        if self._next:
            return self._next.popleft()
        event = self._port.poll()
        if not isinstance(event, Input):
            return event
        content: Any = event._content
        if content.header is None:
            return event
        now, header, trail = _now(), content.header, content.trail
        for path in self._paths:
            miss = path.check(self.id, header, trail, now)
            if miss is not None:
                self._on_miss(path.on_miss, miss)
                if path.on_miss in ("event", "safe_state"):
                    miss.on_miss = path.on_miss
                    self._next.append(miss)
        if not self._next:
            return event
        self._next.append(event)
        return self._next.popleft()


class _Path:
    """One path that ends at an input."""

    def __init__(self, budget: BudgetConfig, slot: int, meter: PathMeter) -> None:
        self.on_miss = budget.on_miss
        self._budget = budget
        self._meter = meter
        self._finder = HopFinder(budget)
        self._names = {hop.output: hop.name for hop in budget.hops}
        self._source = origin_id(budget.source)
        self._path = path_number(self._source, slot)
        self._misses = 0  # in a row
        self._is_counted = False  # its budget is among the records

    def check(self, input_id: str, header: Header, trail: bytes, now_ns: int) -> BudgetMissed | None:
        """Return the event for a message that is late; None for another one."""
        budget = self._budget
        if output_of(header) == self._source and now_ns - header[ORIGIN_NS] <= budget.budget_ns:
            # Most messages: the oldest origin is the one that counts, and nobody wants to know the hops.
            if not self._is_counted:
                self._is_counted = True
                self._meter.note_budget(self._path, budget.budget_ns)
            self._misses = 0
            return None
        origins, hops = origins_of(header, trail), hops_of(header, trail)
        begun_ns = self._finder.begun_ns(origins, hops)
        if begun_ns is None:
            return None  # it follows from other data
        latency = now_ns - begun_ns
        if all(origin.output != self._source for origin in origins):
            self._meter.add(self._path, latency)  # else the port has sampled it
        if latency <= budget.budget_ns:
            self._misses = 0
            self._meter.note_budget(self._path, budget.budget_ns)
            return None
        self._misses += 1
        slowest = max(self._finder.find(begun_ns, hops, now_ns), key=lambda hop: hop.time_ns)
        self._meter.note_budget(self._path, budget.budget_ns, slowest.word)
        if self._misses < budget.after:
            return None
        return BudgetMissed(
            id=input_id,
            source=budget.source,
            budget=budget.budget_ns / 1e9,
            latency=latency / 1e9,
            late=(latency - budget.budget_ns) / 1e9,
            misses=self._misses,
            slowest_hop=hop_text(slowest.word, self._names.__getitem__),
            slowest_hop_seconds=slowest.time_ns / 1e9,
        )


def warning(miss: BudgetMissed, sink: str) -> str:
    """Return the entry of the log about a late message; ``sink``: "node/input"."""
    return (
        f"the data from `{miss['source']}` to `{sink}` took {miss['latency'] * 1e3:.1f} ms, and its budget "
        f"is {miss['budget'] * 1e3:g} ms; most of it, {miss['slowest_hop_seconds'] * 1e3:.1f} ms, was "
        f"{miss['slowest_hop']}"
    )
