"""What is printed beside the traceback of a beginner's mistake, whichever way the node was started."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from waiting import TIMEOUT

pytestmark = pytest.mark.processes

# An environment that uv has made has no pip.
INSTALL = (
    f"{sys.executable} -m pip install" if find_spec("pip") else f"uv pip install --python {sys.executable}"
)
READ_ONLY = (
    "hint: a received array is memory that other nodes read too, so it cannot be changed; "
    "change a copy: `array = array.copy()`"
)
NO_VALUE = 'hint: only an event of the type "INPUT" has a "value": look at event["type"] first'
# The line that goes wrong in a node that receives an array, the error, and the hint.
MISTAKES = {
    "module": (
        "import nothing_of_that_name",
        "ModuleNotFoundError: No module named 'nothing_of_that_name'",
        "hint: `nothing_of_that_name` is not installed for {python}, which ran this: "
        "{install} nothing_of_that_name",
    ),
    "distribution": (
        "import speech_recognition",
        "ModuleNotFoundError: No module named 'speech_recognition'",
        "hint: `speech_recognition` is not installed for {python}, which ran this: "
        "{install} SpeechRecognition",
    ),
    "elsewhere": (
        "import helper",
        "ModuleNotFoundError: No module named 'helper'",
        "hint: `helper` is in {folder}/shared, where this program does not look: "
        "add `env: {{PYTHONPATH: {folder}/shared}}` to the node",
    ),
    "value": ('print(node.next()["value"], node.next()["value"])', "KeyError: 'value'", NO_VALUE),
    "item": (
        'node.next()["value"].to_numpy()[0] = 1',
        "ValueError: assignment destination is read-only",
        READ_ONLY,
    ),
    "in place": (
        'array = node.next()["value"].to_numpy()\narray += 1',
        "ValueError: output array is read-only",
        READ_ONLY,
    ),
    "numpy": (
        "import numpy\nnumpy.zeros(3)",
        "ImportError: numpy",
        "hint: {folder}/numpy.py hides the package `numpy`, because it has the same name: rename it",
    ),
    "standard library": (
        "import csv\ncsv.writer",
        "AttributeError: ",
        "hint: {folder}/csv.py hides the package `csv`, because it has the same name: rename it",
    ),
}


class Failed:
    """A dataflow that has failed: ``entries`` are its log (node, text), ``report`` is its report."""

    def __init__(self, folder: Path, *nodes: dict[str, Any]) -> None:
        (folder / "dataflow.yml").write_text(json.dumps({"nodes": nodes}))
        done = dora(folder, "run", "--log-format", "json")
        assert done.returncode == 1, done.stdout + done.stderr
        read = map(json.loads, done.stdout.splitlines())
        self.entries = [(entry["node_id"], entry["message"]) for entry in read]
        self.report = done.stderr.splitlines()

    def after(self, node: str, error: str) -> tuple[str, str]:
        """Return what comes after the error of a node: the next entry of the log, and of the report."""
        own = [text for name, text in self.entries if name == node]
        (entry,) = [number for number, text in enumerate(own) if text.splitlines()[-1].startswith(error)]
        (line,) = [number for number, text in enumerate(self.report) if text.startswith(f"    {error}")]
        return own[entry + 1], self.report[line + 1].strip()


def dora(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As the script `dora`, this does not take modules from its folder.
    command = [sys.executable, "-P", "-m", "dora", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT)


@pytest.mark.both_ways
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_hint_stands_beside_the_traceback(tmp_path: Path, mistake: str) -> None:
    line, error, hint = MISTAKES[mistake]
    hint = hint.format(python=sys.executable, install=INSTALL, folder=tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "helper.py").touch()
    for name in ("numpy", "csv"):
        if f"/{name}.py" in hint:
            (tmp_path / f"{name}.py").touch()
    (tmp_path / "programs").mkdir()  # where a `numpy.py` of the folder above hides nothing
    (tmp_path / "programs" / "source.py").write_text(
        "import numpy\nfrom dora import Node\nNode().send_output('out', numpy.arange(3))\n"
    )
    (tmp_path / "faulty.py").write_text(f"from dora import Node\nnode = Node()\n{line}\n")
    failed = Failed(
        tmp_path,
        {"id": "source", "path": "programs/source.py", "outputs": ["out"]},
        {"id": "faulty", "path": "faulty.py", "inputs": {"in": "source/out"}},
    )
    assert failed.after("faulty", error) == (hint, hint)
    assert hint in dora(tmp_path, "logs", "--local", "--node", "faulty").stdout


@pytest.mark.both_ways
@pytest.mark.parametrize("program", [{"path": "dora.py"}, {"operator": {"python": "dora.py"}}], ids=str)
def test_a_file_called_dora_is_named(tmp_path: Path, program: dict[str, Any]) -> None:
    (tmp_path / "dora.py").write_text("from dora import Node\n")
    failed = Failed(tmp_path, {"id": "one", **program})
    hint = f"hint: {tmp_path}/dora.py hides the package `dora`, because it has the same name: rename it"
    assert ("one", hint) in failed.entries
    assert f"    {hint}" in failed.report


@pytest.mark.both_ways
def test_a_class_that_is_nearly_called_operator_is_named(tmp_path: Path) -> None:
    nearly = "Operator".replace("e", "", 1)
    (tmp_path / "op.py").write_text(f"class {nearly}:\n    def on_event(self, event, send_output): pass\n")
    failed = Failed(tmp_path, {"id": "one", "operator": {"python": "op.py"}})
    sentence = f"{tmp_path}/op.py has no class `Operator`; it has `{nearly}`: did you mean `Operator`?"
    assert any(text.endswith(sentence) for _, text in failed.entries)


def test_a_crash_of_a_library_has_a_hint_unless_python_shows_the_lines(tmp_path: Path) -> None:
    (tmp_path / "faulty.py").write_text(
        "import ctypes\nfrom dora import Node\nnode = Node()\nctypes.string_at(0)\n"
    )
    hint = "hint: `--env PYTHONFAULTHANDLER=1` shows the Python lines in which a library crashed"
    failed = Failed(tmp_path, {"id": "faulty", "path": "faulty.py"})
    assert ("faulty", hint) in failed.entries
    failed = Failed(tmp_path, {"id": "faulty", "path": "faulty.py", "env": {"PYTHONFAULTHANDLER": "1"}})
    assert "hint" not in str(failed.entries) + str(failed.report)


def test_a_program_with_a_python_of_its_own_has_no_hint_about_that_of_dora(tmp_path: Path) -> None:
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (tmp_path / "tool").write_text(f"#!{base} -I\nimport nothing_of_that_name\n")
    (tmp_path / "tool").chmod(0o755)
    failed = Failed(tmp_path, {"id": "tool", "path": "tool"})
    assert "ModuleNotFoundError" in str(failed.entries)
    assert "hint" not in str(failed.entries) + str(failed.report)


def test_other_errors_of_the_same_kind_have_no_hint(tmp_path: Path) -> None:
    (tmp_path / "helper.py").touch()  # hides nothing
    (tmp_path / "faulty.py").write_text(
        "import helper\nfrom dora import Node\nnode = Node()\nkey = 'value'\n"
        "try:\n    {}[key]\nexcept KeyError:\n    helper.nothing\n"
    )
    failed = Failed(tmp_path, {"id": "faulty", "path": "faulty.py"})
    assert "AttributeError: module 'helper' has no attribute 'nothing'" in str(failed.entries)
    assert "hint" not in str(failed.entries) + str(failed.report)
