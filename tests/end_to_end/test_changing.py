"""Nodes and links that come and go while a dataflow runs, with real processes."""

from __future__ import annotations

import os
import sys

import msgspec
import pytest
from changing import RELAY, SINK, SOURCE, Live, received
from flow import Flow, link

from dora import DataflowFailed
from dora.daemon.apply_operation import running_dataflow
from dora.daemon.supervisor.result import DataflowResult
from dora.errors import DataflowError, DoraError
from dora.observe.tap_session import inspect

pytestmark = pytest.mark.processes


def sent_by(flow: Flow, node_id: str) -> int:
    (line,) = [line for line in flow.printed(node_id) if line.startswith("sent ")]
    return int(line.removeprefix("sent "))


def whole(result: DataflowResult | None, name: str) -> None:
    """Check that a link has lost nothing."""
    assert result is not None
    report = link(result, name)
    assert report.received == report.sent > 0 == report.dropped, report


@pytest.mark.usefixtures("engine")
def test_links_that_come_and_go_do_not_disturb_the_others(flow: Flow) -> None:
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("steady", SINK, inputs={"x": {"source": "source/out", "queue_size": 2000}})
    flow.node("other", SINK)
    with Live(flow) as live:
        live.until_printed("steady", "receives x")
        for count in range(1, 6):
            live.connect("source/out", "other/y", queue_size=1000)
            if count == 1:
                live.until_printed("other", "receives y")
            live.disconnect("source/out", "other/y")
            live.until_printed("other", "closed y", count)
        live.add("late", SINK, inputs={"z": {"source": "source/out", "queue_size": 1000}})
        live.until_printed("late", "receives z")
        live.remove("late")
    assert received(flow, "steady")["x"] == [[1, sent_by(flow, "source")], "closed"], (
        "a link that nobody touched lost something"
    )
    whole(live.result, "source/out -> steady/x")
    episodes = received(flow, "other")["y"]
    assert episodes.count("closed") == 5, episodes
    numbers = [number for episode in episodes if episode != "closed" for number in episode]
    assert numbers == sorted(numbers), "a message came after the closing of its link"
    assert len(numbers) <= 10, "a link lost something between its beginning and its end"
    assert live.result is not None
    for report in live.result.links:
        assert report.sent == report.received + report.dropped + report.unread, report
        assert report.dropped == 0, report


@pytest.mark.slow
@pytest.mark.both_ways
def test_a_replacement_loses_no_message(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DORA_ENGINE", "iceoryx2")
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("relay", RELAY, inputs={"x": {"source": "source/out", "queue_size": 2000}}, outputs=["out"])
    flow.node("sink", SINK, inputs={"x": {"source": "relay/out", "queue_size": 2000}})
    with Live(flow) as live:
        for process in range(4):
            live.until_printed("relay", f"relays as process {process}")
            live.replace("relay", RELAY)
        live.until_printed("relay", "relays as process 4")
        assert live.node("relay").counts == {"reloads": 4}, "it was replaced, not restarted"
    assert received(flow, "sink")["x"] == [[1, sent_by(flow, "source")], "closed"]
    whole(live.result, "source/out -> relay/x")
    whole(live.result, "relay/out -> sink/x")


def test_a_sender_waits_for_the_replacement_of_its_receiver(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_ENGINE", "iceoryx2")
    busy = SOURCE.replace("timeout=0.005", "timeout=0")
    flow.node("source", busy, outputs=["out"])
    waits = {"source": "source/out", "queue_policy": "backpressure", "queue_size": 5}
    flow.node("relay", RELAY, inputs={"x": waits}, outputs=["out"])
    flow.node(
        "sink",
        SINK,
        inputs={"x": {"source": "relay/out", "queue_policy": "backpressure", "queue_size": 5}},
    )
    with Live(flow) as live:
        for _ in range(2):
            live.replace("relay", RELAY)
    assert received(flow, "sink")["x"] == [[1, sent_by(flow, "source")], "closed"]
    whole(live.result, "source/out -> relay/x")


@pytest.mark.usefixtures("engine")
def test_a_replacement_that_does_not_start_changes_nothing(flow: Flow) -> None:
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("relay", RELAY, inputs={"x": {"source": "source/out", "queue_size": 2000}}, outputs=["out"])
    flow.node("sink", SINK, inputs={"x": {"source": "relay/out", "queue_size": 2000}})
    with Live(flow) as live:
        live.until_printed("sink", "receives x")
        with pytest.raises(DoraError, match=r"the old one goes on: ModuleNotFoundError.*'nowhere'"):
            live.replace("relay", "import nowhere\n")
        with pytest.raises(DataflowError, match="has no output `out`, which the input `x` of node `sink`"):
            live.replace("relay", RELAY, outputs=["other"])
        assert live.node("relay").path == "relay.py"
    assert received(flow, "sink")["x"] == [[1, sent_by(flow, "source")], "closed"]


@pytest.mark.usefixtures("engine")
def test_a_source_that_is_removed_makes_room_for_another_one(flow: Flow) -> None:
    flow.node("first", SOURCE, outputs=["out"])
    flow.node("sink", SINK, inputs={"x": {"source": "first/out", "queue_size": 2000}})
    with Live(flow) as live:
        live.until_printed("sink", "receives x")
        live.remove("first")
        live.until_printed("sink", "closed x")
        live.add("second", SOURCE, outputs=["out"])
        live.connect("second/out", "sink/x", queue_size=2000)
        live.until(
            lambda: [(item.id, item.source) for item in live.node("sink").inputs] == [("x", "second/out")],
            "the new link",
        )
        live.disconnect("second/out", "sink/x")
        live.until_printed("sink", "closed x", 2)
        assert live.node("sink").status == "Running", "a node without inputs waits"
        live.connect("second/out", "sink/other", queue_size=2000)
        live.until_printed("sink", "receives other")
    runs = received(flow, "sink")
    first = sent_by(flow, "first")
    assert runs["x"][:2] == [[1, first], "closed"], "all that was sent came before the closing"
    assert runs["x"][-1] == "closed"
    assert len(runs["other"]) == 1, "one run of numbers, without a gap"


@pytest.mark.usefixtures("engine")
@pytest.mark.both_ways
def test_nodes_are_stopped_and_started_again(flow: Flow) -> None:
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("relay", RELAY, inputs={"x": "source/out"}, outputs=["out"])
    flow.node("sink", SINK, inputs={"x": "relay/out", "y": "source/out"})
    with Live(flow) as live:
        live.until_printed("sink", "receives x")
        assert live.restart("relay").was_running
        live.until_printed("relay", "relays as process 1")
        live.until_printed("sink", "NODE_RESTARTED relay")
        assert live.node("relay").counts["restarts"] == 1
        assert live.stop("relay").was_running
        live.until_printed("sink", "closed x")
        assert not live.stop("relay").was_running
        assert live.node("relay").status == "Stopped"
        live.restart("relay")
        live.until_printed("sink", "NODE_RESTARTED relay", 2)
        live.until_printed("relay", "relays as process 2")
        live.until_printed("sink", "receives x", 2)  # else it may be stopped before there is anything
    runs = received(flow, "sink")["x"]
    assert runs.count("closed") == 2
    assert isinstance(runs[runs.index("closed") + 1], list), "the input opened again"


STUBBORN = """
    import signal
    from dora import Node
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    node = Node()
    print("ignores", flush=True)
    while True:
        signal.pause()
"""


def test_a_node_that_does_not_end_is_killed(flow: Flow) -> None:
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("stubborn", STUBBORN, inputs={"x": "source/out"})
    flow.node("again", STUBBORN, inputs={"x": "source/out"})
    with (
        pytest.raises(DataflowFailed, match=r"had to be killed: it did not end within 0\.1 s"),
        Live(flow) as live,
    ):
        live.until_printed("stubborn", "ignores")
        live.until_printed("again", "ignores")
        live.restart("again", 0.1)
        live.until_printed("again", "ignores", 2)
        live.remove("stubborn", 0.1)
        assert [view.id for view in live.nodes()] == ["source", "again"]
        live.remove("again", 0.1)


OPERATOR = """
    from dora import DoraStatus

    class Operator:
        def on_event(self, event, send_output):
            if event["type"] == "INPUT":
                send_output("out", event["value"], {"from": event["id"]})
            elif event["type"] in ("INPUT_CLOSED", "STOP"):
                print(event["type"], event["id"], flush=True)
            return DoraStatus.CONTINUE
"""


@pytest.mark.usefixtures("engine")
def test_operators_get_and_lose_links(flow: Flow) -> None:
    flow.file("op.py", OPERATOR)
    flow.node("source", SOURCE, outputs=["out"])
    flow.node(
        "runtime",
        operators=[
            {"id": "one", "python": "op.py", "inputs": {"x": "source/out"}, "outputs": ["out"]},
            {"id": "two", "python": "op.py", "inputs": {"x": "runtime/one/out"}, "outputs": ["out"]},
        ],
    )
    flow.node("sink", SINK)
    with Live(flow) as live:
        live.connect("runtime/one/out", "sink/direct", queue_size=1000)
        live.connect("runtime/two/out", "sink/through", queue_size=1000)
        live.until_printed("sink", "receives direct")
        live.until_printed("sink", "receives through")
        live.connect("source/out", "runtime/two/y", queue_size=1000)
        with pytest.raises(DoraError, match="are operators of one process"):
            live.connect("runtime/one/out", "runtime/two/z")
        live.disconnect("source/out", "runtime/one/x")
        live.until_printed("runtime", "INPUT_CLOSED x")
        live.disconnect("runtime/one/out", "sink/direct")
        live.until_printed("sink", "closed direct")
        live.connect("runtime/two/out", "sink/last", queue_size=1000)
        live.until_printed("sink", "receives last")


def known_of(live: Live) -> tuple[object, ...]:
    """Return what the daemon knows of the dataflow: the model, and nodes and links for `dora node info`.

    Without counters of nodes: a node logs that a link cannot be made, and such errors are counted.
    """
    with live.run() as run:
        inspection = inspect(run)
        nodes = [msgspec.structs.replace(node, counts={}) for node in inspection.nodes]
        return running_dataflow(run)[1], nodes, inspection.links


@pytest.mark.usefixtures("engine")
def test_a_link_whose_receiver_cannot_be_made_is_taken_back(flow: Flow) -> None:
    flow.file("op.py", OPERATOR)
    flow.file("brief.py", OPERATOR.replace("DoraStatus.CONTINUE", "DoraStatus.STOP"))
    flow.node("source", SOURCE, outputs=["out"])
    flow.node(
        "runtime",
        operators=[
            {"id": "brief", "python": "brief.py", "inputs": {"x": "source/out"}, "outputs": ["out"]},
            {"id": "op", "python": "op.py", "inputs": {"x": "source/out"}, "outputs": ["out"]},
        ],
    )
    flow.node("sink", SINK, inputs={"ended": "runtime/brief/out", "steady": "source/out"})
    with Live(flow) as live:
        live.until_printed("sink", "closed ended")
        before = known_of(live)
        for _ in range(2):
            with pytest.raises(DoraError, match="cannot receive: operator `brief` has ended"):
                live.connect("source/out", "runtime/brief/y", queue_policy="backpressure")
            assert known_of(live) == before
        live.connect("source/out", "sink/x", queue_size=1000)
        live.until_printed("sink", "receives x")
    runs = received(flow, "sink")["x"]
    assert len(runs) == 2, runs
    assert live.result is not None
    assert [report for report in live.result.links if "/y" in report.link] == []


COMPARED = """
    import hashlib
    from dora import Node
    node = Node()
    last = 0
    for event in node:
        if event["type"] == "INPUT":
            data = bytes(event["data"])
            assert data == data[:100] * (len(data) // 100)
            if event["id"] not in globals().setdefault("seen", set()):
                seen.add(event["id"])
                print("sees", event["id"], flush=True)
"""


@pytest.mark.parametrize("size", [100, 100_000])
def test_an_output_may_get_any_number_of_links(flow: Flow, size: int) -> None:
    """More than its channel has room for: further channels are opened, and go again."""
    numbered = f"(str(number).encode() + b' ').ljust(100) * {size // 100}"
    slow = SOURCE.replace("timeout=0.005", "timeout=0.02")  # there are 15 links, and queues of this length
    flow.node("source", slow.replace("str(number).encode()", numbered), outputs=["out"])
    flow.node("sink", COMPARED)
    flow.node("steady", SINK, inputs={"x": {"source": "source/out", "queue_size": 500}})
    names = [f"x{index}" for index in range(14)]
    with Live(flow) as live:
        for name in names:
            live.connect("source/out", f"sink/{name}", queue_size=300 if name == "x3" else 10)
        for name in names:
            live.until_printed("sink", f"sees {name}")
        for name in names:
            live.disconnect("source/out", f"sink/{name}")
        assert not live.node("sink").inputs
    assert received(flow, "steady")["x"] == [[1, sent_by(flow, "source")], "closed"]
    whole(live.result, "source/out -> steady/x")


@pytest.mark.usefixtures("engine")
def test_a_new_link_with_backpressure_loses_nothing(flow: Flow) -> None:
    flow.node("source", SOURCE.replace("timeout=0.005", "timeout=0"), outputs=["out"])
    flow.node("sink", SINK)
    with Live(flow) as live:
        live.connect("source/out", "sink/x", queue_policy="backpressure", queue_size=3)
        live.until_printed("sink", "receives x")
        live.disconnect("source/out", "sink/x")
        live.until_printed("sink", "closed x")
    runs = received(flow, "sink")["x"]
    assert [type(run) for run in runs] == [list, str], runs


def test_nodes_that_start_later_know_the_changed_dataflow(flow: Flow) -> None:
    tells = """
        import json
        from dora import Node
        node = Node()
        nodes = node.dataflow_descriptor()["nodes"]
        print(json.dumps([[known["id"], known.get("inputs")] for known in nodes]))
        for event in node:
            pass
    """
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("sink", SINK, inputs={"x": "source/out"})
    with Live(flow) as live:
        live.connect("source/out", "sink/y")
        live.add("late", tells)
        expected = '[["source", {}], ["sink", {"x": "source/out", "y": "source/out"}], ["late", {}]]'
        live.until_printed("late", expected)
        live.disconnect("source/out", "sink/y")
        live.remove("source")
        live.restart("late")
        live.until_printed("late", '[["sink", {}], ["late", {}]]')


def test_an_impossible_change_is_refused_with_its_line(flow: Flow) -> None:
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("sink", SINK, inputs={"x": "source/out"})
    with Live(flow) as live:
        with pytest.raises(DataflowError, match=r"<node>:1:\d+: error: there is no node `sourc`"):
            live.add("new", SINK, inputs={"y": "sourc/out"})
        with pytest.raises(DataflowError, match="has a node `sink` already"):
            live.add("sink", SINK)
        with pytest.raises(DataflowError, match=r"there is no file .*elsewhere\.py"):
            live.add("new", SINK, path="elsewhere.py")
        with pytest.raises(DoraError, match="`sink/x` is fed by `source/out` already"):
            live.connect("source/out", "sink/x")
        with pytest.raises(DoraError, match="no node `snk`; did you mean `sink`"):
            live.connect("source/out", "snk/x")
        with pytest.raises(DoraError, match="no node `snk`; did you mean `sink`"):
            live.remove("snk")
        with pytest.raises(DoraError, match="no input `y`; its inputs are `x`"):
            live.disconnect("source/out", "sink/y")
        assert [view.id for view in live.nodes()] == ["source", "sink"]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")
def test_links_that_have_gone_leave_nothing_behind(flow: Flow) -> None:
    flow.node("source", SOURCE, outputs=["out"])
    flow.node("steady", SINK, inputs={"x": {"source": "source/out", "queue_size": 300}})  # no room for more
    flow.node("sink", SINK)
    with Live(flow) as live:
        processes = [view.pid for view in live.nodes()]
        counts: list[list[int]] = []

        def no_more_than_at_first() -> bool:
            # When the first link had gone, its sender may still have been about to close what it used.
            now = [len(os.listdir(f"/proc/{pid}/fd")) for pid in processes]
            return all(count <= first for count, first in zip(now, counts[0], strict=True))

        for index in range(8):
            live.connect("source/out", f"sink/y{index}")
            live.until_printed("sink", f"receives y{index}")
            live.disconnect("source/out", f"sink/y{index}")
            live.until_printed("sink", f"closed y{index}")
            live.until_printed("steady", "receives x")
            counts.append([len(os.listdir(f"/proc/{pid}/fd")) for pid in processes])
        live.until(no_more_than_at_first, f"no more open files than after the first link: {counts}")
