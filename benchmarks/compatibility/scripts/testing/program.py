"""Note how nodes behave without a daemon: errors, mocks, recorded inputs, the builder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import yaml
from notes import attempt, note

import dora
from dora.builder import DataflowBuilder, Operator
from dora.testing import MockNode

attempt("Node without a daemon", dora.Node)
attempt("a dynamic node without a daemon", dora.Node, "some-node")
attempt("a bad id", dora.Node, "a/b")
attempt("an empty id", dora.Node, "")
attempt("run without a file", dora.run, "absent.yml")
attempt("build without a file", dora.build, "absent.yml")

flow = DataflowBuilder("name")
sender = flow.add_node("sender", max_restarts=2).path("sender.py").args("-v").env({"A": "1"}).build("true")
value = sender.add_output("value")
receiver = flow.add_node("receiver").path("receiver.py")
receiver.add_input("value", value, queue_size=3)
receiver.add_input("policy", value, queue_size=3, queue_policy="backpressure")
receiver.add_input("tick", "dora/timer/millis/10")
cloned = flow.add_node("cloned").path("x.py").git("https://example.com/x.git", rev="abc")
runtime = flow.add_node("runtime").add_operator(Operator("op", name="N", python="op.py", build="true"))
attempt("yaml", lambda: yaml.safe_load(flow.to_yaml()))
attempt("yaml to a file", flow.to_yaml, "flow.yml")
note("yaml in the file", yaml.safe_load(Path("flow.yml").read_text()))
for name, node in {"sender": sender, "receiver": receiver, "cloned": cloned, "runtime": runtime}.items():
    attempt(f"{name} as a dictionary", node.to_dict)

mock = MockNode([("value", pa.array([1, 2])), {"type": "INPUT_CLOSED", "id": "value"}], {"name": "x"})
note("mock: events", [[event["type"], event.get("id"), event.get("metadata")] for event in mock])
attempt("mock: send", mock.send_output, "result", pa.array([1]))
note("mock: outputs", {name: list(values) for name, values in mock.outputs.items()})
for name in (
    "dataflow_descriptor",
    "dataflow_id",
    "node_config",
    "is_restart",
    "restart_count",
    "is_empty",
):
    attempt(f"mock: {name}", getattr(mock, name))
for name in ("next", "try_recv", "drain"):
    attempt(f"mock: {name} after the end", getattr(mock, name))
attempt("mock: timestamp", mock.timestamp)
attempt("mock: send_output_raw", lambda: mock.send_output_raw("result", 3) and None)
asking = MockNode([("value", b"x")], service_responses={"request": [pa.array([5])]})
attempt("mock: request", lambda: type(asking.send_service_request("request", pa.array([1]))).__name__)
note("mock: events with an answer", [[event["type"], event.get("id")] for event in asking])

INPUTS = {
    "id": "tested",
    "events": [
        {"time_offset_secs": 0.0, "type": "Input", "id": "value", "data": [1, 2], "metadata": {}},
        {"time_offset_secs": 0.1, "type": "Input", "id": "text", "data": "abc"},
        {"time_offset_secs": 0.2, "type": "InputClosed", "id": "value"},
        {"time_offset_secs": 0.3, "type": "Stop"},
    ],
}
PROGRAM = """
import json
from dora import Node
node = Node()
events = []
for event in node:
    value = event.get("value")
    events.append([event["type"], event.get("id"), None if value is None else str(value.type)])
    if event["type"] == "INPUT":
        node.send_output("result", event["value"], {"number": 1})
print("EVENTS" + json.dumps(events))
"""
with open("inputs.json", "w") as file:
    json.dump(INPUTS, file)
environment = {
    **os.environ,
    "DORA_TEST_WITH_INPUTS": "inputs.json",
    "DORA_TEST_WRITE_OUTPUTS_TO": "outputs.jsonl",
}
done = subprocess.run(
    [sys.executable, "-c", PROGRAM],
    env=environment,
    capture_output=True,
    text=True,
    stdin=subprocess.DEVNULL,
)
note("recorded inputs: exit status", done.returncode)
for line in done.stdout.splitlines():
    if line.startswith("EVENTS"):
        note("recorded inputs: events", json.loads(line.removeprefix("EVENTS")))
if os.path.exists("outputs.jsonl"):
    with open("outputs.jsonl") as file:
        lines = [json.loads(line) for line in file]
    note("recorded inputs: keys of outputs", sorted({key for line in lines for key in line}))
    note(
        "recorded inputs: outputs",
        [[line.get("id"), line.get("data"), line.get("data_type")] for line in lines],
    )
