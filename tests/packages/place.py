"""A folder with a dataflow of published packages, built and run as a user does it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

DRIVERS = Path(__file__).parent / "drivers"
TIMEOUT = 600  # seconds, for installing

# What a node got, as JSON: one object per event. Ends by itself when its inputs are closed.
RECEIVER = """
import json, sys
from dora import Node

with open("received.jsonl", "w") as file:
    for event in Node():
        if event["type"] != "INPUT":
            continue
        value = event["value"]
        metadata = {name: item for name, item in event["metadata"].items() if name != "timestamp"}
        shown = value.to_pylist() if len(value) < 100 else len(value)
        print(json.dumps({"id": event["id"], "value": shown, "metadata": metadata}), file=file, flush=True)
"""

# Sends twenty times on its one output, slowly enough for everybody.
TICKER = """
import os, time
import pyarrow as pa
from dora import Node

node = Node()
for number in range(20):
    node.send_output("tick", pa.array([number]))
    time.sleep(0.02)
"""


def values(received: list[Any], input_id: str = "data") -> list[Any]:
    return [event["value"] for event in received if event["id"] == input_id]


class Place:
    """A folder with a dataflow, and the environment that it is built in and run from."""

    def __init__(self, folder: Path, environment: Path) -> None:
        self.folder = folder
        self._environment = environment
        self.write("receiver.py", RECEIVER)
        self.write("ticker.py", TICKER)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def drivers(self, *names: str) -> None:
        """Put stubs of drivers into the folder `drivers`, for nodes with `PYTHONPATH: drivers`."""
        for name in names:
            source, target = DRIVERS / name, self.folder / "drivers" / name
            target.parent.mkdir(exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)

    def python(self, code: str) -> str:
        return self._run("python", "-c", code)

    def build(self, dataflow: str, *options: str) -> str:
        self.write("dataflow.yml", dataflow)
        return self._run("dora", "build", "dataflow.yml", *options)

    def run(self, *options: str) -> list[Any]:
        """Run the dataflow that was built; return what the receiver got."""
        self.output = self._run("dora", "run", "dataflow.yml", "--stop-after", "120s", *options)
        file = self.folder / "received.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def program(self, name: str) -> str:
        return f"{self._environment}/bin/{name}"

    def popen(self, program: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        words = [self.program(program), *arguments]
        return subprocess.Popen(words, cwd=self.folder, env=self.environ(), text=True, **options)

    def _run(self, program: str, *arguments: str) -> str:
        words = [self.program(program), *arguments]
        done = subprocess.run(
            words, cwd=self.folder, env=self.environ(), capture_output=True, text=True, timeout=TIMEOUT
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def environ(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DORA_")}
        return {**inherited, "NO_COLOR": "1"}
