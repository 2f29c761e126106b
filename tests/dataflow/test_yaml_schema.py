"""The JSON schema for editors, against the parser and the manual."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import dora.dataflow
from dora.dataflow.json_schema import SCHEMA_FILE, json_schema, module_schema, schema_text
from dora.dataflow.modules.check import MODULE_FILE, MODULE_HEADER
from dora.dataflow.parser.fields import DATAFLOW, DEBUG, INPUT, NODE_BLOCK, OPERATOR_BLOCK, PYTHON_SOURCE
from dora.dataflow.parser.output_rules import LATCHED, OUTPUT
from dora.dataflow.parser.sync import SYNC_BLOCK
from dora.dataflow.types.contracts import TYPE_RULE
from dora.dataflow.types.manifest import MANIFEST, MANIFEST_PORT
from dora.dataflow.types.own_types import TYPE, TYPE_FIELD, TYPE_FILE, TYPE_PARAMETER
from dora.dataflow.yaml.field_types import UnsupportedType
from dora.dataflow.yaml.schema_block import SchemaBlock
from dora.errors import DataflowError

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "docs" / "reference" / "dataflow-yaml.md"
BLOCKS = {
    "dataflow": DATAFLOW,
    "node": NODE_BLOCK,
    "operator": OPERATOR_BLOCK,
    "input": INPUT,
    "output": OUTPUT,
    "latched": LATCHED,
    "sync": SYNC_BLOCK,
    "debug": DEBUG,
    "python": PYTHON_SOURCE,
    "module": MODULE_FILE,
    "header": MODULE_HEADER,
    "rule": TYPE_RULE,
    "manifest": MANIFEST,
    "manifest port": MANIFEST_PORT,
    "types": TYPE_FILE,
    "type": TYPE,
    "type field": TYPE_FIELD,
    "type parameter": TYPE_PARAMETER,
}
VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def manual_examples() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", MANUAL.read_text(encoding="utf-8"), re.DOTALL)


def example_files() -> list[Path]:
    return sorted((ROOT / "examples").glob("*/*.yml"))


def test_the_shipped_schema_is_up_to_date() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "run `make generated` after a change of the fields"
    )


@pytest.mark.lengthy
def test_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text()))


def test_modules_have_a_schema_of_their_own() -> None:
    jsonschema.Draft202012Validator.check_schema(module_schema())
    validator = jsonschema.Draft202012Validator(module_schema())
    header = {"name": "m", "inputs": ["i"], "outputs": ["o"]}
    nodes = [{"id": "a", "path": "a.py", "inputs": {"i": "_mod/i"}, "outputs": ["o"]}]
    validator.validate({"module": header, "nodes": nodes})
    assert not validator.is_valid({"nodes": nodes})
    assert not validator.is_valid({"module": {**header, "input": []}, "nodes": nodes})


@pytest.mark.parametrize("name", BLOCKS)
def test_every_field_is_described_in_schema_and_manual(name: str) -> None:
    block: SchemaBlock = BLOCKS[name]
    manual = MANUAL.read_text(encoding="utf-8")
    for field in block.fields.values():
        description = block.definition()["properties"][field.name]["description"]
        assert description.endswith("."), field.name
        assert f"`{field.name}`" in manual, f"{field.name} is missing in {MANUAL.name}"


@pytest.mark.parametrize("text", manual_examples())
def test_examples_of_the_manual(text: str) -> None:
    dataflow = dora.dataflow.parse(text, working_dir="/", environ={"HOME": "/h", "USER": "me"})
    assert not (dataflow.warnings or dataflow.type_warnings)
    VALIDATOR.validate(dataflow.descriptor)


@pytest.mark.parametrize("path", example_files(), ids=lambda path: path.parent.name)
def test_shipped_examples(path: Path) -> None:
    dataflow = dora.dataflow.load(path)
    assert not (dataflow.warnings or dataflow.type_warnings)
    VALIDATOR.validate(dataflow.descriptor)


def test_the_manual_has_examples() -> None:
    assert len(manual_examples()) >= 8
    assert example_files()


@pytest.mark.parametrize(
    "entry", ["x", "1", "x: {}", "x: {latched: 1}", "x: {latched: {depth: 1000, survive_restart: true}}"]
)
def test_the_schema_accepts_outputs_with_options(entry: str) -> None:
    text = f"nodes:\n  - id: a\n    path: a\n    outputs:\n      - {entry}\n"
    VALIDATOR.validate(dora.dataflow.parse(text, working_dir="/", environ={}).descriptor)


# What follows `- id: a\n  path: a\n  outputs: [x]` in a good document.
GOOD = [
    "args: 5",
    "args: [a, 1, true]",
    "args: ''",
    "name: 1.5",
    "inputs: ",
    "inputs: {a: a/x, b: {source: a/x, queue_size: 0, queue_policy: backpressure, input_timeout: 0.1}}",
    "inputs: {t: dora/timer/hz/5, l: dora/logs}",
    "inputs: {a: {source: a/x, queue_policy: latest, deadline: 1.5s, max_age: 9us, rate: 1 Hz, keep: [k]}}",
    "env: {A: 1, B: true, C: x, D: 1.5}",
    "build: [a, b]",
    "min_log_level: WaRn",
    "max_log_size: 4096",
    "max_log_size: 1.5 kB",
    "max_log_size: 1.5",
    "restart_policy: on-failure",
    "restart_delay: 0",
    "restart_window: 0.1",
    "max_restarts: 0",
    "hot_reload: replace",
    "cpu_affinity: []",
    "nice: -20",
    "scheduler: fifo 99",
    "scheduler: idle",
    "lock_memory: true",
    "preload: true",
    "preload: false",
    "preload: []",
    "preload: [torch, torchvision.models]",
    "send_stdout_as: x",
    "shared_memory_pool_size: 8MiB",
    "pattern: unheard-of",
    "output_framing: {x: arrow-ipc}",
    "output_metadata: {x: [width]}",
    "git: ",
    "deploy: {}",
    "deploy: {machine: b, labels: {gpu: true}, working_dir: /srv/b, distribute: local}",
    "ros2: ",
    "input_types: {}",
    "output_types: {x: std/core/v1/Float32}",
]


@pytest.mark.parametrize("field", GOOD)
def test_the_schema_accepts_valid_dataflows(field: str) -> None:
    text = f"nodes:\n  - id: a\n    path: a\n    outputs: [x]\n    {field}\n"
    VALIDATOR.validate(dora.dataflow.parse(text, working_dir="/", environ={}).descriptor)


BAD: list[dict[str, Any]] = [
    {},
    {"nodes": {}},
    {"nodes": [], "nods": []},
    {"nodes": ["a"]},
    {"nodes": [{"path": "a"}]},
    {"nodes": [{"id": "a b", "path": "a"}]},
    {"nodes": [{"id": "dora", "path": "a"}]},
    {"nodes": [{"id": "a", "path": ""}]},
    {"nodes": [{"id": "a", "path": "a", "pth": 1}]},
    {"nodes": [{"id": "a", "path": "a", "outputs": "x"}]},
    {"nodes": [{"id": "a", "path": "a", "outputs": ["/x"]}]},
    {"nodes": [{"id": "a", "path": "a", "outputs": [{"x": {}, "y": {}}]}]},
    {"nodes": [{"id": "a", "path": "a", "outputs": [{"x": 1}]}]},
    {"nodes": [{"id": "a", "path": "a", "outputs": [{"x": {"latched": 0}}]}]},
    {"nodes": [{"id": "a", "path": "a", "outputs": [{"x": {"latched": {"depth": 1001}}}]}]},
    {"nodes": [{"id": "a", "path": "a", "outputs": [{"x": {"latch": 1}}]}]},
    {"nodes": [{"id": "a", "path": "a", "inputs": ["x"]}]},
    {"nodes": [{"id": "a", "path": "a", "inputs": {"i": "x"}}]},
    {"nodes": [{"id": "a", "path": "a", "inputs": {"i": {"queue_size": 1}}}]},
    {"nodes": [{"id": "a", "path": "a", "inputs": {"i": {"source": "dora/logs", "queue": 1}}}]},
    {"nodes": [{"id": "a", "path": "a", "restart_policy": "sometimes"}]},
    {"nodes": [{"id": "a", "path": "a", "restart_delay": -1}]},
    {"nodes": [{"id": "a", "path": "a", "startup_timeout": -1}]},
    {"nodes": [{"id": "a", "path": "a", "max_restarts": "3"}]},
    {"nodes": [{"id": "a", "path": "a", "min_log_level": "loud"}]},
    {"nodes": [{"id": "a", "path": "a", "max_log_size": "many"}]},
    {"nodes": [{"id": "a", "path": "a", "max_rotated_files": -1}]},
    {"nodes": [{"id": "a", "path": "a", "env": {"A": [1]}}]},
    {"nodes": [{"id": "a", "path": "a", "preload": "torch"}]},
    {"nodes": [{"id": "a", "path": "a", "preload": ["opencv-python"]}]},
    {"nodes": [{"id": "a", "path": "a", "deploy": {"machine": "b c"}}]},
    {"nodes": [{"id": "a", "path": "a", "deploy": {"labels": ["gpu"]}}]},
    {"nodes": [{"id": "a", "operator": "o.py"}]},
    {"nodes": [{"id": "a", "operators": []}]},
    {"nodes": [{"id": "a", "operators": [{"python": "o.py"}]}]},
    {"nodes": [{"id": "a", "operator": {"python": {"conda_env": "x"}}}]},
    {"nodes": [], "exit_when_nodes_finish": "yes"},
    {"nodes": [], "debug": {"all": True}},
    {"nodes": [], "preload": [".a"]},
]


@pytest.mark.parametrize("document", BAD, ids=str)
def test_the_schema_refuses_invalid_dataflows(document: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(document)
    with pytest.raises(DataflowError):
        dora.dataflow.parse(json.dumps(document), working_dir="/", environ={})


def test_unsupported_fields_are_marked_in_the_schema() -> None:
    for block in BLOCKS.values():
        for field in block.fields.values():
            if isinstance(field.field_type, UnsupportedType):
                assert field.description.endswith("Not supported by this version."), field.name
