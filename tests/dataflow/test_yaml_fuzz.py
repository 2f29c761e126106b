"""Whatever the text: a dataflow or a `DataflowError`, and the schema agrees with the parser."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dora.dataflow
from dora.dataflow.json_schema import json_schema
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.parser.fields import DATAFLOW, DEBUG, INPUT, NODE_BLOCK, OPERATOR_BLOCK
from dora.dataflow.plan import plan
from dora.errors import DataflowError

VALIDATOR = jsonschema.Draft202012Validator(json_schema())
fuzz = settings(max_examples=150, deadline=None)

SEED = """
x-a: &a {restart_policy: always}
env: {A: "$HOME", B: 'x'}
nodes:
  - <<: *a
    id: cam
    path: cam.py  # comment
    args: --size "640 480"
    inputs: {tick: dora/timer/millis/50, l: {source: dora/logs/warn, queue_size: 1}}
    outputs: [image]
  - id: det
    operators:
      - id: one
        python: det.py
        inputs:
          image: cam/image
        outputs: [box]
"""


def read(text: str) -> Dataflow | None:
    try:
        dataflow = dora.dataflow.parse(text, working_dir="/w", environ={"HOME": "/h"})
    except DataflowError as error:
        assert error.problems
        assert any(problem.severity == "error" for problem in error.problems)
        for problem in error.problems:
            assert problem.line >= 1 and problem.column >= 1 and problem.width >= 1
            assert problem.message and "\n" not in problem.hint
        assert str(error)
        return None
    # What comes out can be sent to nodes, laid out, and shown.
    msgspec.msgpack.encode(dataflow.descriptor)
    plan(dataflow, RunContext("id", "/run", "p_", "/board"))
    dora.dataflow.missing_files(dataflow)
    return dataflow


@pytest.mark.lengthy
@fuzz
@given(st.text(max_size=80))
def test_any_text(text: str) -> None:
    read(text)


@fuzz
@given(st.text(alphabet="ab:-[]{}#&*!|>'\"%@`,? \n\t~<\\x0", max_size=60))
def test_any_punctuation(text: str) -> None:
    read(text)


@pytest.mark.lengthy
@fuzz
@given(st.integers(0, len(SEED)), st.integers(0, 6), st.text(alphabet="ab/:-[]{}&*'\" \n\t$", max_size=4))
def test_any_typing_mistake(place: int, removed: int, typed: str) -> None:
    read(SEED[:place] + typed + SEED[place + removed :])


NAMES = sorted(
    {name for block in (DATAFLOW, DEBUG, INPUT, NODE_BLOCK, OPERATOR_BLOCK) for name in block.fields}
)
WORDS = [
    "a",
    "b",
    "a/x",
    "a/op/x",
    "dora/timer/hz/5",
    "dora/logs/info/a",
    "x.py",
    "shell",
    "dynamic",
    "$HOME",
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([*WORDS, "always", "5MB", "warn", "raw", "", "http://x"])
)
keys = st.sampled_from([*NAMES, "x-note", "custom", "image", "<<"]) | st.text(max_size=3)
trees = st.recursive(
    scalars,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(keys, below, max_size=5),
    max_leaves=25,
)
nodes = st.fixed_dictionaries(
    {"id": st.sampled_from("abc")}, optional={name: trees for name in NODE_BLOCK.fields if name != "id"}
)


@pytest.mark.slow
@pytest.mark.lengthy
@fuzz
@given(trees | st.fixed_dictionaries({"nodes": st.lists(nodes | trees, max_size=3)}))
def test_any_tree(tree: Any) -> None:
    read(json.dumps(tree))


text_values = st.sampled_from(WORDS) | st.integers(-5, 5) | st.booleans() | st.floats(-5, 5)
seconds = st.floats(0.001, 1e6) | st.integers(1, 100)
sizes = st.sampled_from([1, 4096, 1.5, "5MB", "1 k", "2GiB"])
sources = st.sampled_from(
    ["a/x", "dora/timer/millis/5", "dora/timer/hz/2.5", "dora/logs", "dora/logs/Warn/a"]
)
optional = {
    "args": text_values | st.lists(text_values, max_size=3),
    "name": text_values,
    "env": st.dictionaries(st.sampled_from("ABC"), text_values, max_size=3),
    "build": st.sampled_from(["make", "a\nb\n", 1, ["a", "b"]]),
    "inputs": st.dictionaries(
        st.sampled_from(["i", "j/k", "1"]),
        sources
        | st.fixed_dictionaries(
            {"source": sources},
            optional={
                "queue_size": st.integers(0, 1000) | st.none(),
                "queue_policy": st.sampled_from(["drop_oldest", "backpressure"]),
                "input_timeout": seconds,
            },
        ),
        max_size=2,
    ),
    "restart_policy": st.sampled_from(["never", "on-failure", "always", None]),
    "restart_delay": seconds,
    "startup_timeout": seconds,
    "nice": st.integers(-20, 19),
    "scheduler": st.sampled_from(["fifo 50", "rr 1", "other", "batch", "idle", None]),
    "lock_memory": st.booleans(),
    "cpu_affinity": st.lists(st.integers(0, 8), max_size=3),
    "preload": st.booleans() | st.none() | st.lists(st.sampled_from(["a", "b.c"]), max_size=3),
    "min_log_level": st.sampled_from(["error", "Info", "STDOUT"]),
    "max_log_size": sizes,
    "shared_memory_pool_size": sizes,
    "send_stdout_as": st.just("x"),
    "git": st.sampled_from([None, "https://x.y/z"]),
    "python": st.sampled_from(
        [None, {}, {"version": 3.12}, {"version": ">=3.11,<3.13", "requirements": ["a"]}]
    ),
}
good_nodes = st.fixed_dictionaries({"path": st.sampled_from(["a.py", 5, "dynamic"])}, optional=optional)


@pytest.mark.lengthy
@fuzz
@given(st.lists(good_nodes, min_size=1, max_size=3))
def test_the_schema_accepts_random_valid_dataflows(drawn: list[dict[str, Any]]) -> None:
    document = {
        "nodes": [{"id": name, "outputs": ["x"], **node} for name, node in zip("abc", drawn, strict=False)]
    }
    dataflow = read(json.dumps(document))
    assert dataflow is not None
    VALIDATOR.validate(dataflow.descriptor)
