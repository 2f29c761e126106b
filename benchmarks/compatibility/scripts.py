"""Dataflows that try the Python interface, in folders below `scripts/`.

A node notes values with `note` of `notes.py`, which goes into its folder; each becomes the observation
`scripts/<folder>/<node>/<name>`. A folder without `dataflow.yml` has one program, `program.py`, which runs
without a daemon.
"""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compatibility.case import Case
from benchmarks.compatibility.runs import place
from benchmarks.runner import Implementation

FOLDER = Path(__file__).parent / "scripts"
FAILS = ("failures",)  # a node of theirs fails on purpose


def cases() -> Iterator[Case]:
    """Yield a case for each folder."""
    for folder in sorted(FOLDER.iterdir()):
        if folder.is_dir() and folder.name != "__pycache__":
            yield Case(f"scripts/{folder.name}", partial(observe, folder))


def observe(folder: Path, side: Implementation) -> dict[str, Any]:
    """Run the dataflow or the program of a folder; return what was noted, and the exit status."""
    with place(side) as where:
        shutil.copytree(
            folder, where.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(FOLDER / "notes.py", where.folder)
        notes = where.folder / "notes"
        notes.mkdir()
        environment = {"NOTES": str(notes), "GIVEN": "given"}
        if (folder / "dataflow.yml").exists():
            done = where.run("run", "dataflow.yml", "--stop-after", "40s", environment=environment)
        else:
            done = where.python("program.py", environment=environment)
        name = f"scripts/{folder.name}"
        found: dict[str, Any] = {f"{name}/exit status": done.status}
        if done.status != (1 if folder.name in FAILS else 0):
            # Names the side, so that a script that fails on both is no agreement.
            found[f"{name}/exit status"] = f"{done.status} of {side.name}"
        for file in sorted(notes.glob("*.jsonl")):
            for line in file.read_text().splitlines():
                key, value = json.loads(line)
                found[f"{name}/{file.stem}/{key}"] = value
        return found
