"""The `parameters` of a node in the dataflow file."""

from __future__ import annotations

import pytest

from dora.dataflow import parse
from dora.dataflow.names import key_fault, value_fault
from dora.errors import DataflowError


def parameters(text: str) -> object:
    source = f"nodes:\n  - id: a\n    path: a.py\n    parameters: {text}\n"
    return parse(source, file="f.yml", working_dir="/", environ={}).nodes[0].parameters


def test_parameter_values_keep_their_types() -> None:
    values = parameters("{gain: 0.5, on: true, name: fast, none: null, list: [1, {a: b}]}")
    assert values == {"gain": 0.5, "on": True, "name": "fast", "none": None, "list": [1, {"a": "b"}]}


def test_a_node_has_none_by_default() -> None:
    assert parameters("") == {}
    assert parameters("{}") == {}


def test_a_runtime_may_have_parameters() -> None:
    source = "nodes: [{id: a, operator: {python: a.py}, parameters: {x: 1}}]"
    assert parse(source, file="f.yml", working_dir="/", environ={}).nodes[0].parameters == {"x": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected a mapping of parameters, found a list"),
        ("{x: .inf}", "the value of the parameter `x` has inf, which JSON does not know"),
        ("{'': 1}", "the name of a parameter is empty"),
        (f"{{{'k' * 257}: 1}}", "the name of a parameter has 257 bytes, more than 256"),
        (f"{{x: {'v' * 70000}}}", "the value of the parameter `x` has 70002 bytes as JSON"),
    ],
)
def test_an_invalid_parameter_is_shown_at_its_place(text: str, message: str) -> None:
    with pytest.raises(DataflowError) as raised:
        parameters(text)
    (problem,) = raised.value.problems
    assert message in problem.message
    assert problem.line == 4


def test_a_text_that_is_not_utf8_is_refused() -> None:
    fault = "has a text that is not UTF-8"
    assert [value_fault(value) for value in ("\ud800", ["\ud800"], {"\ud800": 1})] == [fault] * 3
    assert key_fault("\ud800") == "is not UTF-8"
