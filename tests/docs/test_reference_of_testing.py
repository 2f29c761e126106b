"""The references of `dora.testing` and `dora.builder` tell of everything that is public."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

import dora.builder
import dora.testing

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
TESTING = (REFERENCE / "testing.md").read_text()
BUILDER = (REFERENCE / "builder.md").read_text()


def words(object_: object) -> list[str]:
    return [name for name in inspect.signature(object_).parameters if name not in ("self", "fields")]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", dora.testing.__all__)
def test_every_name_of_testing_is_there(name: str) -> None:
    assert f"`{name}" in TESTING
    assert getattr(dora.testing, name).__doc__


@pytest.mark.parametrize(
    "name", ["run_node", "run_operator", "VirtualDataflow", "MockNode", "run_dataflow"]
)
def test_every_argument_is_there(name: str) -> None:
    missing = [word for word in words(getattr(dora.testing, name)) if word not in TESTING]
    assert missing == []


@pytest.mark.parametrize(
    "name", [name for name in vars(dora.testing.VirtualDataflow) if not name.startswith("_")]
)
def test_every_member_of_a_virtual_dataflow_is_there(name: str) -> None:
    if name != "raise_failure":  # what `advance` and `run` do
        assert f"`{name}" in TESTING


@pytest.mark.parametrize("kind", ["DataflowBuilder", "Node", "Operator"])
def test_every_member_of_the_builder_is_there(kind: str) -> None:
    class_ = getattr(dora.builder, kind)
    for name, member in inspect.getmembers(class_, inspect.isfunction):
        if not name.startswith("_"):
            assert f"{name}(" in BUILDER
            assert [word for word in words(member) if word not in BUILDER] == []
    assert [word for word in words(class_) if word not in BUILDER] == []
