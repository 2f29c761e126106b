"""A running dataflow changes, and its record with it: by commands and by the coordinator's API."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from contextlib import suppress
from typing import Any

import pytest
from system import FOREVER, System
from tokens import bearer
from waiting import TIMEOUT, wait_until

from dora.daemon.client import running
from dora.errors import ConnectError
from dora.observe.tap_session import inspect
from dora.wire.daemon_protocol import NodeView

pytestmark = pytest.mark.processes


def nodes() -> dict[str, NodeView]:
    """Return the nodes of the dataflow that was started last."""
    found = {}
    for run in running():
        with run, suppress(ConnectError):  # one that was restarted may just be ending
            found = {view.id: view for view in inspect(run).nodes}
    return found


def change(system: System, name: str, operation: Any) -> tuple[int, Any]:
    """Ask the API for a change; return the status and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=TIMEOUT)
    headers = {**bearer(), "Content-Type": "application/json"}
    connection.request("POST", f"/api/dataflows/{name}/requests", json.dumps(operation), headers)
    response = connection.getresponse()
    status, answer = response.status, json.loads(response.read())
    connection.close()
    return status, answer


SOURCE = """
from dora import Node
node = Node()
for event in node:
    node.send_output("out", b"1")
"""


@pytest.fixture
def system(shared: System) -> System:
    return shared


@pytest.fixture
def arm(system: System) -> str:
    """The UUID of a running dataflow `arm`: `a`, which sends, and `b`."""
    file = system.dataflow("arm", a=SOURCE, b=FOREVER)
    text = json.loads((system.folder / file).read_text())
    text["nodes"][0]["outputs"] = ["out"]
    (system.folder / file).write_text(json.dumps(text))
    (system.folder / "c.yml").write_text("id: c\npath: arm_b.py\ninputs: {x: a/out}\n")
    return system.start(file)


@pytest.mark.slow
def test_the_record_follows_and_counts_for_a_restart(system: System, arm: str) -> None:
    assert system.dora("node", "add", "--from-yaml", "c.yml") == f"Node `c` added to dataflow {arm}\n"
    options = ("--queue-size", "3", "--rate", "1hz", "--keep", "stop")
    assert system.dora("node", "connect", "a/out", "b/y", *options) == "a/out -> b/y\n"
    shown = ("topic", "info", "a/out", "--duration", "0.1s")
    wait_until(lambda: " thinned" in system.dora(*shown), "the new input to have its rate")
    refused = system.dora("node", "connect", "a/out", "b/z", "--max-age", "5", status=1)
    assert "<command line>:1:24: error: expected a duration with its unit, such as `50ms`" in refused
    assert system.dora("node", "disconnect", "a/out", "c/x") == "a/out -x- c/x\n"
    wait_until(lambda: system.client.dataflow(arm).nodes == ["a", "b", "c"], "the record with the new node")
    assert "its input `y` was connected to `a/out`" in system.dora("logs", "arm", "-n", "b")
    system.dora("restart", "arm")
    wait_until(lambda: len(nodes()) == 3, "the nodes of the restarted dataflow")
    found = {node_id: {item.id: item.source for item in node.inputs} for node_id, node in nodes().items()}
    assert found["b"] == {"tick": "dora/timer/millis/50", "y": "a/out"}
    assert found["c"] == {}
    assert system.dora("node", "remove", "c").startswith("Node `c` removed from dataflow ")
    wait_until(lambda: system.client.dataflow("arm").nodes == ["a", "b"], "the record without the node")


def test_a_change_waits_for_the_coordinator_that_commits_it(system: System, arm: str) -> None:
    os.kill(system.coordinator(), signal.SIGKILL)
    refused = system.dora("node", "add", "--from-yaml", "c.yml", status=1)
    assert refused.startswith("error: cannot connect to coordinator at 127.0.0.1:")
    system.dora("node", "restart", "b")  # which changes no dataflow, and needs no coordinator
    system.dora("up")
    system.dora("node", "add", "--from-yaml", "c.yml")
    assert system.client.dataflow(arm).nodes == ["a", "b", "c"]
    os.kill(system.coordinator(), signal.SIGKILL)
    system.dora("up")
    assert system.client.dataflow(arm).nodes == ["a", "b", "c"]
    system.dora("node", "remove", "c")
    assert sorted(nodes()) == ["a", "b"]


def parameters(system: System, node: str) -> Any:
    return json.loads(system.dora("param", "list", node, "-f", "json"))


@pytest.mark.usefixtures("arm")
def test_parameters_that_were_set_count_for_a_restart(system: System) -> None:
    system.dora("param", "set", "a", "gain", "0.8")
    system.dora("param", "set", "b", "mode", "fast")
    system.dora("node", "add", "--from-yaml", "c.yml")
    system.dora("param", "set", "c", "x", "1")
    system.dora("param", "delete", "b", "mode")
    again = system.dora("restart", "arm").split()[-1]
    assert parameters(system, "a") == {"gain": 0.8}
    assert parameters(system, "b") == {}
    assert parameters(system, "c") == {"x": 1}
    for pid in system.node_pids(again):
        with suppress(ProcessLookupError):  # one that listens to `a` ends after it
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: system.status_of(again) == "Failed", "the end of the dataflow")
    system.dora("restart", "arm")
    assert parameters(system, "a") == {"gain": 0.8}
    system.dora("stop", "arm")
    system.start("arm.yml")
    assert parameters(system, "a") == {}  # the file counts


@pytest.mark.usefixtures("arm")
def test_a_coordinator_that_was_away_learns_of_parameters(system: System) -> None:
    system.dora("node", "add", "--from-yaml", "c.yml")
    os.kill(system.coordinator(), signal.SIGKILL)
    system.dora("param", "set", "a", "gain", "0.8")
    system.dora("up")
    system.dora("restart", "arm")
    assert parameters(system, "a") == {"gain": 0.8}


@pytest.mark.usefixtures("arm")
def test_a_replacement_brings_parameters_of_its_own(system: System) -> None:
    system.dora("param", "set", "b", "gain", "0.8")
    (system.folder / "as_before.yml").write_text("path: arm_b.py\n")
    (system.folder / "with_own.yml").write_text("path: arm_b.py\nparameters: {mode: fast}\n")
    system.dora("node", "replace", "b", "--from-yaml", "as_before.yml")
    assert parameters(system, "b") == {"gain": 0.8}
    system.dora("node", "replace", "b", "--from-yaml", "with_own.yml")
    assert parameters(system, "b") == {"mode": "fast"}
    system.dora("restart", "arm")
    assert parameters(system, "b") == {"mode": "fast"}


def test_a_replacement_that_does_not_start_is_undone(system: System, arm: str) -> None:
    (system.folder / "broken.py").write_text("raise ValueError('no camera')\n")
    (system.folder / "broken.yml").write_text("path: broken.py\nparameters: {mode: fast}\n")
    system.dora("param", "set", "b", "gain", "0.8")
    before = nodes()["b"]
    refused = system.dora("node", "replace", "b", "--from-yaml", "broken.yml", status=1)
    assert "the replacement of node `b` does not start, the old one goes on" in refused
    assert (nodes()["b"].pid, nodes()["b"].path) == (before.pid, before.path)
    system.dora("node", "connect", "a/out", "b/y")
    again = system.dora("restart", "arm").split()[-1]
    assert again != arm and nodes()["b"].path == before.path
    assert parameters(system, "b") == {"gain": 0.8}


def test_a_replacement_that_hangs_is_given_up_by_a_restart(system: System, arm: str) -> None:
    (system.folder / "hangs.py").write_text("import time\nopen('begun', 'w').close()\ntime.sleep(1000)\n")
    replacement = {"type": "replace", "node": "b", "yaml": "path: hangs.py"}
    answers: list[tuple[int, Any]] = []
    replacing = threading.Thread(target=lambda: answers.append(change(system, "arm", replacement)))
    replacing.start()
    wait_until((system.folder / "begun").exists, "the start of the replacement")
    refused = system.dora("node", "connect", "a/out", "b/y", status=1)
    assert refused == (
        "error: node `b` is being replaced; try again once that is done, or give the replacement up: "
        "`dora node restart b`\n"
    )
    system.dora("node", "restart", "b")
    replacing.join(TIMEOUT)
    ((status, answer),) = answers
    assert (status, answer["error"]) == (409, "node `b` ends before it could be replaced")
    assert system.dora("node", "connect", "a/out", "b/y", "-d", arm) == "a/out -> b/y\n"
    assert nodes()["b"].path == "arm_b.py"


def test_a_node_that_leaves_ends_in_its_time_although_the_coordinator_is_killed(system: System) -> None:
    slow = """
    import time
    from dora import Node
    node = Node()
    for event in node:
        if event["type"] == "STOP":
            time.sleep(0.5)
            print("has ended well", flush=True)
            break
    """
    arm = system.start(system.dataflow("arm", a=FOREVER, b=slow))

    def remove() -> None:
        with suppress(OSError, http.client.HTTPException):  # the coordinator is killed meanwhile
            change(system, "arm", {"type": "remove", "node": "b", "grace": TIMEOUT})

    removal = threading.Thread(target=remove)
    removal.start()
    wait_until(lambda: system.client.dataflow(arm).nodes == ["a"], "the record without the node")
    assert sorted(nodes()) == ["a", "b"], "it is committed before it is applied"
    os.kill(system.coordinator(), signal.SIGKILL)
    removal.join(TIMEOUT)
    system.dora("up")
    wait_until(lambda: sorted(nodes()) == ["a"], "the end of the node")
    assert "has ended well" in system.dora("logs", "arm", "-n", "b")
    assert system.client.dataflow(arm).nodes == ["a"]


def test_the_api_changes_dataflows(system: System, arm: str) -> None:
    added = {"type": "add", "yaml": "id: c\npath: arm_b.py\ninputs: {x: a/out}\n"}
    done = {"type": "OperationResult", "node": "c", "was_running": True, "warnings": []}
    assert change(system, "arm", added) == (200, done)
    assert change(system, "arm", {"type": "connect", "source": "a/out", "target": "b/y"})[0] == 200
    assert change(system, arm[:13], {"type": "disconnect", "source": "a/out", "target": "b/y"})[0] == 200
    assert change(system, "arm", {"type": "restart", "node": "b"})[0] == 200
    wait_until(lambda: nodes()["b"].counts == {"restarts": 1}, "the restart of `b`")
    assert change(system, "arm", {"type": "replace", "node": "b", "yaml": "path: arm_a.py"})[0] == 200
    assert nodes()["b"].path == "arm_a.py"
    assert change(system, "arm", {"type": "stop", "node": "b", "grace": 1})[1]["was_running"]
    assert not change(system, "arm", {"type": "stop", "node": "b"})[1]["was_running"]
    assert change(system, "arm", {"type": "remove", "node": "b"})[0] == 200
    assert sorted(nodes()) == ["a", "c"]


@pytest.mark.usefixtures("arm")
def test_the_api_sets_parameters_and_looks(system: System) -> None:
    speed = {"node": "b", "key": "speed", "value": [1, 2.5, None]}
    assert change(system, "arm", {"type": "set-parameter", **speed})[1]["was_running"]
    parameters = change(system, "arm", {"type": "get-parameters", "node": "b"})
    assert parameters == (200, {"type": "Parameters", "values": {"speed": [1, 2.5, None]}})
    assert change(system, "arm", {"type": "delete-parameter", "node": "b", "key": "speed"})[0] == 200
    status, answer = change(system, "arm", {"type": "delete-parameter", "node": "b", "key": "speed"})
    assert (status, answer["error"]) == (409, "node `b` has no parameter `speed`")
    assert [node["id"] for node in change(system, "arm", {"type": "inspect"})[1]["nodes"]] == ["a", "b"]
    assert change(system, "arm", {"type": "get-progress"})[1]["running"] == 2


@pytest.mark.usefixtures("arm")
def test_the_api_refuses_with_a_reason(system: System) -> None:
    wrong = "id: c\npath: arm_b.py\ninputs: {x: a/oot}"
    status, answer = change(system, "arm", {"type": "add", "yaml": wrong})
    assert status == 409
    assert answer["error"].startswith("<node>:3:15: error: the node `a` has no output `oot`")
    assert change(system, "arm", {"type": "stop", "node": "z"})[0] == 409
    assert change(system, "arm", {"type": "stop", "node": "a", "grace": -1})[0] == 400
    assert change(system, "arm", {"type": "dance"})[0] == 400
    assert change(system, "leg", {"type": "stop", "node": "a"})[0] == 404
    system.dora("stop", "arm")
    assert change(system, "arm", {"type": "stop", "node": "a"})[0] == 404
