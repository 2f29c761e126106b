"""The page of documented differences, written from `differences.toml`."""

from collections.abc import Sequence

from benchmarks.compatibility.known import KINDS, Known, last_run
from benchmarks.implementations import REPOSITORY, UPSTREAM_VERSION

PAGE = REPOSITORY / "docs" / "reference" / "differences.md"
AREAS = {
    "dataflows": "Messages and events",
    "scripts": "Python interface",
    "commands/validate": "Dataflow files",
    "files": "Dataflow files",
    "commands": "Commands",
}
HEAD = f"""# Differences from dora-rs

`python -m benchmarks.compatibility` runs the same cases with dora-rs {UPSTREAM_VERSION} and with this dora:
scripts that try the Python interface, dataflows made at random, calls of `dora`, and the dataflow files of
folders that you name. It fails if it finds a difference that is not on this page.
[Coming from dora-rs](../migrating-from-dora-rs.md) says what the differences mean for a project.

<!-- written by `python -m benchmarks.compatibility --write-docs` -->
"""


def write(documented: Sequence[Known]) -> None:
    """Write the page."""
    PAGE.write_text(text(documented, last_run()))


def text(documented: Sequence[Known], result: str) -> str:
    """Return the page: the last result, a section for each kind, a row for each reason. Pure."""
    parts = [HEAD, f"{result}\n"]
    for kind, title in KINDS.items():
        rows: dict[tuple[str, str], list[str]] = {}
        for entry in documented:
            if entry.kind == kind:
                rows.setdefault((_area(entry.where), entry.reason), []).append(entry.where)
        if not rows:
            continue
        parts.append(f"## {title}\n\n| | | seen at |\n| --- | --- | --- |")
        for (area, reason), places in sorted(
            rows.items(), key=lambda row: list(AREAS.values()).index(row[0][0])
        ):
            shown = ", ".join(f"`{where}`" for where in places[:3]) + (" …" if len(places) > 3 else "")
            parts.append(f"| {area} | {reason} | {shown} |")
        parts.append("")
    return "\n".join(parts)


def _area(where: str) -> str:
    return next(title for start, title in AREAS.items() if where.startswith(start))
