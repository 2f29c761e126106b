"""Descriptors of dataflows, compared with those of dora-rs 1.1.0.

Each YAML file in ``described`` has the answer of ``dora expand`` of dora-rs beside it, as JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import dora.dataflow
from dora.dataflow.describe import describe
from dora.dataflow.loader import expanded
from dora.dataflow.model import Dataflow

FOLDER = Path(__file__).parent / "described"
FILES = sorted(FOLDER.glob("*.yml"))

# dora-rs reads a quoted text as a number where it can.
OURS = {"all_fields": {"env": {"GLOBAL": 1, "TEXT": "007"}}}


def load(file: Path) -> Dataflow:
    return dora.dataflow.load(file, environ={"HOME": "/root"})


def theirs(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.with_suffix(".json").read_text())
    return {**found, **OURS.get(file.stem, {})}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_descriptor_has_all_keys_of_dora_rs(file: Path) -> None:
    found = json.loads(json.dumps(describe(load(file))))
    assert found == theirs(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_expanded_dataflow_has_the_same_keys_and_runs_the_same(file: Path, tmp_path: Path) -> None:
    flat = tmp_path / file.name
    flat.write_text(expanded(file))
    expected = theirs(file)
    document = yaml.safe_load(flat.read_text())
    for node, upstream in zip(document["nodes"], expected["nodes"], strict=True):
        assert node.keys() == upstream.keys()
        assert node["inputs"].keys() == upstream["inputs"].keys()
        del node["env"], upstream["env"]  # variables keep their names, as the printed file may go elsewhere
        del node["inputs"], upstream["inputs"]
    assert document.pop("env", None) == expected.pop("env", None)
    assert document == expected
    again, before = load(flat), load(file)
    assert [node.env for node in again.nodes] == [node.env for node in before.nodes]
    assert describe(again) == describe(before)
    assert expanded(flat) == flat.read_text()


def test_files_of_dora_0x_are_described_like_those_of_today() -> None:
    older = """
nodes:
  - id: a
    custom: {source: a.py, args: -v, envs: {A: 1}, inputs: {t: dora/timer/hz/2}, outputs: [y, x]}
  - id: b
    custom: {source: b.py}
    _unstable_deploy: {machine: m}
_unstable_debug: {publish_all_messages_to_zenoh: true}
"""
    today = """
nodes:
  - {id: a, path: a.py, args: -v, env: {A: 1}, inputs: {t: dora/timer/millis/500}, outputs: [x, y]}
  - {id: b, path: b.py, deploy: {machine: m}}
debug: {enable_debug_inspection: true}
"""
    found = [describe(dora.dataflow.parse(text, working_dir="/w", environ={})) for text in (older, today)]
    assert found[0] == found[1]
    assert found[0]["nodes"][1]["inputs"] == {}


def test_an_id_that_is_a_number_in_the_file_is_described_as_text() -> None:
    text = "nodes: [{id: 1, path: a, outputs: [x]}, {id: b, path: b, inputs: {i: 1/x}}]"
    described = describe(dora.dataflow.parse(text, working_dir="/w", environ={}))
    assert [node["id"] for node in described["nodes"]] == ["1", "b"]


def test_fields_that_dora_rs_lacks_are_kept() -> None:
    text = "x-note: 1\nnodes: [{id: a, path: a, parameters: {gain: 0.5}, hot_reload: never}]"
    described = describe(dora.dataflow.parse(text, working_dir="/w", environ={}))
    assert described["x-note"] == 1
    assert described["nodes"][0]["parameters"] == {"gain": 0.5}
