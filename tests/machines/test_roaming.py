"""Machines that change their addresses, as DHCP or another access point does, while a dataflow runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_system import Spread
from counted_links import FILES, Counted
from hosts import network
from waiting import wait_until

pytestmark = pytest.mark.processes


@pytest.fixture
def system(namespaces: None, tmp_path: Path) -> Iterator[Spread]:  # noqa: ARG001
    with network("desk", "left", "right") as hosts:
        system = Spread(hosts, tmp_path, {})
        system.write(FILES)
        yield system


@pytest.fixture
def counted(system: Spread) -> Counted:
    """Start a dataflow whose messages go from `left` to `right` and back."""
    system.start_coordinator()
    for name in system.hosts:
        system.start_daemon(name)
    system.wait_for_machines(*system.hosts)
    return Counted(system)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [2, pytest.param(10, marks=[pytest.mark.stress, pytest.mark.timeout(600)])]
)
def test_links_follow_machines_that_change_their_addresses(counted: Counted, changes: int) -> None:
    system = counted.system
    for number in range(changes):
        name = ("right", "left")[number % 2]
        system.hosts[name].move(system.another_address())
        counted.goes_on()
    system.wait_for_machines("left", "right")
    for name in ("left", "right"):
        assert system.machines()[name]["address"] == system.hosts[name].address
    counted.loses_nothing()


@pytest.mark.slow
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
