"""Foxglove shows the nodes of all machines, wherever `dora foxglove` runs."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cluster_system import DORA, Spread, spread_over
from foxglove_client import FoxgloveClient
from hosts import Host, network
from waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.processes

CAMERA = """
    import numpy as np
    from dora import Node

    node = Node()
    for event in node:
        if event["type"] == "PARAM_UPDATE":
            print("gain is", event["value"], flush=True)
        if event["type"] == "INPUT" and event["id"] == "command":
            print("command", event["value"].to_pylist(), flush=True)
        if event["type"] == "INPUT" and event["id"] == "tick":
            picture = np.zeros(640 * 480 * 3, np.uint8)
            node.send_output("image", picture, {"width": 640, "height": 480, "encoding": "rgb8"})
            node.send_output("speed", np.array([1.0, -1.0]))
            node.send_output("huge", np.zeros(9 << 20, np.uint8))
    """
PILOT = """
    from dora import Node
    for event in Node():
        pass
    """
FLOW = """
    nodes:
      - {id: near, path: camera.py, inputs: {tick: dora/timer/hz/10}, outputs: [image, speed, huge],
         deploy: {machine: left}}
      - {id: away, path: camera.py, parameters: {gain: 0.5}, outputs: [image, speed, huge],
         inputs: {tick: dora/timer/hz/10, command: pilot/command}, deploy: {machine: right}}
      - {id: pilot, path: pilot.py, inputs: {tick: dora/timer/secs/1}, outputs: [command],
         deploy: {machine: right}}
"""


@pytest.fixture(scope="module")
def system(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("foxglove")
    with network("left", "right", "desk") as hosts:
        desk = hosts.pop("desk")  # has no daemon
        with spread_over(hosts, folder) as system:
            system.hosts["desk"] = desk
            system.write({"camera.py": CAMERA, "pilot.py": PILOT, "flow.yml": FLOW})
            yield system


@contextmanager
def shown(system: Spread, host: Host, dataflow: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``dora foxglove`` on a host; yield its address and its process."""
    command = [*DORA, "foxglove", "--control", "-d", dataflow, "--address", f"{host.address}:0"]
    process = host.popen(
        command,
        env=system.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=system.folder,
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"open a connection to (ws://\S+)", line)
        assert address, line + process.stdout.read()
        yield address[1], process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT)


# The dataflow is on the coordinator's machine, on one with a daemon only, and not at all on one without.
@pytest.mark.slow
@pytest.mark.parametrize("place", ["left", "right", "desk"])
def test_topics_and_parameters_of_all_machines_are_shown(system: Spread, place: str) -> None:
    dataflow = system.start("flow.yml")
    system.wait_for(dataflow, "Running")
    with shown(system, system.hosts[place], dataflow) as (address, process):
        with FoxgloveClient(address) as client:
            topics = {f"{node}/{output}" for node in ("near", "away") for output in ("image", "speed")}
            client.wait(lambda: client.shown.keys() >= topics, "message of each topic")
            for node in ("near", "away"):
                client.wait(lambda node=node: len(client.shown[f"{node}/image"]) > 3, "more pictures")
                image = client.shown[f"{node}/image"][-1]
                assert image.schema == "foxglove.RawImage"
                assert (image.message.width, len(image.message.data)) == (640, 640 * 480 * 3)
                assert client.values(f"{node}/speed")[-1] == [1.0, -1.0]
            elsewhere = "near/huge" if place == "right" else "away/huge"
            too_large = f"`{elsewhere}` is not shown: its messages of 9 MB are too large"
            client.wait(lambda: any(too_large in text for text in client.warnings), "reason")

            client.send("getParameters", parameterNames=["away/gain"], id="all")
            client.wait(lambda: asked(client) == {"away/gain": 0.5}, "parameter")
            client.send("setParameters", parameters=[{"name": "away/gain", "value": 0.75}], id="one")
            wait_until(lambda: "gain is 0.75" in system.logs(dataflow), lambda: system.logs(dataflow))
            client.publish("pilot/command", {"values": [1, 2]})
            wait_until(lambda: "command [1, 2]" in system.logs(dataflow), lambda: system.logs(dataflow))
        system.dora("stop", dataflow)
        assert process.wait(TIMEOUT) == 0


def asked(client: FoxgloveClient) -> dict[str, object]:
    """Return the parameters that are known by now, and ask again: they may come late."""
    if not client.parameters:
        client.send("getParameters", parameterNames=["away/gain"], id="again")
    return client.parameters


@pytest.mark.slow
def test_only_what_somebody_looks_at_comes_from_another_machine(system: Spread) -> None:
    dataflow = system.start("flow.yml")
    system.wait_for(dataflow, "Running")
    with (
        shown(system, system.hosts["left"], dataflow) as (address, _),
        FoxgloveClient(address, {"away/speed"}) as client,
    ):
        client.wait(lambda: len(client.shown.get("away/speed", ())) > 20, "numbers")
        assert client.shown.keys() == {"away/speed"}
        names = {channel["topic"] for channel in client.channels.values()}
        assert names >= {"away/image", "away/speed", "near/image", "near/speed"}
    system.dora("stop", dataflow)
