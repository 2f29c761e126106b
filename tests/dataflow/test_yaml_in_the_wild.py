"""Dataflow files as people write them: no false alarm, and what dora 0.x wrote is still understood.

Each file in ``in_the_wild`` is accepted. The warnings it causes are in its comments ``# warns: ...``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import dora.dataflow
from dora.dataflow.describe import document_fault
from dora.dataflow.model import Dataflow
from dora.errors import DataflowError

FILES = sorted((Path(__file__).parent / "in_the_wild").glob("*.yml"))


def parse(text: str) -> Dataflow:
    return dora.dataflow.parse(text, working_dir="/w", environ={})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accepted(path: Path) -> None:
    expected = re.findall(r"^# warns: (.*)$", path.read_text(), re.MULTILINE)
    dataflow = dora.dataflow.load(path, environ={"HOME": "/home/me"})
    assert [warning.message for warning in dataflow.warnings] == expected
    assert not dataflow.type_warnings
    assert document_fault(dataflow) == ""  # a coordinator takes it


def test_older_fields_mean_the_present_ones() -> None:
    older = (Path(__file__).parent / "in_the_wild" / "dora_0x.yml").read_text()
    camera, _, simulation, plot = parse(older).nodes
    assert (camera.path, camera.args) == ("../nodes/webcam.py", ("--width", "640"))
    assert camera.env == {"CAMERA_ID": "2"}
    assert camera.build == ("pip install opencv-python",)
    assert camera.outputs == ("image",)
    assert plot.is_dynamic
    assert simulation.path == "/opt/navigation/build/bridge"
    assert simulation.env == {"MODEL_PATH": "warehouse.xml"}
    assert parse(older).debug
    assert parse(older).descriptor["nodes"][0]["path"] == "../nodes/webcam.py"


def values_of(text: str) -> dict[str, Any]:
    (node,) = parse(f"nodes:\n  - id: a\n    path: a.py\n    env:\n      KEY: {text}\n").nodes
    return dict(node.env)


@pytest.mark.parametrize("text", ["30_000", "1e-3", "1.10", "12:30:45", "2024-01-01", "007", "yes"])
def test_values_reach_programs_verbatim(text: str) -> None:
    assert values_of(text) == {"KEY": text}


@pytest.mark.parametrize(
    ("older", "sentence"),
    [
        ("custom: {source: b.py}, path: c.py", "`source` means the same as `path` on line 1"),
        ("custom: {envs: {A: 1}, source: b.py}, env: {}", "`envs` means the same as `env` on line 1"),
        ("custom: b.py", "expected a mapping for `custom`"),
        ("custom: {sauce: b.py}", "a node has no field `sauce`"),
        ("path: b.py, _unstable_deploy: {machine: b c}", "the machine id `b c` has to be of"),
        ("path: b.py, outputs: [image: ]", "expected the id of an input or output, found a mapping"),
    ],
)
def test_mistakes_in_legacy_files_are_reported(older: str, sentence: str) -> None:
    with pytest.raises(DataflowError) as caught:
        parse(f"nodes: [{{id: a, {older}}}]")
    assert any(sentence in problem.message for problem in caught.value.problems), caught.value


def test_an_output_with_a_colon_is_corrected() -> None:
    with pytest.raises(DataflowError) as caught:
        parse("nodes:\n  - id: a\n    path: a\n    outputs:\n      - image: # the picture\n")
    assert [problem.hint for problem in caught.value.problems] == ["write `image`, without a colon"]


def test_a_part_of_a_dataflow_is_refused_with_the_missing_node() -> None:
    with pytest.raises(DataflowError) as caught:
        parse("nodes: [{id: dora-vad, path: dora-vad, inputs: {audio: microphone/audio}}]")
    assert [problem.hint for problem in caught.value.problems] == ["`dora-vad` is the only node"]


def test_nothing_of_custom_is_no_mistake() -> None:
    (node,) = parse("nodes: [{id: a, path: b.py, custom: }]").nodes
    assert node.path == "b.py"
