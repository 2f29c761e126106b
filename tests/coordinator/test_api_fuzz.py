"""Random requests to every operation of the OpenAPI document get answers that the document foretells."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rounds import ROUNDS
from serving import ObedientDaemon, Serving, serving
from tokens import TOKEN

from dora.cluster.coordinator.openapi import OPERATIONS, document
from dora.cluster.coordinator.policy import dataflow_of
from dora.cluster.coordinator.store import Store
from dora.cluster.protocol import RunSpec
from dora.cluster.refusal import Refusal
from dora.dataflow.describe import describe
from dora.dataflow.edit import make_change
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec
from dora.errors import DoraError
from dora.wire.operations import (
    AddOperation,
    ConnectOperation,
    DisconnectOperation,
    RemoveOperation,
    ReplaceOperation,
    TopologyOperation,
)

pytestmark = pytest.mark.processes

DOCUMENT = document()
OF_DATAFLOWS = [item for item in OPERATIONS if item.path != "/api/down"]

texts = st.text(max_size=12) | st.sampled_from(["arm", "", ".", "..", "\0", "/", "%", "a" * 300, "💡"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
keys = st.sampled_from(["spec", "name", "dataflow", "nodes", "id", "working_dir", "grace", "force", "file"])
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | texts, inner, max_size=4),
    max_leaves=12,
)
dataflows = st.fixed_dictionaries(
    {
        "nodes": st.lists(st.fixed_dictionaries({"id": scalars}, optional={"env": values}), max_size=2),
        "working_dir": st.just("/tmp") | scalars,
    },
    optional={"file": scalars, "env": values, "types": values},
)
bodies = (
    st.binary(max_size=20)
    | values.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
    | dataflows.map(lambda value: json.dumps({"spec": {"name": "", "dataflow": value}}).encode())
)
queries = st.dictionaries(
    st.sampled_from(["until", "timeout", "x"]),
    st.sampled_from(["ended", "started", "0", "-1", "nan", "inf", "soon", ""]),
    max_size=3,
)
kinds = st.sampled_from(["application/json", "application/json; charset=utf-8", "text/plain", ""])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    path = str(tmp_path_factory.mktemp("fuzz") / "store.sqlite")
    with serving(lambda: Store(path)) as served:
        daemon = ObedientDaemon(served)
        yield served
        daemon.close()


def allowed(item: Any) -> set[int]:
    responses = DOCUMENT["paths"][item.path][item.method]["responses"]
    return {int(status) for status in responses}


@pytest.mark.slow
@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(st.sampled_from(OF_DATAFLOWS), texts, queries, bodies, kinds)
def test_every_answer_is_foretold(
    served: Serving, item: Any, name: str, query: dict[str, str], body: bytes, kind: str
) -> None:
    if query.get("timeout", "inf") == "inf":
        query = {**query, "timeout": "0"}  # or the test would take a minute
    path = item.path.replace("{dataflow}", quote(name, safe=""))
    headers = {"content_type": kind} if kind else {}
    status, text = served.ask(item.method.upper(), f"{path}?{urlencode(query)}", body, **headers)
    elsewhere = {404, 405} if "/" in name or not name else set()  # another path, or none
    assert status in allowed(item) | elsewhere, (item.method, path, body, text)
    answer = json.loads(text)
    if status >= 400:
        assert set(answer) == {"error"} and answer["error"], answer


def test_nothing_is_left_that_cannot_be_listed(served: Serving) -> None:
    status, text = served.ask("GET", "/api/dataflows")
    assert status == 200
    assert {view["status"] for view in json.loads(text)} <= {"Starting", "Running", "Finished"}


@pytest.mark.parametrize("tag", [{}, {"type": "node"}, {"type": "timer"}, {"type": 1}])
def test_the_document_requires_the_tags_that_the_api_requires(tag: dict[str, Any]) -> None:
    source = {**tag, "node": "a", "output": "o"}
    node = NodeSpec("a", outputs=("o",), inputs=(InputSpec("i", NodeOutput("a", "o")),))
    path = {"source": source, "node": "a", "input": "i", "budget_ns": 1}
    dataflow = {**json.loads(msgspec.json.encode(Dataflow((node,), "/"))), "paths": [path]}
    schema = {"$ref": "#/components/schemas/Dataflow", "components": DOCUMENT["components"]}
    is_valid = jsonschema.Draft202012Validator(schema).is_valid(dataflow)
    try:
        dataflow_of(RunSpec(name="arm", dataflow=dataflow))
    except Refusal:
        assert not is_valid
    else:
        assert is_valid


documents = st.recursive(
    scalars | st.just("a") | st.lists(st.just({"id": "a"})),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["nodes", "id", "inputs", "outputs", "operator", "operators", "env"]), inner
        )
        | st.dictionaries(texts, inner, max_size=2)
    ),
    max_leaves=12,
)
operations = (
    st.builds(AddOperation, st.sampled_from(["", "id: b", "{id: b, path: b.py}", "[]"]))
    | st.builds(ReplaceOperation, st.just("a"), st.sampled_from(["", "path: b.py", "id: a"]))
    | st.just(RemoveOperation("a"))
    | st.just(ConnectOperation("a/o", "a/j"))
    | st.just(DisconnectOperation("a/o", "a/i"))
)


@pytest.mark.slow
@settings(max_examples=500, derandomize=True, deadline=None, database=None)
@given(documents | st.fixed_dictionaries({"nodes": documents}), operations)
def test_a_dataflow_with_any_document_can_be_changed_or_the_change_is_refused(
    descriptor: Any, operation: TopologyOperation
) -> None:
    node = NodeSpec("a", outputs=("o",), inputs=(InputSpec("i", NodeOutput("a", "o")),))
    dataflow = {**msgspec.to_builtins(Dataflow((node,), "/")), "descriptor": descriptor}
    spec = RunSpec(name="arm", dataflow=dataflow)
    try:
        running = dataflow_of(spec)
    except Refusal:
        return  # it does not start
    describe(running)
    try:
        make_change(operation, running, {})
    except DoraError as error:
        assert str(error)


@pytest.mark.fuzz
@pytest.mark.timeout(900)
def test_schemathesis(tmp_path: Path) -> None:
    """What reads the document finds no answer that is not in it."""
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION.format(examples=ROUNDS))
    with serving(lambda: Store(str(tmp_path / "store.sqlite"))) as served:
        daemon = ObedientDaemon(served)
        body = b'{"spec": {"name": "arm", "dataflow": {"nodes": [{"id": "a"}], "working_dir": "/"}}}'
        assert served.ask("POST", "/api/dataflows", body, content_type="application/json")[0] == 201
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "schemathesis.cli",
                "run",
                "--suppress-health-check=too_slow",  # which a busy machine would be
                "--header",
                f"Authorization: Bearer {TOKEN}",
                f"http://127.0.0.1:{served.port}/openapi.json",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        print(done.stdout[-20000:], done.stderr[-5000:])
        assert done.returncode == 0
        assert served.ask("GET", "/api/status")[0] == 200
        daemon.close()


CONFIGURATION = """
seed = 1
continue-on-failure = true

[generation]
max-examples = {examples}

[[operations]]
include-path = "/api/down"
enabled = false

# `arm` is not what a sequence of requests has just made, and may have been removed by another one.
[[operations]]
include-path = "/api/dataflows/{{dataflow}}/wait"
parameters = {{ dataflow = "arm", timeout = 0.01 }}
checks = {{ ensure_resource_availability = {{ enabled = false }} }}

[[operations]]
include-path-regex = "/(stop|restart)$"
parameters = {{ dataflow = "arm" }}
checks = {{ ensure_resource_availability = {{ enabled = false }} }}

# A dataflow is refused whose inputs name no output; a schema cannot say so.
[[operations]]
include-path-regex = "^/api/dataflows$|/requests$"
checks = {{ positive_data_acceptance = {{ enabled = false }} }}
"""
