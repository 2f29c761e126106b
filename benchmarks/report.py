"""Show results: as a table, as JSON, and on the pages that publish them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measures import Measure
from benchmarks.statistics import Figure, Spread, paired_ratio

RESULTS_MARKERS = ("<!-- results -->", "<!-- /results -->")
README_MARKERS = ("<!-- benchmark -->", "<!-- /benchmark -->")
NONE: Mapping[str, Sequence[Figure]] = {}
README_MEASURES = (
    "round-trip-8b",
    "round-trip-64kib",
    "round-trip-1mib",
    "round-trip-40mib",
    "throughput-drop-oldest-8b",
    "throughput-drop-oldest-4mib",
    "chain",
    "start-to-end",
    "idle-cpu",
    "idle-memory",
    "idle-memory-with-arrow",
)


@dataclass(frozen=True)
class Result:
    """One measure with the spreads of both sides; None where one did not run or failed (see `failures`)."""

    measure: Measure
    upstream: Spread | None
    ours: Spread | None
    times_better: float | None = None  # None: a side is missing
    failures: tuple[str, ...] = ()
    rclpy: Spread | None = None
    times_better_than_rclpy: float | None = None

    @property
    def reached(self) -> bool | None:
        """Return whether the goal is reached; None when there is no goal or nothing to compare."""
        if self.times_better is None or self.measure.at_least is None or self.ours is None:
            return None
        if self.measure.lossless and self.ours.lost:
            return False
        return self.times_better >= self.measure.at_least


Figures = Mapping[str, Sequence[Figure]]


def collect(
    measures: Sequence[Measure],
    upstream: Mapping[str, Sequence[Figure]],
    ours: Mapping[str, Sequence[Figure]],
    failures: Mapping[str, Sequence[str]],
    rclpy: Mapping[str, Sequence[Figure]] = NONE,
) -> list[Result]:
    """Join the figures of all sides, by measure name, into results in the order of `measures`."""
    results = []
    for measure in measures:
        theirs = ours.get(measure.against, ()) if measure.against else upstream.get(measure.name, ())
        own = ours.get(measure.name, ())
        ros = rclpy.get(measure.name, ())
        results.append(
            Result(
                measure,
                Spread.over(theirs) if theirs else None,
                Spread.over(own) if own else None,
                _times_better(measure, own, theirs),
                tuple(failures.get(measure.name, ())),
                Spread.over(ros) if ros else None,
                _times_better(measure, own, ros),
            )
        )
    return results


def _times_better(measure: Measure, own: Sequence[Figure], theirs: Sequence[Figure]) -> float | None:
    larger, smaller = (own, theirs) if measure.higher_is_better else (theirs, own)
    return paired_ratio(larger, smaller)


def table(results: Sequence[Result]) -> str:
    """Return a Markdown table, aligned so that it reads well in a terminal too.

    It has columns for rclpy if that has run.
    """
    has_rclpy = any(result.rclpy for result in results)
    header = [
        "measure",
        "dora-rs 1.1.0",
        *(["rclpy"] if has_rclpy else []),
        "this dora",
        "times better",
        "goal",
        *(["times better than rclpy"] if has_rclpy else []),
        "lost: dora-rs",
        *(["lost: rclpy"] if has_rclpy else []),
        "lost: this dora",
    ]
    return aligned(header, [_row(result, has_rclpy) for result in results])


def short_table(results: Sequence[Result], conditions: Mapping[str, str]) -> str:
    """Return the medians and losses of the measures that the README shows, with where they come from."""
    header = ["median", "dora-rs 1.1.0", "this dora", "times better", "lost: dora-rs", "lost: this dora"]
    shown = [result for result in results if result.measure.name in README_MEASURES]
    rows = [
        [
            result.measure.title,
            _median(result.upstream, result.measure.unit),
            _median(result.ours, result.measure.unit),
            _times(result.times_better),
            _lost(result.upstream),
            _lost(result.ours),
        ]
        for result in shown
    ]
    origin = "`{command}` on {machine}; {Python}; {date}.".format_map(conditions)
    return f"{aligned(header, rows)}\n\n{origin}"


def floor_table(floors: Mapping[str, Figure]) -> str:
    """Return the floors (µs) as a Markdown table."""
    rows = [
        [title, f"{number(floor.value)} µs", f"{number(floor.tail or 0)} µs"]
        for title, floor in floors.items()
    ]
    return aligned(["floor, without any framework", "median", "99th percentile"], rows)


def network_floor_table(
    measures: Sequence[Measure],
    floors: Mapping[str, Mapping[str, Sequence[Figure]]],
    ours: Mapping[str, Sequence[Figure]],
    goal: tuple[str, float],
) -> str:
    """Return what `ours` costs compared with bare transports, as a Markdown table.

    `floors` and `ours` have figures by measure name. The cost is a ratio of times, or of reciprocal rates;
    `goal` is the name of a floor and the highest cost.
    """
    header = ["measure", *(f"bare {name}" for name in floors), "this dora"]
    header += [f"cost: bare {name} = 1" for name in floors]
    rows = []
    for measure in measures:
        own = ours.get(measure.name, ())
        sides = [floor.get(measure.name, ()) for floor in floors.values()]
        row = [measure.title]
        row += [_spread(Spread.over(side) if side else None, measure.unit) for side in (*sides, own)]
        for name, side in zip(floors, sides, strict=True):
            above, below = (side, own) if measure.higher_is_better else (own, side)
            cost = paired_ratio(above, below)
            outcome = ""
            if name == goal[0] and cost is not None:
                outcome = f" (at most {goal[1]}×) {'✓' if cost <= goal[1] else '✗'}"
            row.append(_times(cost) + outcome)
        rows.append(row)
    return aligned(header, rows)


def cost_table(measures: Sequence[Measure], before: tuple[str, Figures], after: tuple[str, Figures]) -> str:
    """Return how much longer something takes with a change than without, as a Markdown table.

    Each side is a name and its figures by the name of the measure.
    """
    rows = []
    for measure in measures:
        one, other = (figures.get(measure.name, ()) for _, figures in (before, after))
        row = [_spread(Spread.over(side) if side else None, measure.unit) for side in (one, other)]
        above, below = (one, other) if measure.higher_is_better else (other, one)
        rows.append([measure.title, *row, _times(paired_ratio(above, below))])
    return aligned(["measure", before[0], after[0], "times the cost"], rows)


def number(value: float) -> str:
    """Return three significant digits, whole above 100, with thousands separated."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def as_json(results: Sequence[Result], floors: Mapping[str, Figure], conditions: Mapping[str, str]) -> str:
    """Return everything that was found as a JSON document."""
    rows: list[dict[str, Any]] = [
        {
            **asdict(result.measure),
            "upstream": asdict(result.upstream) if result.upstream else None,
            "ours": asdict(result.ours) if result.ours else None,
            "times_better": result.times_better,
            "rclpy": asdict(result.rclpy) if result.rclpy else None,
            "times_better_than_rclpy": result.times_better_than_rclpy,
            "reached": result.reached,
            "failures": list(result.failures),
        }
        for result in results
    ]
    document = {
        "conditions": dict(conditions),
        "results": rows,
        "floors": {title: asdict(floor) for title, floor in floors.items()},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def results_page(
    results: Sequence[Result], floors: Mapping[str, Figure], conditions: Mapping[str, str]
) -> str:
    """Return the part of `docs/performance.md` between its markers."""
    return "\n\n".join([listed(conditions), table(results), *([floor_table(floors)] if floors else [])])


def listed(conditions: Mapping[str, str]) -> str:
    """Return the conditions as a Markdown list."""
    return "\n".join(f"- {key}: {value}" for key, value in conditions.items())


def write_between(path: Path, markers: tuple[str, str], content: str) -> None:
    """Replace what stands between the two markers of a file.

    Raises SystemExit with a sentence when the file lacks them.
    """
    text = path.read_text() if path.exists() else ""
    pattern = re.compile(f"({re.escape(markers[0])}).*?({re.escape(markers[1])})", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(
            f"error: {path} has no place for the results: put {markers[0]} and {markers[1]} into it."
        )
    path.write_text(pattern.sub(lambda match: f"{match[1]}\n{content}\n{match[2]}", text))


def _row(result: Result, has_rclpy: bool) -> list[str]:
    measure = result.measure
    goal = f"{measure.at_least:.2f}".rstrip("0").rstrip(".") + "×" if measure.at_least else ""
    outcome = {True: " ✓", False: " ✗", None: ""}[result.reached]
    return [
        measure.title,
        _spread(result.upstream, measure.unit),
        *([_spread(result.rclpy, measure.unit)] if has_rclpy else []),
        _spread(result.ours, measure.unit),
        _times(result.times_better),
        goal + outcome,
        *([_times(result.times_better_than_rclpy)] if has_rclpy else []),
        _lost(None if measure.against else result.upstream),
        *([_lost(result.rclpy)] if has_rclpy else []),
        _lost(result.ours),
    ]


def _spread(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return "–"
    tail = f"; p99 {number(spread.tail)}" if spread.tail is not None else ""
    return f"{number(spread.median)} {unit} ({number(spread.lowest)}–{number(spread.highest)}{tail})"


def _median(spread: Spread | None, unit: str) -> str:
    return f"{number(spread.median)} {unit}" if spread else "–"


def _times(times: float | None) -> str:
    return f"{number(times)}×" if times is not None else "–"


def _lost(spread: Spread | None) -> str:
    if spread is None or not spread.sent:
        return "–"
    return f"{spread.lost:,} of {spread.sent:,}"


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return (
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
        )

    return "\n".join([line(header), line(["-" * width for width in widths]), *(line(row) for row in rows)])
