"""Dataflow files in folders, such as clones of public repositories: `dora validate` on each."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compatibility.case import Case
from benchmarks.compatibility.runs import place
from benchmarks.runner import Implementation


def cases(folders: Sequence[Path]) -> Iterator[Case]:
    """Yield a case for each dataflow file below the folders."""
    for folder in folders:
        if not folder.is_dir():
            raise SystemExit(f"error: there is no folder {folder}")
        for path in sorted(folder.rglob("*.y*ml")):
            if is_dataflow(path.read_text(errors="replace")):
                name = f"files/{folder.resolve().name}/{path.relative_to(folder)}"
                yield Case(name, partial(observe, name, path.resolve()))


def is_dataflow(text: str) -> bool:
    """Return whether a YAML text looks like a dataflow: it has a list of nodes, and is no module."""
    has_nodes = re.search(r"^nodes:", text, re.MULTILINE) is not None
    return has_nodes and re.search(r"^module:", text, re.MULTILINE) is None


def observe(name: str, path: Path, side: Implementation) -> dict[str, Any]:
    """Note whether the file is accepted."""
    with place(side) as where:
        done = where.run("validate", str(path))
        return {name: "accepted" if done.status == 0 else "refused"}
