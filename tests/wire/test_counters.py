"""Every counter of nodes, and counter and flag of links, that is declared reaches all that shows it."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path

import msgspec
import pytest

from dora.cli.commands import node as node_command
from dora.cli.commands.top import _link_json, _node_json
from dora.cli.top_tables import LinkHistory, link_table, node_table
from dora.cluster.coordinator.metrics import RequestCounter, page
from dora.daemon.report import loss_report
from dora.daemon.supervisor.result import DataflowResult, LinkReport
from dora.observe.describe_topic import TopicDescription
from dora.observe.rates import Counters, LinkRate, rates
from dora.observe.snapshot import NodeSnapshot, Snapshot
from dora.observe.snapshot_json import as_json
from dora.observe.telemetry.export import _INSTRUMENTS
from dora.observe.topics import Topic
from dora.transport import board
from dora.wire.counters import (
    LINK_COUNTERS,
    LINK_FLAGS,
    NODE_COUNTERS,
    LinkCounter,
    LinkFlag,
    NodeCounter,
)
from dora.wire.daemon_protocol import Inspection, LinkView, NodeView, OutputView
from dora.wire.input_rules import INPUT_RULES, InputRule
from dora.wire.metrics import DataflowMetrics, LinkMetrics, NodeMetrics
from dora.wire.node_config import InputConfig

SLOT = 1
LINK = LinkView(SLOT, 0, "camera/image", "sink/in")
CAMERA = NodeView("camera", "Running", outputs=[OutputView("image", 0)])


@pytest.fixture
def words() -> memoryview:
    return memoryview(bytearray(3 * board.LINE_BYTES)).cast("Q")


@pytest.fixture
def inspection() -> Inspection:
    return Inspection(
        dataflow_id="id",
        file=None,
        engine="shm",
        run_dir="/r",
        prefix="p",
        board="/b",
        nodes=[CAMERA, NodeView("sink", "Running")],
        links=[LINK],
    )


def rate_of(words: memoryview, inspection: Inspection) -> LinkRate:
    reading = Counters(inspection, words).read()
    return rates(inspection, reading, reading)[1][0]


def described(words: memoryview, inspection: Inspection) -> str:
    topic = Topic("camera/image", "camera", CAMERA.outputs[0], (LINK,))
    (result,) = TopicDescription(inspection, topic, words).last()
    return result.text


def on_page(rate: LinkRate) -> dict[str, object]:
    (link,) = json.loads(as_json(Snapshot("", [], [rate])))["links"]
    return dict(link)


@pytest.mark.parametrize("counter", NODE_COUNTERS, ids=lambda counter: counter.name)
def test_everything_shows_a_counter_of_a_node(
    counter: NodeCounter, words: memoryview, inspection: Inspection
) -> None:
    words[SLOT * board.WORDS + counter.word] = 3
    counts = board.node_counts(words, SLOT)
    assert counts == {counter.name: 3}
    view = NodeView("camera", "Running", counts=counts)
    item = NodeSnapshot("id", "arm", view, None, 0.0, 0.0, 0, 0, None)
    snapshot = Snapshot("", [item], [])
    head, (row,) = node_table([item])
    assert str(row[head.index(counter.name.upper())]) == "3"
    assert _node_json(item, snapshot)[counter.json_key] == 3
    assert node_command._info_json(inspection, "arm", item)["metrics"][counter.json_key] == 3
    assert (
        node_command._describe(inspection, "arm", view, None)["runtime_metrics"].items()
        >= {counter.name: 3}.items()
    )
    assert node_command._row(item, [counter])[6] == "3"
    assert json.loads(as_json(snapshot))["nodes"][0]["counts"] == counts
    sentence = counter.describe(3)
    assert "{" not in sentence
    report = loss_report(DataflowResult("id", node_counts={"camera": counts}))
    assert report == (f"Node `camera` {sentence}." if counter.is_reported else "")
    metrics = DataflowMetrics("id", "arm", nodes=[NodeMetrics("camera", "Running", {counter.name: 3})])
    text = page([], {}, [metrics], RequestCounter()).decode()
    assert f'dora_node_{counter.metric}_total{{dataflow="arm",node="camera"}} 3.0' in text
    observed = {name: list(values(metrics)) for name, _, values in _INSTRUMENTS}
    assert [value for value, _ in observed[f"dora.node.{counter.name}"]] == [3]


@pytest.mark.parametrize("counter", LINK_COUNTERS, ids=lambda counter: counter.name)
def test_everything_shows_a_counter(
    counter: LinkCounter, words: memoryview, inspection: Inspection
) -> None:
    words[SLOT * board.WORDS + counter.word] = 3
    sentence = counter.describe(3, "camera", "sink")
    assert "{" not in sentence
    rate = rate_of(words, inspection)
    assert rate.counts == {counter.name: 3}
    head, (row,) = link_table([(rate, LinkHistory())], 12)
    assert str(row[head.index(counter.name.replace("_", " ").upper())]) == "3"
    assert _link_json(rate)[counter.metric_name] == 3
    assert on_page(rate)["counts"] == {counter.name: 3}
    assert sentence in described(words, inspection)
    report = LinkReport("camera/image -> sink/in", "drop_oldest", 10, 9, 6, counts={counter.name: 3})
    assert sentence in loss_report(DataflowResult("id", links=(report,)))
    metrics = DataflowMetrics(
        "id", "arm", links=[LinkMetrics("camera/image", "sink/in", {counter.name: 3})]
    )
    text = page([], {}, [metrics], RequestCounter()).decode()
    sample = (
        f'dora_link_{counter.metric_name}_total{{dataflow="arm",input="sink/in",source="camera/image"}}'
    )
    assert f"{sample} 3.0" in text
    observed = {name: list(values(metrics)) for name, _, values in _INSTRUMENTS}
    assert [value for value, _ in observed[f"dora.link.{counter.name}"]] == [3]


@pytest.mark.parametrize("counter", LINK_COUNTERS, ids=lambda counter: counter.name)
def test_the_rules_of_a_counter_are_fields_of_an_input(counter: LinkCounter) -> None:
    item = InputConfig("x", "link", "a/x")
    assert not any(attrgetter(rule)(item) for rule in counter.rules)


@pytest.mark.parametrize("rule", [rule for rule in INPUT_RULES if rule.in_qos], ids=lambda rule: rule.name)
def test_each_rule_that_leaves_messages_out_has_its_counter(rule: InputRule) -> None:
    """Without it, `Node.statistics` has no counter for an input with this rule alone."""
    assert any(rule.attribute in counter.rules for counter in LINK_COUNTERS)


@pytest.mark.parametrize("flag", LINK_FLAGS, ids=lambda flag: flag.name)
def test_everything_shows_a_flag(flag: LinkFlag, words: memoryview, inspection: Inspection) -> None:
    words[SLOT * board.WORDS + flag.word] = 1
    rate = rate_of(words, inspection)
    assert rate.flags == (flag.name,)
    _, (row,) = link_table([(rate, LinkHistory())], 12)
    assert str(row[1]) == flag.label
    assert _link_json(rate)[flag.name] is True
    assert on_page(rate)["flags"] == [flag.name]
    assert f"{flag.label} now" in described(words, inspection)


def test_a_report_of_links_survives_its_way_between_machines() -> None:
    report = LinkReport("a/x -> b/y", "latest", 1, 9, 6, counts={"expired": 3})
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=LinkReport) == report


def test_the_front_end_has_the_tables() -> None:
    script = (Path(__file__).parents[2] / "src" / "dora" / "assets" / "dashboard.js").read_text()
    assert all(f"{item.name}:{{" in script for item in (*NODE_COUNTERS, *LINK_COUNTERS, *LINK_FLAGS))
