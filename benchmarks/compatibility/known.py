"""Documented differences: the file `differences.toml`, and which observed differences it explains. Pure."""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.compatibility.observations import Difference

FILE = Path(__file__).parent / "differences.toml"
KINDS = {
    "better": "Better on purpose",
    "different": "Different on purpose",
    "missing": "Not there yet",
    "race": "Left to chance by dora-rs",
}


@dataclass(frozen=True)
class Known:
    """A documented difference.

    `where` is the path of the observation and may contain `*`. `dora_rs` and `here` are the values, with
    `*` as well; a value that is not the documented one is a new difference.
    """

    where: str
    kind: str
    reason: str
    dora_rs: str = "*"
    here: str = "*"

    def explains(self, difference: Difference) -> bool:
        """Return whether place and values are the documented ones."""
        pairs = (
            (self.where, difference.where),
            (self.dora_rs, difference.upstream),
            (self.here, difference.ours),
        )
        return all(_matches(pattern, value) for pattern, value in pairs)


class BadFile(Exception):
    """`differences.toml` cannot be used; the text says why."""


def load(file: Path = FILE) -> list[Known]:
    """Return the documented differences; raises BadFile for a file with a mistake."""
    document = _read(file)
    if set(document) - {"difference", "last_run"}:
        raise BadFile(f"{file}: only `last_run` and [[difference]] tables are expected")
    return [_known(file, number, entry) for number, entry in enumerate(document.get("difference", []), 1)]


def last_run(file: Path = FILE) -> str:
    """Return what the last complete run compared and found; raises BadFile as `load` does."""
    return str(_read(file).get("last_run", ""))


def classify(
    differences: Iterable[Difference], known: Sequence[Known]
) -> tuple[dict[Known, list[Difference]], list[Difference]]:
    """Return the differences that each entry explains, and those that none does."""
    explained: dict[Known, list[Difference]] = {}
    unexplained = []
    for difference in differences:
        for entry in known:
            if entry.explains(difference):
                explained.setdefault(entry, []).append(difference)
                break
        else:
            unexplained.append(difference)
    return explained, unexplained


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise BadFile(f"{file}: {error}") from None


def _known(file: Path, number: int, entry: Mapping[str, object]) -> Known:
    where = f"{file}: difference {number} ({entry.get('where', 'without `where`')})"
    allowed = {field.name for field in fields(Known)}
    if unknown := set(entry) - allowed:
        raise BadFile(f"{where}: unknown field {', '.join(sorted(unknown))}")
    if missing := [name for name in ("where", "kind", "reason") if not entry.get(name)]:
        raise BadFile(f"{where}: {missing[0]} is missing")
    if wrong := [name for name, value in entry.items() if not isinstance(value, str)]:
        raise BadFile(f"{where}: {wrong[0]} must be a text")
    if entry["kind"] not in KINDS:
        raise BadFile(f"{where}: kind must be one of {', '.join(KINDS)}")
    return Known(**{name: str(value) for name, value in entry.items()})


def _matches(pattern: str, value: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None
