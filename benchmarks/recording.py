"""Measure the highest rate that is recorded without a loss: ``python -m benchmarks.recording``.

A sender sends at an even rate for some seconds, and everything is recorded into a file in memory (a
tmpfs), so that no disk is measured. The highest rate of a list at which no message is missing is found by
halving, with one run of each, and has to hold in further runs; if it does not, the next lower one is tried.
The same stream is given to the published node dora-parquet-recorder, whose wheel is downloaded for that.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.conditions import conditions, short
from benchmarks.implementations import REPOSITORY, ours
from benchmarks.runner import DATAFLOWS, NOT_A_USERS
from benchmarks.statistics import median

MARKERS = ("<!-- recording -->", "<!-- /recording -->")
PARQUET = "dora-parquet-recorder==0.5.0"
PLACE = "/dev/shm"
TOGETHER, WITH_NODE = "recorded.yml", "with_parquet.yml"
PATIENCE_S = 120.0
KEPT_UP = 0.9  # of the rate; a sender that is slower has another rate


@dataclass(frozen=True)
class Stream:
    """Messages of one size, and the rates that are tried."""

    title: str
    size: int
    rates: tuple[int, ...]
    in_megabytes: bool

    def rate(self, messages: float) -> str:
        if self.in_megabytes:
            return f"{report.number(messages * self.size / 1e6)} MB/s"
        return f"{report.number(messages)} messages/s"


MIB = 1 << 20
STREAMS = (
    Stream("1 MiB", MIB, (100, 200, 300, 400, 500, 600, 800, 1000, 1200, 1500), in_megabytes=True),
    Stream("64 B", 64, (1_000, 2_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000), in_megabytes=False),
)


@dataclass(frozen=True)
class Recorder:
    """A way to record; ``options`` are those of `dora record`, None means the node."""

    name: str
    options: tuple[str, ...] | None


RECORDERS = (
    Recorder("`dora record --compression none`", ("--compression", "none")),
    Recorder("`dora record` (zstd)", ("--compression", "zstd")),
    Recorder("dora-parquet-recorder", None),
)


@dataclass(frozen=True)
class Result:
    """One run. ``cpu_s`` is that of all processes, ``size`` that of the file in bytes."""

    sent: int
    seconds: float
    recorded: int
    size: int
    cpu_s: float

    @property
    def rate(self) -> float:
        return self.sent / self.seconds

    @property
    def lost(self) -> int:
        return self.sent - self.recorded


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recording", description="How much can be recorded without a loss."
    )
    parser.add_argument(
        "--only", metavar="TEXT", help="streams and recorders with this text in their names"
    )
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each rate (default: 3)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="SECONDS", help="length of a run (default: 5)"
    )
    parser.add_argument("--write-docs", action="store_true", help="publish in docs/performance.md")
    options = parser.parse_args(arguments)
    started = datetime.datetime.now(datetime.UTC)
    rows = []
    with tempfile.TemporaryDirectory(prefix="dora-recording-", dir=PLACE) as folder:
        wheel = _download(Path(folder, "wheel"))
        for stream in STREAMS:
            for recorder in RECORDERS:
                if options.only is None or options.only in f"{stream.title} {recorder.name}":
                    best = _climb(stream, recorder, options.repeat, options.seconds, Path(folder), wheel)
                    rows.append(_row(stream, recorder, best))
    if not rows:
        parser.error(f"nothing is called {options.only!r}")
    page = report.aligned(["messages", "recorder", "without a loss", "processors", "file"], rows)
    print(page)
    if options.write_docs:
        known = conditions("benchmarks.recording", started, options.repeat)
        head = short(known)
        text = "\n".join([*head, "", page])
        report.write_between(REPOSITORY / "docs" / "performance.md", MARKERS, text)
    return 0


def _climb(
    stream: Stream, recorder: Recorder, repeat: int, seconds: float, folder: Path, wheel: Path
) -> list[Result]:
    """Return the runs of the highest rate at which nothing was lost; none if there was always a loss."""
    found: dict[int, list[Result]] = {}  # place of the rate → its runs

    def holds(place: int, runs: int) -> bool:
        """Tell whether so many runs lose nothing, and their sender keeps to the rate."""
        results = found.setdefault(place, [])
        while len(results) < runs and _is_whole(results, stream.rates[place]):
            result = _run(stream, recorder, stream.rates[place], seconds, folder, wheel)
            results.append(result)
            print(
                f"{stream.title}, {recorder.name}: {stream.rate(result.rate)} of "
                f"{stream.rate(stream.rates[place])}, {result.lost:,} of {result.sent:,} lost, "
                f"{result.cpu_s / result.seconds:.2f} processors",
                file=sys.stderr,
                flush=True,
            )
        return _is_whole(results, stream.rates[place])

    low, high = 0, len(stream.rates)  # what is below `low` holds, what is from `high` on does not
    while low < high:
        middle = (low + high) // 2
        if holds(middle, 1):
            low = middle + 1
        else:
            high = middle
    for place in reversed(range(low)):
        if holds(place, repeat):
            return found[place]
    return []


def _is_whole(results: Sequence[Result], rate: int) -> bool:
    return all(not result.lost and result.rate >= KEPT_UP * rate for result in results)


def _row(stream: Stream, recorder: Recorder, results: Sequence[Result]) -> list[str]:
    if not results:
        return [stream.title, recorder.name, f"less than {stream.rate(stream.rates[0])}", "-", "-"]
    share = median([result.size / (result.sent * stream.size) for result in results])
    return [
        stream.title,
        recorder.name,
        stream.rate(median([result.rate for result in results])),
        f"{median([result.cpu_s / result.seconds for result in results]):.2f}",
        f"{share * 100:.0f} %",
    ]


# --------------------------------------------------------------------------- one run


def _run(
    stream: Stream, recorder: Recorder, rate: int, seconds: float, folder: Path, wheel: Path
) -> Result:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        copy = Path(place, "dataflow")
        shutil.copytree(DATAFLOWS / "recording", copy, ignore=shutil.ignore_patterns("__pycache__", "out"))
        file = Path(place, "recording.mcap")
        if recorder.options is None:
            arguments = ["run", WITH_NODE]
        else:
            arguments = ["record", TOGETHER, "-o", str(file), *recorder.options]
        environment = {
            **{key: value for key, value in ours().environment().items() if key not in NOT_A_USERS},
            "BENCHMARK_BYTES": str(stream.size),
            "BENCHMARK_RATE": str(rate),
            "BENCHMARK_SECONDS": str(seconds),
            "BENCHMARK_RESULTS": place,
            "PYTHONPATH": str(wheel),
            "LOG_DIR": place,
        }
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*ours().command, *arguments],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            stdin=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        sent_file = Path(place, "sender.json")
        if not sent_file.exists():
            raise SystemExit(
                f"error: {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )
        sent = json.loads(sent_file.read_text())
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if recorder.options is None:
            recorded, size = _parquet_rows(Path(place, "data.parquet"))
        else:
            recorded, size = _messages(file)
        return Result(sent["sent"], sent["seconds"], recorded, size, cpu_s)


def _messages(path: Path) -> tuple[int, int]:
    from mcap.reader import make_reader

    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None and summary.statistics is not None
    counts = summary.statistics.channel_message_counts
    outputs = [number for number, item in summary.channels.items() if item.topic == "sender/data"]
    return sum(counts.get(number, 0) for number in outputs), path.stat().st_size


def _parquet_rows(path: Path) -> tuple[int, int]:
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows, path.stat().st_size
    except (OSError, ValueError):
        return 0, 0


def _download(folder: Path) -> Path:
    """Unpack the node into a folder, without the packages that it asks for."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        PARQUET,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PIP_NO_INPUT": "1"})
    if done.returncode:
        raise SystemExit(f"error: {PARQUET} cannot be installed:\n{done.stderr[-500:]}")
    return folder


if __name__ == "__main__":
    sys.exit(main())
