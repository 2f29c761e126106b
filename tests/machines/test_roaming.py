"""Machines that change their addresses, as DHCP or another access point does, while a dataflow runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from changing_machines import DATAFLOW, NODES
from cluster_system import Spread
from hosts import network
from waiting import wait_until

pytestmark = pytest.mark.processes


@pytest.fixture
def system(namespaces: None, tmp_path: Path) -> Iterator[Spread]:  # noqa: ARG001
    with network("desk", "left", "right") as hosts:
        system = Spread(hosts, tmp_path, {})
        system.write({**NODES, "flow.yml": DATAFLOW})
        yield system


def test_a_daemon_tries_all_addresses_of_its_coordinator(system: Spread) -> None:
    desk, second = system.first, system.another_address()
    system.background(desk, "coordinator", "coordinator", "--interface", "0.0.0.0")
    system.start_daemon("left", "--coordinator-addr", f"{second},{desk.address}")
    system.wait_for_machines("left")
    assert f"connected to the coordinator at {desk.address}:6013" in system.said("left")
    desk.move(second)
    system.env["DORA_COORDINATOR_ADDR"] = second
    wait_until(
        lambda: f"connected to the coordinator at {second}:6013" in system.said("left"),
        lambda: f"the daemon to reach {second}: {system.said('left')}",
    )
    system.wait_for_machines("left")
