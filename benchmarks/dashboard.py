"""Measure how soon the dashboard is drawn, and its idle cost: ``python -m benchmarks.dashboard``.

The dashboard of a run of ten nodes, over loopback. A new browser without a cache opens it several times.
The time is the browser's own, from the click on a link to the first thing drawn.
Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY, ours
from benchmarks.runner import DATAFLOWS
from benchmarks.statistics import median

MARKERS = ("<!-- dashboard -->", "<!-- /dashboard -->")
PAINT_MS = 1000.0
IDLE_PERCENT = 5.0
IDLE_S = 5.0
PATIENCE_S = 20.0
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 if a goal was missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dashboard",
        description="How soon the dashboard is there, and what it takes while nobody looks.",
    )
    parser.add_argument("--repeat", type=int, default=10, metavar="N", help="visits [10]")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    with _served() as (address, process):
        paints = _paints(address, options.repeat)
        time.sleep(PATIENCE_S / 4)  # until the process that watched for the browser has ended
        idle = _idle_percent(process)
    rows = [
        _row("first paint, empty cache", median(paints), PAINT_MS, "ms", min(paints), max(paints)),
        _row("a processor's time with nobody connected", idle, IDLE_PERCENT, "%"),
    ]
    known = conditions("benchmarks.dashboard", started, options.repeat)
    head = "\n".join([*short(known), ""])
    table = report.aligned(["measure", "goal", "median", "lowest–highest"], rows)
    print(table)
    if options.write_docs:
        report.write_between(REPOSITORY / "docs" / "performance.md", MARKERS, f"{head}\n{table}")
    return 0 if median(paints) < PAINT_MS and idle < IDLE_PERCENT else 1


def _row(name: str, value: float, goal: float, unit: str, *ends: float) -> list[str]:
    outcome = "✓" if value < goal else "✗"
    shown = "–".join(map(report.number, ends))
    return [
        name,
        f"{goal:,.0f} {unit} {outcome}",
        f"{report.number(value)} {unit}",
        shown and f"{shown} {unit}",
    ]


def _paints(address: str, visits: int) -> list[float]:
    """Return the milliseconds until something was drawn, of each visit."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        raise SystemExit("error: there is no Chromium here (Debian: apt install chromium)")
    options: list[str] = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    found = []
    with sync_playwright() as engine:
        browser: Any = engine.chromium.launch(executable_path=program, args=options)
        for _ in range(visits):
            context = browser.new_context()
            page = context.new_page()
            page.goto(address)
            page.wait_for_selector("body.ready")
            paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            found.append(float(page.evaluate(paint)))
            context.close()
        browser.close()
    return found


def _idle_percent(process: psutil.Process) -> float:
    """Return the part of one processor that the dashboard and what it started take."""

    def used() -> float:
        every = [process, *process.children(recursive=True)]
        return sum(times.user + times.system for times in (one.cpu_times() for one in every))

    before, begun = used(), time.monotonic()
    time.sleep(IDLE_S)
    return (used() - before) / (time.monotonic() - begun) * 100


@contextmanager
def _served() -> Iterator[tuple[str, psutil.Process]]:
    """Run ten nodes with a dashboard; yield its address and its process."""
    with tempfile.TemporaryDirectory(prefix="dora-dashboard-") as name:
        folder = Path(name)
        shutil.copytree(DATAFLOWS / "idle", folder / "dataflow")
        environment = {
            **ours().environment(),
            "DORA_RUNTIME_DIR": str(folder / "run"),
            "BENCHMARK_RESULTS": str(folder),
        }
        process = subprocess.Popen(
            [*ours().command, "run", "--ui", "dataflow.yml"],
            cwd=folder / "dataflow",
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            address = re.search(r"http://\S+", process.stderr.readline())
            if address is None:
                raise SystemExit("error: the dashboard did not start")
            yield address[0], _dashboard(psutil.Process(process.pid))
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE_S)


def _dashboard(run: psutil.Process) -> psutil.Process:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for child in run.children(recursive=True):
            if "dora.cluster.dashboard.local" in child.cmdline():
                return child
        time.sleep(0.1)
    raise SystemExit("error: the dashboard did not start")


if __name__ == "__main__":
    sys.exit(main())
