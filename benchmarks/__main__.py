"""The command: ``python -m benchmarks``."""

import argparse
import datetime
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import floors, report
from benchmarks.conditions import conditions
from benchmarks.implementations import (
    REPOSITORY,
    UPSTREAM_VERSION,
    Rclpy,
    add_upstream_venv,
    ours,
    rclpy,
    upstream,
)
from benchmarks.measures import Scenario, chosen, groups
from benchmarks.runner import Implementation, Run, RunFailed, adopt_orphans, run_dataflow, run_programs
from benchmarks.statistics import Figure, Spread

Side = Implementation | Rclpy


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen measures and report; return 1 when a run failed, else 0."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.write_docs and (options.only or options.quick or options.ours_only or options.upstream_only):
        parser.error(
            "--write-docs publishes a whole run: leave out --only, --quick, --ours-only and --upstream-only"
        )
    try:
        scenarios = chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    repeat = options.repeat or (1 if options.quick else 5)
    sides: list[Side] = [] if options.ours_only else [upstream(options.upstream_venv)]
    ros = None if options.ours_only or options.upstream_only or options.without_rclpy else rclpy()
    sides += [] if ros is None else [ros]
    sides += [] if options.upstream_only else [ours()]
    started = datetime.datetime.now(datetime.UTC)
    adopt_orphans()

    found_floors = {} if options.no_floors else _floors()
    figures: dict[str, dict[str, list[Figure]]] = {
        name: defaultdict(list) for name in ("dora", "dora-rs", "rclpy")
    }
    failures: dict[str, list[str]] = defaultdict(list)
    scaled = [scenario.scaled(0.1 if options.quick else 1) for scenario in scenarios]
    for group in groups(scaled):
        _measure(group, sides, repeat, figures, failures)

    measures = [measure for scenario in scenarios for measure in scenario.measures]
    results = report.collect(measures, figures["dora-rs"], figures["dora"], failures, figures["rclpy"])
    known = conditions("benchmarks", started, repeat, options.quick, ros.version if ros is not None else "")
    print()
    print("\n".join(f"{key}: {value}" for key, value in known.items()), end="\n\n")
    print(report.table(results), end="\n\n")
    if found_floors:
        print(report.floor_table(found_floors))
    for name, reasons in failures.items():
        for reason in reasons:
            print(f"\nfailed: {name}: {reason}", file=sys.stderr)
    if options.json:
        options.json.write_text(report.as_json(results, found_floors, known))
    if options.write_docs and failures:
        print("\nnothing was published, since not every run succeeded", file=sys.stderr)
    elif options.write_docs:
        page = report.results_page(results, found_floors, known)
        report.write_between(REPOSITORY / "docs" / "performance.md", report.RESULTS_MARKERS, page)
        short = report.short_table(results, known)
        report.write_between(REPOSITORY / "README.md", report.README_MARKERS, short)
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Compare dora with dora-rs {UPSTREAM_VERSION}: the same dataflows, in turn.",
    )
    parser.add_argument("--only", metavar="NAME", help="run the measures whose name contains NAME")
    parser.add_argument("--repeat", type=int, metavar="N", help="repetitions of every measure (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the messages, once: a look, not a measurement"
    )
    side = parser.add_mutually_exclusive_group()
    side.add_argument("--ours-only", action="store_true", help="leave upstream out")
    side.add_argument("--upstream-only", action="store_true", help="leave ours out")
    parser.add_argument(
        "--without-rclpy",
        action="store_true",
        help="leave out rclpy, of $DORA_ROS2_VENV or a sourced ROS 2",
    )
    parser.add_argument(
        "--no-floors", action="store_true", help="leave out what is measured without a framework"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    parser.add_argument(
        "--write-docs", action="store_true", help="publish the results in docs/performance.md and README.md"
    )
    add_upstream_venv(parser)
    return parser


def _measure(
    group: Sequence[Scenario],
    sides: Sequence[Side],
    repeat: int,
    figures: Mapping[str, dict[str, list[Figure]]],
    failures: dict[str, list[str]],
) -> None:
    """Run the scenarios `repeat` times under each side, all in turn; one that fails is not tried again."""
    active = [(scenario, side) for scenario in group for side in sides if _can(side, scenario)]
    for _ in range(repeat * group[0].runs):
        for scenario, side in list(active):
            environment = {
                "BENCHMARK_MESSAGES": str(scenario.messages),
                "BENCHMARK_WARM_UP": str(scenario.warm_up),
                "BENCHMARK_BYTES": str(scenario.size),
            }
            try:
                run = _run(side, scenario, environment)
                measured = scenario.evaluate(scenario, run)
            except RunFailed as error:
                active.remove((scenario, side))
                for measure in scenario.measures:
                    failures[measure.name].append(f"{side.name}: {error}")
                continue
            for name, figure in measured.items():
                figures[side.name][name].append(figure)
    for measure in (measure for scenario in group for measure in scenario.measures):
        found_by_side = {side.name: figures[side.name][measure.name] for side in sides}
        medians = [
            f"{name} {report.number(Spread.over(found).median)} {measure.unit}"
            for name, found in found_by_side.items()
            if found
        ]
        print(f"{measure.name}: {', '.join(medians) or 'no figures'}", file=sys.stderr, flush=True)


def _can(side: Side, scenario: Scenario) -> bool:
    """Return whether a side can run a scenario."""
    if isinstance(side, Rclpy):
        return bool(scenario.rclpy)
    return side.name == "dora" or scenario.upstream_can


def _run(side: Side, scenario: Scenario, environment: Mapping[str, str]) -> Run:
    """Run a scenario once; raises RunFailed."""
    if isinstance(side, Rclpy):
        return run_programs(side.python, scenario.dataflow, scenario.rclpy, environment)
    return run_dataflow(side, scenario.dataflow, environment, scenario.arguments)


def _floors() -> dict[str, Figure]:
    found = {"two Python processes wake each other through an eventfd": floors.wake_up_round_trip()}
    for size in floors.COPIES:
        shown = f"{size // 1024} KiB" if size < 1024 * 1024 else f"{size // (1024 * 1024)} MiB"
        found[f"one copy of {shown} between two warm buffers"] = floors.copy(size)
    return found


if __name__ == "__main__":
    sys.exit(main())
