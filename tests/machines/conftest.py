"""Tests that need several machines say so here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from changing_machines import DATAFLOW, NODES, start_and_wait, until_the_test_ends
from cluster_system import Spread, spread_over
from hosts import Host, missing, network
from ssh_cluster import Cluster


@pytest.fixture(scope="session")
def namespaces() -> None:
    """Skip where there can be no network namespaces."""
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def make_hosts(namespaces: None) -> Iterator[Callable[..., dict[str, Host]]]:  # noqa: ARG001
    """Return `network` as a function; the hosts go with the test."""
    with ExitStack() as stack:
        yield lambda *names, **options: stack.enter_context(network(*names, **options))


@pytest.fixture
def cluster(make_hosts: Callable[..., dict[str, Host]], tmp_path: Path) -> Cluster:
    """Make the hosts `desk` and `robot`, which ssh reaches, and a cluster file in the test's folder."""
    hosts = make_hosts("desk", "robot")
    cluster = Cluster(hosts, tmp_path)
    for host in hosts.values():
        cluster.keys.serve(host)
    return cluster


@pytest.fixture(scope="module")
def three_machines(
    namespaces: None,  # noqa: ARG001
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Spread]:
    """Run a coordinator and three daemons for the tests of a module: `left`, `right` and `third`."""
    folder = tmp_path_factory.mktemp("three")
    with network("left", "right", "third") as hosts, spread_over(hosts, folder) as system:
        system.write({**NODES, "spread.yml": DATAFLOW})
        yield system


@pytest.fixture
def system(three_machines: Spread) -> Iterator[Spread]:
    """Return `three_machines`; the dataflows of the test are stopped after it."""
    yield from until_the_test_ends(three_machines)


@pytest.fixture
def running(system: Spread) -> str:
    """Start `DATAFLOW`; return its UUID once all nodes have received something."""
    return start_and_wait(system)
