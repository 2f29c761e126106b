"""Options of timers in virtual time."""

from __future__ import annotations

import time

import pytest

from dora import Node
from dora.testing import run_node


def busy(node: Node) -> None:
    """Be busy for 350 ms at the first tick; report when ticks come, and how many were missed."""
    start = time.monotonic()
    for event in node:
        if event["type"] != "INPUT":
            break
        missed = event["metadata"].get("missed_ticks", 0)
        print(round((time.monotonic() - start) * 1000), missed)
        if node.statistics()["timers"]["tick"]["ticks"] == 1:
            time.sleep(0.35)


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, ["0 0", "350 0", "400 0", "500 0"]),
        ({"missed_ticks": "coalesce"}, ["0 0", "350 2", "400 0", "500 0"]),
        ({"missed_ticks": "burst"}, ["0 0", "350 0", "350 0", "350 0", "400 0", "500 0"]),
        ({"missed_ticks": "burst", "queue_size": 2}, ["0 0", "350 0", "350 0", "400 0", "500 0"]),
        ({"phase": "20ms"}, ["20 0", "370 0", "420 0", "520 0"]),
    ],
)
def test_missed_ticks_are_as_the_input_says(options: dict[str, object], seen: list[str]) -> None:
    run = run_node(busy, timers={"tick": "dora/timer/10hz"}, options={"tick": options}, stop_after=0.55)
    assert run.lines == seen
