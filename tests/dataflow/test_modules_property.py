"""Whatever the modules: all links are there, and writing them out again changes nothing."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dora.dataflow
import dora.errors
from dora.dataflow.describe import describe
from dora.dataflow.json_schema import json_schema
from dora.dataflow.layout import RunContext
from dora.dataflow.plan import plan

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


@st.composite
def projects(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Draw the files of a project, and the links of the dataflow as (source, input).

    Modules use those after them. Every module has an input port ``i``, perhaps an optional one, and an
    output ``o``; every node sends ``x<n>``, and the one that makes the module's output ``o`` too.
    """
    count = draw(st.integers(0, 3))
    files: dict[str, Any] = {}
    for number in range(count, -1, -1):
        nodes: list[dict[str, Any]] = []
        sources = ["_mod/i", "_mod/j"] if number else ["dora/timer/millis/5"]
        for index in range(draw(st.integers(1, 4))):
            chosen = draw(st.sampled_from(sources))
            shape: Any = draw(st.sampled_from([chosen, {"source": chosen, "queue_size": 3}]))
            if number < count and draw(st.booleans()):
                used = draw(st.integers(number + 1, count))
                # A port that has to be connected cannot be fed by one that may be open.
                required = chosen if chosen != "_mod/j" else "_mod/i"
                inputs = {"i": required} if draw(st.booleans()) else {"i": required, "j": shape}
                nodes.append({"id": f"n{index}", "module": f"m{used}.yml", "inputs": inputs})
                sources.append(f"n{index}/o{used}")
            else:
                outputs = [f"x{index}"]
                node: dict[str, Any] = {"outputs": outputs, "inputs": {"a": shape, "b/c": chosen}}
                if draw(st.booleans()):
                    nodes.append({"id": f"n{index}", "operators": [{"id": "p", "python": "p.py", **node}]})
                    sources.append(f"n{index}/p/x{index}")
                else:
                    nodes.append({"id": f"n{index}", "path": "a.py", **node})
                    sources.append(f"n{index}/x{index}")
        nodes.append({"id": "end", "path": "e.py", "inputs": {"z": sources[-1]}, "outputs": [f"o{number}"]})
        header = {"name": "m", "inputs": ["i"], "inputs_optional": ["j"], "outputs": [f"o{number}"]}
        files[f"m{number}.yml" if number else "flow.yml"] = (
            {"module": header, "nodes": nodes} if number else {"nodes": nodes}
        )
    return files, list(_links(files, "flow.yml", "", {}))


def _links(files: dict[str, Any], name: str, prefix: str, ports: dict[str, str]) -> Any:
    """Yield the links of a file, by following each port by hand."""
    nodes = files[name]["nodes"]
    modules = {node["id"]: node["module"] for node in nodes if "module" in node}

    def resolve(source: Any) -> str | None:
        text = source["source"] if isinstance(source, dict) else source
        node, _, output = text.partition("/")
        if node == "_mod":
            return ports.get(output)
        if node in modules:
            return f"{prefix}{node}.end/{output}"
        return text if node == "dora" else f"{prefix}{text}"

    for node in nodes:
        inputs = {port: resolve(source) for port, source in node.get("inputs", {}).items()}
        connected = {port: source for port, source in inputs.items() if source is not None}
        if "module" in node:
            yield from _links(files, node["module"], f"{prefix}{node['id']}.", connected)
            continue
        for port, source in connected.items():
            yield source, f"{prefix}{node['id']}/{port}"
        for operator in node.get("operators", ()):
            for port, source in operator["inputs"].items():
                if (found := resolve(source)) is not None:
                    yield found, f"{prefix}{node['id']}/p/{port}"


@pytest.mark.lengthy
@settings(max_examples=60, deadline=None)
@given(projects())
def test_every_link_is_there_and_writing_out_twice_changes_nothing(
    project: tuple[dict[str, Any], list[tuple[str, str]]],
) -> None:
    files, links = project
    with tempfile.TemporaryDirectory() as folder:
        for name, document in files.items():
            Path(folder, name).write_text(json.dumps(document))
        dataflow = dora.dataflow.load(f"{folder}/flow.yml")
        text = dora.dataflow.expanded(f"{folder}/flow.yml")
        Path(folder, "flat.yml").write_text(text)
        assert dora.dataflow.expanded(f"{folder}/flat.yml") == text
        flat = dora.dataflow.load(f"{folder}/flat.yml")
    found = [(str(item.source), f"{node.id}/{item.id}") for node in dataflow.nodes for item in node.inputs]
    assert sorted(found) == sorted(links)
    ids = [node.id for node in dataflow.nodes]
    assert len(set(ids)) == len(ids)
    assert describe(flat) == describe(dataflow)
    VALIDATOR.validate(flat.descriptor)


PROJECT = {
    "flow.yml": """
nodes:
  - {id: cam, path: cam.py, outputs: [image], output_types: {image: my/v1/Frame}}
  - id: pipe
    module: m.yml
    inputs: {frames: {source: cam/image, queue_size: 2}}
    params: {size: 5}
  - {id: end, path: nodes/end.py, inputs: {boxes: pipe/boxes}}
""",
    "m.yml": """
module: {name: m, inputs: [frames], inputs_optional: [config], outputs: [boxes]}
build: make
nodes:
  - id: find
    path: find.py
    args: --size $PARAM_SIZE
    inputs: {frame: _mod/frames, config: _mod/config}
    input_types: {frame: "my/v1/Frame[a=b]"}
    outputs: [boxes]
""",
    "types/my/v1.yml": """
types:
  Frame: {arrow: Struct, fields: [{name: data, type: LargeBinary}, {name: at, type: List<Point>}]}
  Point: {arrow: Struct, fields: [{name: x, type: Float32}]}
""",
    "nodes/dora-node.yml": """
apiVersion: 1
namespace: me
runtime: python
entrypoint: end.py
inputs: {boxes: {type: std/vision/v1/Detection, required: true}}
""",
}


@pytest.mark.lengthy
@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(PROJECT)),
    st.integers(0, 600),
    st.integers(0, 8),
    st.text(alphabet="ab/:-[]{}&*'\" \n\t$_.<>=", max_size=4),
)
def test_any_typing_mistake_in_any_file(name: str, place: int, removed: int, typed: str) -> None:
    text = PROJECT[name]
    place %= len(text)
    changed = {**PROJECT, name: text[:place] + typed + text[place + removed :]}
    with tempfile.TemporaryDirectory() as folder:
        for file, content in changed.items():
            path = Path(folder, file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        try:
            dataflow = dora.dataflow.load(f"{folder}/flow.yml", environ={})
        except dora.errors.DataflowError as error:
            problems = error.problems
            assert any(problem.severity == "error" for problem in problems)
        else:
            problems = (*dataflow.warnings, *dataflow.type_warnings)
            VALIDATOR.validate(dataflow.descriptor)
            plan(dataflow, RunContext("id", "/run", "p_", "/board"))
    for problem in problems:
        assert problem.line >= 1 and problem.column >= 1 and problem.width >= 1
        assert problem.message and "pipe.find" not in problem.message
        assert problem.file.startswith(folder)


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(
        ["yes", "007", "1e3", "0x1F", "1_0", "a: b", "- a", "#", "<<", "~", "a\nb\n", " a", "é", "null"]
    )
)


@pytest.mark.lengthy
@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        values,
        lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below, max_size=3),
        max_leaves=8,
    )
)
def test_a_written_tree_reads_as_the_same_tree(value: Any) -> None:
    from dora.dataflow.problems import ProblemReport
    from dora.dataflow.yaml.compose import compose
    from dora.dataflow.yaml.tree import MappingNode, to_yaml

    text = json.dumps({"x-a": value}, allow_nan=False)
    report = ProblemReport(text, "a.yml")
    root = compose(text, report)
    if report.failed:  # characters that no file may hold
        return
    assert isinstance(root, MappingNode)
    written = to_yaml(root)
    again = compose(written, ProblemReport(written, "b.yml"))
    assert again is not None
    assert again.plain() == root.plain(), written
