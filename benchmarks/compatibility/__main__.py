"""Compare the behaviour of dora with that of dora-rs: ``python -m benchmarks.compatibility``.

Both run the same cases, one at a time, each in a folder of its own:

- ``scripts``: dataflows whose nodes and operators try the Python interface, and note what it returned,
  which built-in exception it raised, and which events arrived
- ``dataflows``: dataflows made at random from a seed, with a logged event per line
  (`benchmarks.compatibility.random_dataflows` says what of them is compared)
- ``commands``: calls of `dora`: exit status, the keys of JSON, the options in the help; a whole life of a
  dataflow on a coordinator; many correct and wrong dataflow files
- ``files``: `dora validate` on all dataflow files in folders that you name

A difference that `differences.toml` explains is documented. Any other one is looked for twice more. What
changes from run to run with dora-rs is a race of dora-rs and not a difference; what changes here is one. If
an undocumented difference is left, the command prints a line for each, and exits with 1.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.compatibility import commands, files, known, page, random_dataflows, scripts
from benchmarks.compatibility.case import Case
from benchmarks.compatibility.generator import generate
from benchmarks.compatibility.known import Known
from benchmarks.compatibility.observations import Difference, compare, confirmed, cut
from benchmarks.implementations import REPOSITORY, UPSTREAM_VERSION, add_upstream_venv, ours, upstream
from benchmarks.runner import Implementation, adopt_orphans

AREAS = ("scripts", "dataflows", "commands", "files")
RUNS = 3  # of a case with an undocumented difference


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and report; return 1 if an undocumented difference is left, else 0."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        documented = known.load()
    except known.BadFile as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.write_docs:
        page.write(documented)
        return 0
    cases = [case for case in _cases(options) if case.name.startswith(options.only)]
    if not cases:
        parser.error(f"there is no case whose name begins with {options.only!r}")
    sides = upstream(options.upstream_venv), ours()
    adopt_orphans()
    explained: dict[Known, list[Difference]] = {}
    unexplained: list[Difference] = []
    races: list[str] = []
    for number, case in enumerate(cases, 1):
        accounted, rest, varying = examine(case, sides, documented)
        for entry, differences in accounted.items():
            explained.setdefault(entry, []).extend(differences)
        unexplained += rest
        races += varying
        if sys.stderr.isatty():
            print(f"\r{number} of {len(cases)} cases", end="", file=sys.stderr, flush=True)
        for difference in rest:
            print(f"new: {difference.line()}", flush=True)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    print(summary(cases, explained, unexplained, races))
    if options.only == "":
        for entry in documented:
            if entry not in explained and entry.kind != "race":
                print(f"no longer seen: {entry.where}")
    if options.json:
        found = {
            "documented": {entry.where: [d.line() for d in seen] for entry, seen in explained.items()},
            "new": [vars(difference) for difference in unexplained],
            "races": races,
        }
        options.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return 1 if unexplained else 0


def examine(
    case: Case, sides: tuple[Implementation, Implementation], documented: Sequence[Known]
) -> tuple[dict[Known, list[Difference]], list[Difference], list[str]]:
    """Run a case on both sides; return the documented differences, the others, and the races of dora-rs."""
    runs = [(case.observe(sides[0]), case.observe(sides[1]))]
    found = [random_dataflows.directed(difference) for difference in compare(*runs[0])]
    explained, unexplained = known.classify(found, documented)
    if not unexplained:
        return explained, [], []
    runs += [(case.observe(sides[0]), case.observe(sides[1])) for _ in range(RUNS - 1)]
    differences, races = confirmed(runs)
    again, rest = known.classify(map(random_dataflows.directed, differences), documented)
    return {**explained, **again}, rest, races


def summary(
    cases: Sequence[Case],
    explained: dict[Known, list[Difference]],
    unexplained: Sequence[Difference],
    races: Sequence[str],
) -> str:
    """Return the counts as text."""
    count = Counter(case.name.partition("/")[0] for case in cases)
    areas = ", ".join(f"{count[area]} {area}" for area in AREAS if count[area])
    total = sum(len(differences) for differences in explained.values())
    lines = [
        f"compared with dora-rs {UPSTREAM_VERSION}: {areas}",
        f"documented differences: {len(explained)} entries, seen {total} times",
        f"left to chance by dora-rs: {len(races)}",
        *(f"  {cut(where)}" for where in races),
        f"new differences: {len(unexplained)}",
    ]
    return "\n".join(lines)


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    yield from scripts.cases()
    for seed in range(options.seed, options.seed + options.dataflows):
        dataflow = generate(seed)
        yield Case(f"dataflows/{seed}", lambda side, made=dataflow: random_dataflows.observe(made, side))
    yield from commands.cases()
    yield from files.cases(options.files)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compatibility",
        description=f"Compare the behaviour of dora with that of dora-rs {UPSTREAM_VERSION}.",
    )
    parser.add_argument(
        "--only", metavar="NAME", default="", help="run the cases whose name begins with NAME"
    )
    parser.add_argument(
        "--dataflows", type=int, default=200, metavar="N", help="dataflows made at random (default: 200)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the first (default: 0)")
    parser.add_argument(
        "--files",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="validate every dataflow file in this folder, too; repeatable",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every difference to FILE")
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help=f"write {page.PAGE.relative_to(REPOSITORY)}, and compare nothing",
    )
    add_upstream_venv(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
