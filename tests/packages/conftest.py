"""An environment as a user has it: a wheel of this checkout, and dataflows of published packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dora.daemon.processes.interpreter import find_uv

ROOT = Path(__file__).parents[2]
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


class Place:
    """A folder with a dataflow, and the environment that it is built in and run from."""

    def __init__(self, folder: Path, environment: Path) -> None:
        self.folder = folder
        self._environment = environment
        self.write("receiver.py", RECEIVER)
        self.write("ticker.py", TICKER)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def python(self, code: str) -> str:
        return self._run("python", "-c", code)

    def build(self, dataflow: str, *options: str) -> str:
        self.write("dataflow.yml", dataflow)
        return self._run("dora", "build", "dataflow.yml", *options)

    def run(self, *options: str) -> list[Any]:
        """Run the dataflow that was built; return what the receiver got."""
        self.output = self._run("dora", "run", "dataflow.yml", "--stop-after", "60s", *options)
        file = self.folder / "received.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def popen(self, program: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        words = [f"{self._environment}/bin/{program}", *arguments]
        return subprocess.Popen(words, cwd=self.folder, env=self.environ(), text=True, **options)

    def _run(self, program: str, *arguments: str) -> str:
        words = [f"{self._environment}/bin/{program}", *arguments]
        done = subprocess.run(
            words, cwd=self.folder, env=self.environ(), capture_output=True, text=True, timeout=TIMEOUT
        )
        assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def environ(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DORA_")}
        return {**inherited, "NO_COLOR": "1"}


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with pip, in which a wheel of this checkout is installed."""
    uv = find_uv()
    if uv is None:
        pytest.skip("uv is not installed")
    folder = tmp_path_factory.mktemp("published")
    made = folder / "venv"
    for words in (
        [uv, "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)],
        [uv, "venv", "--quiet", "--seed", "--python", sys.executable, str(made)],
    ):
        subprocess.run(words, check=True, timeout=TIMEOUT)
    [wheel] = folder.glob("*.whl")
    install = [uv, "pip", "install", "--quiet", "--python", f"{made}/bin/python", str(wheel), "uv"]
    subprocess.run(install, check=True, timeout=TIMEOUT)
    return made


@pytest.fixture
def place(tmp_path: Path, environment: Path) -> Place:
    return Place(tmp_path, environment)
