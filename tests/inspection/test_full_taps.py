"""A page taps what it can, and what comes later."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

import pytest
from waiting import TIMEOUT, wait_until
from watching import DORA, Running, dora

from dora.cli.select import find_run
from dora.observe.preview.snapshot_observer import SnapshotObserver
from dora.observe.queries import Preview, SnapshotQuery
from dora.observe.snapshot import Snapshot

pytestmark = pytest.mark.processes


@pytest.mark.slow
def test_other_outputs_are_shown_and_the_full_one_comes_back(running: Running) -> None:
    running()
    command = [*DORA, "topic", "echo", "camera/image"]
    commands = [running.popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for echo in commands:
        assert echo.stdout is not None
        echo.stdout.readline()
    query = SnapshotQuery(0.1, previews=("camera/image", "camera/spare"))
    observer = SnapshotObserver(find_run(None), lambda: query, enough=lambda: False)
    results = observer.results()

    previews: list[str] = []
    troubles: list[str] = []

    def come(condition: Callable[[], bool]) -> bool:
        """Take a turn's results; return whether the condition holds."""
        while (found := next(results)) is not None:
            if isinstance(found, Snapshot):
                troubles.append(found.trouble)
            elif isinstance(found, Preview):
                previews.append(found.topic)
        return condition()

    try:
        wait_until(lambda: come(lambda: "camera/spare" in previews), "a preview of the other output")
        wait_until(lambda: come(lambda: bool(troubles)), "a snapshot")
        assert "camera/image" not in previews
        assert troubles[-1].startswith("4 commands look at `camera/image` already")
        for echo in commands:
            echo.send_signal(signal.SIGINT)
            echo.communicate(timeout=TIMEOUT)
        wait_until(lambda: come(lambda: "camera/image" in previews), "a preview of what was full")
        wait_until(lambda: come(lambda: troubles[-1] == ""), "the end of the trouble")
    finally:
        results.close()


def test_a_link_that_is_added_later_has_a_latency(running: Running) -> None:
    running()
    query = SnapshotQuery(0.1, latency=True)
    observer = SnapshotObserver(find_run(None), lambda: query, enough=lambda: False)
    results = observer.results()
    measured: set[str] = set()

    def is_measured(consumer: str) -> bool:
        while (found := next(results)) is not None:
            if isinstance(found, Snapshot):
                measured.update(each.link.consumer for each in found.links if each.latency_ms is not None)
        return consumer in measured

    try:
        wait_until(lambda: is_measured("sink/image"), "the latency of a link")
        dora("node", "connect", "camera/spare", "sink/spare")
        wait_until(lambda: is_measured("sink/spare"), "the latency of the new link")
    finally:
        results.close()
