"""Observations of both implementations, and the differences between them. Pure.

An observation is a value that JSON can hold, under a path such as `scripts/types/receiver/int8`. Two
observations differ when their values do. Two rules are weaker, as ours may have more. The value under a
path that ends in ` names` is a list of names, and a name that only ours has is no difference. Nor is a
built-in class that only our exception has (`raises RuntimeError, TypeError`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = "(nothing)"
NAMES = " names"
LONGEST = 160  # characters of a value that is shown

Observations = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """A path where the two differ, with both values as text."""

    where: str
    upstream: str
    ours: str

    def line(self) -> str:
        """Return the difference in one line; long values are cut."""
        return f"{self.where}: dora-rs {cut(self.upstream)}, here {cut(self.ours)}"


def compare(upstream: Observations, ours: Observations) -> list[Difference]:
    """Return the differences between two sets of observations, in the order of their paths."""
    found = []
    for where in sorted(upstream.keys() | ours.keys()):
        if where.endswith(NAMES):
            missing = sorted(set(upstream.get(where, ())) - set(ours.get(where, ())))
            found += [Difference(f"{where}/{name}", "has it", NOTHING) for name in missing]
            continue
        theirs, own = text(upstream.get(where, NOTHING)), text(ours.get(where, NOTHING))
        if theirs != own and not _raises_more(theirs, own):
            found.append(Difference(where, theirs, own))
    return found


def confirmed(runs: Sequence[tuple[Observations, Observations]]) -> tuple[list[Difference], list[str]]:
    """Return the differences of several runs of one case, and the paths where only dora-rs varied.

    `runs` has the observations of dora-rs and ours for each run. A path whose value changes from run to run
    with dora-rs is a race of dora-rs and no difference. One that changes here is a difference, with all its
    values.
    """
    differences: dict[str, list[Difference]] = {}
    for upstream, ours in runs:
        for difference in compare(upstream, ours):
            differences.setdefault(difference.where, []).append(difference)
    found, races = [], []
    for where, seen in sorted(differences.items()):
        if len(seen) == len(runs) and len(set(seen)) == 1:
            found.append(seen[0])
            continue
        theirs, own = (_values(where, [run[side] for run in runs]) for side in (0, 1))
        if len(own) > 1 or len(theirs) == 1:
            found.append(Difference(where, " or ".join(theirs), " or ".join(own)))
        else:
            races.append(where)
    return found, races


def shape(value: Any, at: str = "") -> list[str]:
    """Return the keys of a JSON value, and the types of what they hold: `nodes[].id`, `nodes[].id: text`.

    A value that is null has no type, as another one may be there at another time.
    """
    if isinstance(value, Mapping):
        return sorted(
            {name for key, item in value.items() for name in shape(item, f"{at}.{key}".lstrip("."))}
        )
    if isinstance(value, list):
        return sorted({name for item in value for name in shape(item, f"{at}[]")}) or [f"{at}[]"]
    kinds = {bool: "truth", int: "number", float: "number", str: "text"}
    return [at] if value is None else [at, f"{at}: {kinds[type(value)]}"]


def text(value: Any) -> str:
    """Return a value as JSON with sorted keys, a whole number without a fraction; a text stays as it is."""
    if isinstance(value, str):
        return value
    return json.dumps(_whole_numbers(value), sort_keys=True, ensure_ascii=False)


def cut(shown: str) -> str:
    """Return a text in one line of at most `LONGEST` characters."""
    line = " ".join(shown.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _whole_numbers(item) for name, item in value.items()}
    return value


def _raises_more(upstream: str, ours: str) -> bool:
    if not (upstream.startswith("raises ") and ours.startswith("raises ")):
        return False
    theirs, own = (set(found.removeprefix("raises ").split(", ")) for found in (upstream, ours))
    return theirs < own


def _values(where: str, runs: Sequence[Observations]) -> list[str]:
    if NAMES in where:
        owner, _, name = where.partition(f"{NAMES}/")
        return sorted({"has it" if name in run.get(owner + NAMES, ()) else NOTHING for run in runs})
    return sorted({text(run.get(where, NOTHING)) for run in runs})
