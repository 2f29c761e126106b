"""Dataflows written in Python."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import dora
from dora import DataflowError, DoraError
from dora.builder import DataflowBuilder, DataflowFields, Node, NodeFields, Operator, OperatorFields
from dora.dataflow import load, parse
from dora.dataflow.parser.fields import DATAFLOW, NODE_BLOCK, OPERATOR_BLOCK


def loaded(builder: DataflowBuilder) -> Any:
    text = builder.to_yaml()
    assert text is not None
    return parse(text, working_dir="/nowhere", environ={})


def test_numbers_of_numpy_enums_and_ranges_are_plain_values() -> None:
    class Colour(enum.Enum):
        RED = "red"

    builder = DataflowBuilder()
    values = {
        "gain": np.float64(0.5),
        "table": np.eye(2),
        "colour": Colour.RED,
        "by_colour": {Colour.RED: np.float32(0.5)},
        "ids": range(2),
        "on": np.True_,
    }
    builder.add_node("a", path="a.py", nice=np.int64(3), parameters=values)
    (node,) = loaded(builder).nodes
    assert node.parameters == {
        "gain": 0.5,
        "table": [[1.0, 0.0], [0.0, 1.0]],
        "colour": "red",
        "by_colour": {"red": 0.5},
        "ids": [0, 1],
        "on": True,
    }


def test_programs_written_for_dora_rs_work() -> None:
    builder = DataflowBuilder("x")
    camera = builder.add_node("a", path="a.py")
    image = camera.add_output("img")
    assert str(image) == "a/img"
    node = builder.add_node("b").path("b.py").args("--x 1").env({"A": "1"}).build("pip install x")
    node.add_input("i", image).add_input("j", "dora/timer/millis/10", queue_size=3)
    node.add_input("k", "a/img", queue_policy="backpressure")
    assert node.to_dict() == {
        "id": "b",
        "path": "b.py",
        "args": "--x 1",
        "env": {"A": "1"},
        "build": "pip install x",
        "inputs": {
            "i": "a/img",
            "j": {"source": "dora/timer/millis/10", "queue_size": 3},
            "k": {"source": "a/img", "queue_policy": "backpressure"},
        },
    }
    assert builder.nodes == [camera, node]
    assert yaml.safe_load(builder.to_yaml() or "") == builder.to_dict()
    with DataflowBuilder() as other:
        assert other.name == "dora-dataflow"


def test_git_and_operators_are_written_as_dora_rs_writes_them() -> None:
    node = Node("c").git("http://x", branch="m")
    operator = Operator("op", name="N", python="op.py", shared_library="x", build="b", send_stdout_as="q")
    assert node.add_operator(operator) is node
    assert node.to_dict() == {
        "id": "c",
        "git": "http://x",
        "branch": "m",
        "operators": [
            {
                "id": "op",
                "name": "N",
                "build": "b",
                "python": "op.py",
                "shared-library": "x",
                "send_stdout_as": "q",
            }
        ],
    }


def test_config_has_the_fields_of_nodes_and_operators() -> None:
    image = Node("a").add_output("image")
    node = Node("b", path="b.py").add_input("i", image).add_input("j", image, queue_size=1)
    node.add_output("out")
    node.add_output("out")
    assert node.config == {
        "id": "b",
        "path": "b.py",
        "inputs": {"i": "a/image", "j": {"source": "a/image", "queue_size": 1}},
        "outputs": ["out"],
    }
    node.config["restart_policy"] = "always"
    assert node.to_dict()["restart_policy"] == "always"
    operator = Operator("op", python="op.py")
    assert operator.config == {"id": "op", "python": "op.py"}
    assert Node("c").add_operator(operator).operators == [operator]


@pytest.mark.parametrize("options", [{"queue_size": 0}, {"queue_policy": "newest"}, {"keep": "stop"}])
def test_wrong_options_of_inputs_are_refused_at_once(options: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        Node("a").add_input("i", "b/o", **options)


def test_operators_have_inputs_and_outputs() -> None:
    builder = DataflowBuilder()
    number = builder.add_node("source", path="source.py").add_output("number")
    double = Operator("double", python="op.py").add_input("n", number, queue_size=5, input_timeout=2.5)
    again = Operator("again", python={"source": "op.py"})
    builder.add_node("maths").add_operator(double).add_operator(again)
    again.add_input("n", double.add_output("twice"))
    four_times = again.add_output("twice")
    builder.add_node("sink", path="sink.py").add_input("n", four_times)
    dataflow = loaded(builder)
    maths = dataflow.node("maths")
    assert [(item.id, str(item.source)) for item in maths.inputs] == [
        ("double/n", "source/number"),
        ("again/n", "maths/double/twice"),
    ]
    assert maths.inputs[0].input_timeout == 2.5
    assert str(dataflow.node("sink").inputs[0].source) == "maths/again/twice"


def test_an_operator_is_part_of_one_node() -> None:
    operator = Operator("op", python="op.py")
    with pytest.raises(DoraError, match="not part of a node yet"):
        str(operator.add_output("o"))
    Node("a").add_operator(operator)
    with pytest.raises(DoraError, match="part of node `a` already"):
        Node("b").add_operator(operator)


def test_outputs_are_declared_once_and_lists_of_the_caller_are_left_alone() -> None:
    names = ["x"]
    node = Node("a", outputs=names)
    node.add_output("y")
    node.add_output("y")
    assert node.to_dict()["outputs"] == ["x", "y"]
    assert names == ["x"]
    common: Any = [{"id": "log", "python": "log.py"}]
    first, second = Node("b", operators=common), Node("c", operators=common)
    first.add_operator(Operator("op", python="op.py"))
    assert [item["id"] for item in first.to_dict()["operators"]] == ["log", "op"]
    assert second.to_dict()["operators"] == common == [{"id": "log", "python": "log.py"}]


def test_every_field_of_yaml_has_a_parameter() -> None:
    assert set(get_type_hints(NodeFields)) == set(NODE_BLOCK.fields) - {"id"}
    assert set(get_type_hints(DataflowFields)) == set(DATAFLOW.fields) - {"nodes"}
    own = {"name", "description", "build", "python", "shared-library", "send_stdout_as"}
    assert set(get_type_hints(OperatorFields)) | own == set(OPERATOR_BLOCK.fields) - {"id"}


TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20),
    st.sampled_from(
        [
            "1e3",
            "yes",
            "on",
            "null",
            "~",
            "0o17",
            "017",
            "1:30",
            "-",
            "- a",
            "#",
            "a: b",
            " x ",
            ".nan",
            "1.",
        ]
    ),
)


@pytest.mark.lengthy
@given(
    st.dictionaries(st.sampled_from(["A", "B", "C"]), st.one_of(TEXTS, st.integers(), st.booleans())),
    TEXTS,
    st.floats(min_value=1e-6, max_value=1e9, allow_nan=False),
)
def test_written_yaml_reads_the_same_in_every_parser(env: Any, name: str, delay: float) -> None:
    builder = DataflowBuilder(env=env, exit_when_nodes_finish=True)
    builder.add_node("a", path="a.py", name=name, description=name, restart_delay=delay)
    text = builder.to_yaml() or ""
    from dora.dataflow.problems import ProblemReport
    from dora.dataflow.yaml.compose import compose
    from dora.dataflow.yaml.tree import MappingNode

    root = compose(text, ProblemReport(text, "x"))
    assert isinstance(root, MappingNode)
    assert root.plain() == builder.to_dict()
    assert yaml.safe_load(text) == builder.to_dict()


def test_a_file_can_be_written(tmp_path: Path) -> None:
    builder = DataflowBuilder()
    builder.add_node("a", path="a.py")
    assert builder.to_yaml(tmp_path / "flow.yml") is None
    assert [node.id for node in load(tmp_path / "flow.yml").nodes] == ["a"]


def test_validate_finds_mistakes_and_missing_files(tmp_path: Path) -> None:
    builder = DataflowBuilder("mine", working_dir=tmp_path)
    builder.add_node("a", path="a.py", outptus=["x"]).add_input("i", "b/o")  # type: ignore[call-arg]
    with pytest.raises(DataflowError) as raised:
        builder.validate()
    assert "did you mean `outputs`" in str(raised.value)
    assert "there is no node `b`" in str(raised.value)
    assert "<mine>" in str(raised.value)
    builder = DataflowBuilder(working_dir=tmp_path)
    builder.add_node("a", path="a.py")
    with pytest.raises(DataflowError, match="there is no file"):
        builder.validate()
    (tmp_path / "a.py").write_text("")
    assert builder.validate() == ()


@pytest.mark.processes
def test_a_builder_runs_its_dataflow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hello.py").write_text("from dora import Node\nNode()\nprint('hello')\n")
    builder = DataflowBuilder("arms/left", working_dir=tmp_path)
    builder.add_node("hello", path="hello.py", build="echo built")
    builder.build()
    assert builder.run().ok
    out = capsys.readouterr().out
    assert "built" in out
    assert "hello" in out
    assert not list(tmp_path.glob(".*.yml")) + list(tmp_path.glob("out/*.dora-session.yaml"))


def test_options_of_an_output_are_added_to_those_before() -> None:
    node = Node("camera")
    node.add_output("image", latched=2)
    node.add_output("image", description="what it sees")
    assert node.to_dict()["outputs"] == [{"image": {"latched": 2, "description": "what it sees"}}]


def test_problems_name_the_builder_when_a_dataflow_is_run(tmp_path: Path) -> None:
    builder = DataflowBuilder("mine", working_dir=tmp_path)
    builder.add_node("a", path="a.py").add_input("i", "b/o")
    for use in (builder.build, builder.run):
        with pytest.raises(DataflowError, match=r"^<mine>:5:8: error: there is no node `b`"):
            use()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    builder = DataflowBuilder(working_dir=tmp_path / "missing")
    builder.add_node("a", path="a.py")
    with pytest.raises(DoraError, match=r"cannot write .* No such file or directory; give the builder"):
        builder.run()


def test_the_module_is_an_attribute_like_in_dora_rs() -> None:
    assert dora.builder.DataflowBuilder is DataflowBuilder


def test_a_path_gets_a_budget() -> None:
    flow = DataflowBuilder()
    image = flow.add_node("camera", path="camera.py").add_output("image")
    flow.add_node("motor", path="motor.py").add_input("image", image)
    flow.add_path(image, "motor/image", "40ms", on_miss="event", after=3)
    (path,) = flow.check().paths
    assert (str(path.source), path.sink, path.budget_ns) == ("camera/image", "motor/image", 40_000_000)
    assert (path.on_miss, path.after) == ("event", 3)
