"""`dora doctor --dataflow`: how each node starts, from the template process or plainly and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dora.cli.main import run_command_line

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="templates need Linux"),
]


def starts(folder: Path, capsys: pytest.CaptureFixture[str], *nodes: dict[str, Any]) -> dict[str, str]:
    """Return what the command says of each node, with the level before it."""
    for node in nodes:
        file = folder / node["path"]
        file.parent.mkdir(exist_ok=True)
        if file.suffix == ".py" and not file.exists():
            file.write_text("raise SystemExit('the program of a node was run')\n")
    (folder / "flow.yml").write_text(yaml.safe_dump({"nodes": nodes}, sort_keys=False))
    run_command_line(["doctor", "--dataflow", "flow.yml"])
    found = {}
    for line in capsys.readouterr().out.splitlines():
        level, _, text = line.strip().partition("  ")
        if text.startswith("node `"):
            found[text.split("`")[1]] = f"{level} {text.partition('` ')[2]}"
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dora.cli.commands.doctor._round_trip", lambda: iter(()))
    return tmp_path


def test_each_node_has_a_way_to_start_with_its_reason(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "shadows").mkdir()
    (folder / "shadows" / "numpy.py").write_text("")
    found = starts(
        folder,
        capsys,
        {"id": "camera", "path": "camera.py"},
        {"id": "off", "path": "camera.py", "preload": False},
        {"id": "talk", "path": "shell", "args": "echo hello"},
        {"id": "threads", "path": "camera.py", "env": {"OMP_NUM_THREADS": 2}},
        {"id": "shadowed", "path": "shadows/node.py"},
        {"id": "named", "path": "camera.py", "preload": ["missing"]},
        {"id": "mine", "path": "dynamic"},
    )
    assert found.pop("threads").startswith("PASS starts plainly: `OMP_NUM_THREADS` is read by packages")
    assert found == {
        "camera": "PASS starts from the template process",
        "off": "PASS starts plainly: `preload` is false for it",
        "talk": "PASS starts plainly: it is a shell command",
        "shadowed": "PASS starts plainly: a file in its folder has the name of the module `numpy`",
        "named": "WARN starts plainly: flow.yml:19:5: importing missing fails: "
        "ModuleNotFoundError: No module named 'missing'",
    }


@pytest.mark.parametrize(("cores", "told"), [(1, False), (2, True)])
def test_a_run_of_few_nodes_has_no_template_of_its_own(
    cores: int,
    told: bool,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    (folder / "node.py").write_text("")
    (folder / "flow.yml").write_text("nodes: [{id: a, path: node.py}, {id: b, path: node.py}]\n")
    run_command_line(["doctor", "--dataflow", "flow.yml"])
    assert ("only after `dora up` or with `--preload`" in capsys.readouterr().out) is told


def test_operators_are_checked_like_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "op.py").write_text("import json\nclass Operator:\n    pass\n")
    (folder / "flow.yml").write_text("nodes: [{id: eye, operator: {python: op.py}}]\n")
    run_command_line(["doctor", "--dataflow", "flow.yml"])
    assert "  PASS  node `eye` starts from the template process\n" in capsys.readouterr().out
