"""The dashboard of a coordinator shows and changes what runs on other machines, as what runs on its own."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_system import Spread, spread_over
from hosts import network
from test_remote_observers import FLOW, NODES, observers, wait_for_no_observers
from tokens import TOKEN, bearer
from waiting import TIMEOUT, wait_until
from websockets.sync.client import ClientConnection, connect

from dora.transport.tls import duplex_client_context

pytestmark = pytest.mark.processes

TAIL = "{id: tail, path: sink.py, inputs: {numbers: camera/numbers}, deploy: {machine: right}}"
HEADERS = bearer(TOKEN)


@pytest.fixture(scope="module")
def system(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("dashboard")
    with network("left", "right") as hosts, spread_over(hosts, folder) as system:
        system.write({**NODES, "flow.yml": FLOW})
        yield system


@pytest.fixture(scope="module")
def flow(system: Spread) -> str:
    dataflow = system.start("flow.yml")
    system.wait_for(dataflow, "Running")
    return dataflow


class Page:
    """What a page would know that looks at a dataflow."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.nodes: dict[str, Any] = {}
        self.links: dict[str, Any] = {}
        self.trouble = ""
        self.previews: dict[str, list[Any]] = {}

    def say(self, **message: Any) -> None:
        self._connection.send(json.dumps(message))

    def has_processes(self, *nodes: str) -> bool:
        """Return whether the machines of these nodes have reported them: others know no process."""
        return all(self.nodes.get(node, {}).get("pid") for node in nodes)

    def follow(self, until: Any, what: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not until():
            assert time.monotonic() < deadline, f"no {what} in time: {vars(self)}"
            try:
                message = self._connection.recv(timeout=1)
            except TimeoutError:
                continue
            if isinstance(message, bytes):
                size = int.from_bytes(message[:4], "little")
                head = json.loads(message[4 : 4 + size])
                self.previews.setdefault(head["topic"], []).append(head)
            elif message == "{}":
                self.say(type="next")
            elif state := json.loads(message).get("state"):
                self.nodes = {node["id"]: node for node in state["nodes"]}
                self.links = {link["target"]: link for link in state["links"]}
                self.trouble = state["trouble"]


def live(system: Spread, flow: str) -> ClientConnection:
    return connect(
        f"wss://{system.first.address}:6013/dashboard/{flow}/live",
        additional_headers=HEADERS,
        proxy=None,
        # `websockets.sync` reads in one thread and writes in another one.
        ssl=duplex_client_context(str(authority(system))),
    )


def authority(system: Spread) -> Path:
    """Return the authority of the coordinator, which a browser has to import."""
    return system.first.folder / "data" / "tls" / "coordinator-6013" / "ca.pem"


def ask(system: Spread, method: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        f"https://{system.first.address}:6013/{path}",
        None if body is None else json.dumps(body).encode(),
        {**HEADERS, "Content-Type": "application/json"},
        method=method,
    )
    context = ssl.create_default_context(cafile=authority(system))
    encryption = urllib.request.HTTPSHandler(context=context)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), encryption)
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]


def request(system: Spread, flow: str, **body: Any) -> Any:
    return ask(system, "POST", f"api/dataflows/{flow}/requests", body)


@pytest.mark.slow
def test_the_page_shows_previews_figures_and_parameters_of_all_machines(system: Spread, flow: str) -> None:
    with live(system, flow) as connection:
        page = Page(connection)
        page.say(type="look", topics=["camera/numbers", "near/numbers"], latency=True)
        both = {"camera/numbers", "near/numbers"}
        page.follow(lambda: both <= page.previews.keys(), "previews of both machines")
        head = page.previews["camera/numbers"][0]
        assert (head["kind"], head["type"], head["length"]) == ("series", "int64", 2)
        page.follow(lambda: page.has_processes("camera", "far", "near", "sink"), "processes")
        page.follow(lambda: page.nodes["camera"]["sent_hz"] > 1, "figures")
        for node, machine in (("camera", "right"), ("far", "right"), ("near", "left"), ("sink", "left")):
            assert page.nodes[node]["machine"] == machine
            assert page.nodes[node]["pid"] in system.hosts[machine].pids()
        page.follow(lambda: page.links["sink/numbers"]["hz"] > 1, "the rate of a link")
        # While it is looked at, requests are answered at once.
        change = {"type": "set-parameter", "node": "far", "key": "speed", "value": 5}
        assert request(system, flow, **change)["was_running"] is True
        assert request(system, flow, type="get-parameters", node="far")["values"] == {"speed": 5}
    wait_for_no_observers(system.hosts["right"])
    # And without an observer.
    assert request(system, flow, type="get-parameters", node="far")["values"] == {"speed": 5}
    status, error = request(system, flow, type="get-parameters", node="fra")
    assert status == 409 and "did you mean `far`?" in error
    assert not observers(system.hosts["right"])


@pytest.mark.slow
def test_a_page_that_is_opened_later_sees_a_machine_that_has_joined(system: Spread) -> None:
    text = "nodes: [{id: camera, path: camera.py, outputs: [numbers], deploy: {machine: left}}]"
    system.write({"alone.yml": text, "tail.yml": TAIL})
    dataflow = system.start("alone.yml")
    with live(system, dataflow):
        system.dora("node", "add", "--from-yaml", "tail.yml", "-d", dataflow)
        with live(system, dataflow) as connection:
            page = Page(connection)
            page.follow(lambda: page.has_processes("tail"), "processes")
            page.follow(lambda: page.links["tail/numbers"]["hz"] > 1, "the rate of a link")
            assert page.nodes["tail"]["pid"] in system.hosts["right"].pids()
    system.dora("stop", dataflow)
    wait_for_no_observers(system.hosts["right"])


@pytest.mark.slow
def test_a_node_of_another_machine_is_restarted(system: Spread, flow: str) -> None:
    with live(system, flow) as connection:
        page = Page(connection)
        page.follow(lambda: page.has_processes("far"), "processes")
        before = page.nodes["far"]["pid"]
        assert request(system, flow, type="restart", node="far")["was_running"] is True
        page.follow(lambda: page.nodes["far"]["pid"] not in (None, before), "the new process")


@pytest.mark.slow
def test_the_api_changes_nodes_of_all_machines(system: Spread, flow: str) -> None:
    for node in ("far", "sink"):
        done = request(system, flow, type="restart", node=node)
        assert done == {"type": "OperationResult", "node": node, "was_running": True, "warnings": []}
        system.wait_for_log(flow, "is started again, as was asked")
    status, error = request(system, flow, type="stop", node="fra")
    assert status == 409 and "did you mean `far`?" in error
    link = {"source": "camera/numbers", "target": "far/more"}
    with live(system, flow) as connection:
        page = Page(connection)
        page.say(type="look", topics=[])
        page.follow(lambda: page.links and "far/more" not in page.links, "the links")
        assert request(system, flow, type="connect", **link)["node"] == "far"
        page.follow(lambda: "far/more" in page.links, "the new link")
        assert request(system, flow, type="disconnect", **link)["node"] == "far"
        page.follow(lambda: "far/more" not in page.links, "the end of the link")


@pytest.mark.slow
def test_a_disconnected_machine_is_shown_and_comes_back(system: Spread, flow: str) -> None:
    right = system.hosts["right"]
    with live(system, flow) as connection:
        page = Page(connection)
        page.say(type="look", topics=["camera/numbers"])
        page.follow(lambda: page.previews, "a preview")
        right.cut()
        try:
            page.follow(lambda: "`right`" in page.trouble, "the trouble")
            assert {node for node, state in page.nodes.items() if state["pid"]} == {"near", "sink"}
        finally:
            right.restore()
        page.previews.clear()
        page.follow(lambda: page.previews and not page.trouble, "previews again")


@pytest.mark.slow
def test_a_page_that_reads_nothing_costs_nothing(system: Spread, flow: str) -> None:
    with live(system, flow) as connection:
        page = Page(connection)
        page.say(type="look", topics=["camera/numbers"])
        page.follow(lambda: page.previews, "a preview")
        memory = [_resident(system, "dora coordinator"), _resident(system, "dora.observe.remote")]
        time.sleep(3)  # the page says no more that it is ready, while a hundred messages a second come
        later = [_resident(system, "dora coordinator"), _resident(system, "dora.observe.remote")]
        assert all(now < before + (8 << 20) for before, now in zip(memory, later, strict=True)), later
        assert system.status(flow) == "Running"


def _resident(system: Spread, command: str) -> int:
    """Return the memory of the processes of a command, on all hosts."""
    total = 0
    for host in system.hosts.values():
        for pid in host.pids():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if command not in file.read().replace(b"\0", b" ").decode():
                        continue
                with open(f"/proc/{pid}/statm") as file:
                    total += int(file.read().split()[1]) * 4096
            except OSError:
                continue
    assert total, command
    return total


@pytest.mark.slow
def test_the_page_shows_the_end_of_the_dataflow(system: Spread) -> None:
    dataflow = system.start("flow.yml")
    system.wait_for(dataflow, "Running")
    with live(system, dataflow) as connection:
        page = Page(connection)
        page.follow(lambda: len(page.nodes) == 4, "figures")
        system.dora("stop", dataflow)

        def ended() -> bool:
            message = connection.recv(timeout=TIMEOUT)
            if message == "{}":
                page.say(type="next")
            return isinstance(message, str) and "ended" in json.loads(message)

        wait_until(ended, lambda: "the end")
    wait_for_no_observers(system.hosts["right"])
