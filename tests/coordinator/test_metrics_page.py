"""The page for Prometheus: what is on it, and that the daemons are asked for it."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families
from system import System
from tokens import bearer
from waiting import wait_until

from dora.cluster.coordinator.connections import DaemonConnection
from dora.cluster.coordinator.metrics import TIMEOUTS, Collector, RequestCounter, page
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import Collect, Collected, Hello, ToDaemon
from dora.wire.metrics import DataflowMetrics, LinkMetrics, NodeMetrics, OutputMetrics

Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(text: str) -> Samples:
    """Return name and values of the labels → value."""
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_metrics_page_has_every_metric() -> None:
    survey = DataflowMetrics(
        "id",
        'arm "1"',
        [
            NodeMetrics("eye", "Running", {"restarts": 2, "cpu_seconds": 1.5, "memory": 1000}),
            NodeMetrics("hand", "Failed"),
        ],
        [OutputMetrics("eye", "image", {"messages": 10, "bytes": 4000})],
        [
            LinkMetrics(
                "eye/image", "hand/image", {"received": 7, "dropped": 2, "waiting": 1, "unmatched": 3}
            )
        ],
    )
    requests = RequestCounter()
    requests.add("GET", "/api/dataflows/{dataflow}", 404, 0.25)
    requests.add("GET", "/api/dataflows/{dataflow}", 404, 0.5)
    views = [DataflowView(uuid=str(n), name="x", status="Failed", nodes=[]) for n in range(3)]
    elsewhere = DataflowMetrics(
        "id", 'arm "1"', [NodeMetrics("eye", "Running", {"restarts": 2})], [], []
    )  # the other machine's view
    found = samples(page(views, {"d1": True, "d2": False}, [survey, elsewhere], requests).decode())
    arm = 'arm "1"'
    assert found["dora_dataflows", ("Failed",)] == 3 and found["dora_dataflows", ("Running",)] == 0
    assert (found["dora_daemon_up", ("d1",)], found["dora_daemon_up", ("d2",)]) == (1, 0)
    assert found["dora_node_running", (arm, "eye")] == 1 and found["dora_node_running", (arm, "hand")] == 0
    assert found["dora_node_cpu_seconds_total", (arm, "eye")] == 1.5
    assert found["dora_node_memory_bytes", (arm, "eye")] == 1000
    assert found["dora_node_restarts_total", (arm, "eye")] == 2
    assert found["dora_output_messages_total", (arm, "eye", "image")] == 10
    assert found["dora_output_bytes_total", (arm, "eye", "image")] == 4000
    assert found["dora_link_received_messages_total", (arm, "hand/image", "eye/image")] == 7
    assert found["dora_link_dropped_messages_total", (arm, "hand/image", "eye/image")] == 2
    assert found["dora_link_waiting_messages", (arm, "hand/image", "eye/image")] == 1
    assert found["dora_link_unmatched_messages_total", (arm, "hand/image", "eye/image")] == 3
    asked = ("GET", "/api/dataflows/{dataflow}")
    assert found["dora_api_requests_total", (*asked, "404")] == 2
    assert found["dora_api_request_seconds_total", asked] == 0.75


def test_a_daemon_that_does_not_answer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TIMEOUTS, "metrics", 0.05)
    heard: list[ToDaemon] = []
    machines = {id_: DaemonConnection(Hello("", id_, 1), heard.append, "", "") for id_ in ("a", "b")}
    answer = Collected(1, "metrics", metrics=[DataflowMetrics("id", "x")])

    async def scenario() -> dict[str, Collected]:
        collector = Collector()
        asking = asyncio.create_task(collector.collect("metrics", machines))
        await asyncio.sleep(0)
        collector.record("a", answer)
        found = await asking
        collector.record("b", Collected(1, "metrics"))  # too late
        assert await collector.collect("metrics", {}) == {}
        assert collector.newest.keys() == {("metrics", "a"), ("metrics", "b")}
        return found

    assert asyncio.run(scenario()) == {"a": answer}
    assert heard == [Collect(1, "metrics"), Collect(1, "metrics")]


@pytest.mark.processes
def test_the_page_of_a_running_system(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DORA_AUTH_TOKEN", "")
    system.dora("up", "--auth")
    ticking = "from dora import Node\nfor event in Node():\n    pass\n"
    system.start(system.dataflow("clock", a=ticking, b=ticking), "--trace")

    def read(**headers: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{system.port}/metrics"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, ""

    assert read()[0] == 401
    token = bearer()
    assert read(**token)[0] == 200

    def both() -> Samples | None:
        found = samples(read(**token)[1])
        return found if values(found, "dora_node_running") == [1, 1] else None

    found = wait_until(both, "both nodes")  # a daemon that does not answer within two seconds is left out
    assert found["dora_dataflows", ("Running",)] == 1
    assert values(found, "dora_daemon_up") == [1]
    assert found["dora_node_running", ("clock", "a")] == 1
    assert found["dora_node_memory_bytes", ("clock", "b")] > 1e6
    assert found["dora_api_requests_total", ("POST", "/api/dataflows", "201")] == 1
    wait_until(lambda: "process tick" in system.dora("trace", "list", "-d", "clock"), "a traced tick")
    system.dora("stop", "clock")
    wait_until(lambda: not values(samples(read(**token)[1]), "dora_node_running"), "the nodes to be gone")


def values(found: Samples, name: str) -> Iterable[float]:
    return [value for (metric, _), value in found.items() if metric == name]
