"""Snapshots follow a dataflow whose nodes and links come and go: `dora top`, `dora node` and the page."""

from __future__ import annotations

import pytest
from changing import SINK, SOURCE, Live
from flow import Flow
from waiting import wait_until

from dora.observe.networks import NetworkCounts
from dora.observe.rates import LinkCounts, Reading
from dora.observe.snapshot import RunSource, Snapshot, SnapshotSources


@pytest.mark.processes
@pytest.mark.parametrize("latency", [False, True], ids=["", "latency"])
def test_a_snapshot_has_what_was_added_and_not_what_was_removed(flow: Flow, latency: bool) -> None:
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("sink", SINK, inputs={"x": "source/out"})
    with (
        Live(flow) as live,
        SnapshotSources([live.run()], lambda run: RunSource(run, latency=latency)) as sources,
    ):

        def take() -> Snapshot:
            sources.watch(0.05)
            ((_, taken),) = sources.refresh()
            return taken

        def measured(link: str) -> bool:
            found = {rate.link.consumer: rate for rate in take().links}
            return found[link].hz > 0 and (found[link].latency_ms is not None) is latency

        wait_until(lambda: measured("sink/x"), "a rate of the link that was there")
        live.add("late", SINK, inputs={"z": "source/out"}, outputs=["more"])
        assert {item.node.id for item in take().nodes} == {"source", "sink", "late"}
        wait_until(lambda: measured("late/z"), "a rate of the added link")
        wait_until(lambda: measured("sink/x"), "a rate of the link that was there")
        live.remove("late")
        assert {item.node.id for item in take().nodes} == {"source", "sink"}
        wait_until(lambda: measured("sink/x"), "a rate of the link that is left")


def test_what_is_added_begins_with_the_counters_that_it_has_then() -> None:
    sent = [NetworkCounts("connected", {"packets": number}, {}) for number in range(3)]
    before = Reading(5, {0: (10, 100), 1: (3, 30)}, {2: LinkCounts(7, 1)}, {"desk": sent[0]})
    now = Reading(
        9,
        {0: (20, 200), 4: (2, 20)},
        {2: LinkCounts(9, 1), 3: LinkCounts(1, 0)},
        {"desk": sent[1], "arm": sent[2]},
    )
    assert before.with_slots_of(now) == Reading(
        5,
        {0: (10, 100), 4: (2, 20)},
        {2: LinkCounts(7, 1), 3: LinkCounts(1, 0)},
        {"desk": sent[0], "arm": sent[2]},
    )
