"""How the network between two machines is shown: what it carries, what it loses, what is too large."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cluster_system import Spread, spread_over
from hosts import network
from waiting import wait_until

from dora.daemon.report import network_report
from dora.wire.counters import loss_of

pytestmark = pytest.mark.processes

NODES = {
    # Sends pictures of SIZE bytes at RATE Hz, and 64 bytes at 100 Hz.
    "camera.py": """
        import os, time
        import numpy as np
        from dora import Node

        node = Node()
        picture = np.zeros(int(os.environ["SIZE"]), np.uint8)
        command = np.zeros(64, np.uint8)
        next_picture = 0.0
        while True:
            event = node.next(timeout=0.01)
            if event is not None and event["type"] == "STOP":
                break
            node.send_output("command", command)
            if time.monotonic() >= next_picture:
                next_picture = time.monotonic() + 1 / float(os.environ["RATE"])
                node.send_output("image", picture)
    """,
    "screen.py": """
        from dora import Node

        for event in Node():
            if event["type"] == "INPUT":
                event = None
    """,
}
DATAFLOW = """
    nodes:
      - id: camera
        path: camera.py
        outputs: [command, image]
        deploy: {machine: robot}
        env: {SIZE: %d, RATE: %g}
      - id: screen
        path: screen.py
        deploy: {machine: desk}
        inputs:
          command: {source: camera/command, queue_size: 100}
          image: {source: camera/image, queue_policy: latest}
"""


@pytest.fixture(scope="module")
def system(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("shown")
    with network("desk", "robot", impaired=True) as hosts, spread_over(hosts, folder) as system:
        system.write(NODES)
        for host in hosts.values():
            host.use_congestion_control("cubic")
        yield system


@contextmanager
def running(system: Spread, size: int, hz: float, **link: Any) -> Iterator[str]:
    """Run the camera over a network of 10 Mbit/s and 10 ms each way; yield the UUID of the dataflow."""
    system.hosts["robot"].impair(**{"rate": 10e6, "delay": 0.01} | link)
    (system.folder / "flow.yml").write_text(DATAFLOW % (size, hz))
    dataflow = system.start("flow.yml")
    try:
        yield dataflow
    finally:
        system.dora("stop", dataflow, status=None)
        system.hosts["robot"].impair()


def from_robot(system: Spread) -> dict[str, Any]:
    """Return the network from the robot to the desk."""
    return network_of(system, "camera")


def from_desk(system: Spread) -> dict[str, Any]:
    """Return the network from the desk to the robot."""
    return network_of(system, "screen")


def network_of(system: Spread, node: str) -> dict[str, Any]:
    """Return the network from the machine of a node to the other one, as ``dora top`` measures it."""
    printed = system.dora("top", "--once", "--format", "json", "--refresh-interval", "500ms")
    nodes = json.JSONDecoder().raw_decode(printed)[0]  # that a machine does not answer may follow
    return dict(next(item for item in nodes if item["node"] == node)["networks"][0])


def share_of(found: dict[str, Any], output: str) -> float:
    return float(next(item["share"] for item in found["outputs"] if item["output"] == output))


@pytest.mark.slow
def test_an_output_that_takes_nearly_all_of_a_network_is_named(system: Spread, figure: Any) -> None:
    with running(system, 64_000, 30) as dataflow:
        found: dict[str, Any] = {}

        def warned() -> list[str]:
            found.update(from_robot(system))
            return list(found["warnings"])

        (warning,) = wait_until(warned, lambda: f"a warning: {found}")
        figure(f"{warning}; {found}")
        assert re.fullmatch(
            r"camera/image takes (8|9|10)\d % of the network to `desk`: compress it, or lower its rate",
            warning,
        )
        assert [found[key] for key in ("source", "target", "state")] == ["robot", "desk", "connected"]
        assert 0.5e6 < found["available_bytes_per_second"] < 1.3e6
        assert 19 < found["round_trip_ms"] < 500
        assert share_of(found, "camera/command") < 0.1
        median, p99 = found["ages_ms"]["control"]
        assert 9 < median <= p99 < found["ages_ms"]["normal"][1]
        told = system.dora("topic", "info", "camera/image", "--duration", "1")
        assert re.search(r"^Machines +desk: .* % of the network.*compress it", told, re.MULTILINE), told
        assert "camera/image" in system.dora("top", "--once", "--format", "table")
    system.wait_for(dataflow, "Finished")
    report = network_report(system.result(dataflow))
    figure(report)
    assert re.search(
        r"^  camera/image took up to \d+ % of the network to `desk`, for \d+ s: ", report, re.MULTILINE
    )


@pytest.mark.slow
def test_an_output_that_fits_is_not_named(system: Spread, figure: Any) -> None:
    with running(system, 64_000, 5) as dataflow:
        found: dict[str, Any] = {}

        def measured() -> bool:
            found.update(from_robot(system))
            return share_of(found, "camera/image") > 0

        wait_until(measured, lambda: f"a share: {found}")
        figure(str(found))
        assert 0.8e6 < found["available_bytes_per_second"] < 1.4e6  # 1.25 MB without headers
        assert 0.15 < share_of(found, "camera/image") < 0.5
        assert found["warnings"] == []
    system.wait_for(dataflow, "Finished")
    assert "took up to" not in network_report(system.result(dataflow))


@pytest.mark.slow
def test_a_loss_of_packets_is_shown(system: Spread, figure: Any) -> None:
    with running(system, 64_000, 10, loss=0.02) as dataflow:
        wait_until(lambda: from_robot(system)["figures"]["packets"] > 1500, "packets")
    system.wait_for(dataflow, "Finished")
    result = system.result(dataflow)
    (there,) = (item for item in result.networks if item.source == "robot")
    loss = loss_of(there.figures["packets"], there.figures["resent_packets"])
    figure(network_report(result))
    assert loss is not None and 0.005 < loss < 0.06


@pytest.mark.slow
def test_a_cut_is_shown_and_counted(system: Spread) -> None:
    robot = system.hosts["robot"]
    with running(system, 1000, 10) as dataflow:
        wait_until(lambda: from_robot(system)["state"] == "connected", "a connection")
        robot.cut()
        try:
            wait_until(lambda: from_desk(system)["state"] == "cut", lambda: f"a cut: {from_desk(system)}")
        finally:
            robot.restore()
        wait_until(lambda: from_desk(system)["state"] == "connected", "a new connection")
    system.wait_for(dataflow, "Finished")
    report = network_report(system.result(dataflow))
    assert re.search(r"^  robot -> desk: .*cut 1 time$", report, re.MULTILINE), report
