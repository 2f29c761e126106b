"""Every figure of networks that is declared reaches everything that shows them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from dora.cli.commands.top import _node_json
from dora.cli.top_tables import network_table
from dora.cluster.coordinator.distributed_run import merged
from dora.cluster.coordinator.metrics import RequestCounter, page
from dora.daemon.report import network_report
from dora.daemon.supervisor.result import DataflowResult, NetworkReport
from dora.observe.describe_topic import TopicDescription
from dora.observe.networks import NetworkCounts, NetworkRate, network_rates, read_networks
from dora.observe.snapshot import NodeSnapshot, Snapshot, merge
from dora.observe.snapshot_json import as_json
from dora.observe.telemetry.export import _INSTRUMENTS
from dora.observe.topics import Topic
from dora.transport import board
from dora.wire.counters import (
    ARRIVED_BYTES,
    AVAILABLE,
    MEDIAN_AGES,
    NETWORK_FIGURES,
    NETWORK_STATE,
    P99_AGES,
    PACKETS,
    RESENT_PACKETS,
    ROUND_TRIP,
    SENT_BYTES,
    SHARE,
    STREAM_FIGURES,
    WAITING,
    NetworkFigure,
)
from dora.wire.daemon_protocol import Inspection, NetworkView, NodeView, OutputView, StreamView
from dora.wire.metrics import DataflowMetrics, NetworkMetrics

SLOT, STREAM = 1, 2
VIEW = NetworkView(SLOT, "desk", [StreamView(STREAM, "camera/image")])
CAMERA = NodeView("camera", "Running", machine="robot", outputs=[OutputView("image", 0)])
WARNING = "camera/image takes 94 % of the network to `desk`: compress it, or lower its rate"


@pytest.fixture
def words() -> memoryview:
    return memoryview(bytearray(3 * board.LINE_BYTES)).cast("Q")


def put(words: memoryview, slot: int, values: dict[int, int]) -> None:
    for word, value in values.items():
        words[slot * board.WORDS + word] = value


@pytest.fixture
def crowded(words: memoryview) -> NetworkRate:
    """A camera that takes 94 % of 10 Mbit/s, over two seconds."""
    before = read_networks([VIEW], words)
    put(
        words,
        SLOT,
        {
            NETWORK_STATE: board.CONNECTED,
            SENT_BYTES[2].word: 2_400_000,
            AVAILABLE.word: 1_250_000,
            ROUND_TRIP.word: 21_000_000,
            PACKETS.word: 2000,
            RESENT_PACKETS.word: 40,
            WAITING[2].word: 1,
            MEDIAN_AGES[0].word: 26_000_000,
            P99_AGES[0].word: 64_000_000,
        },
    )
    put(words, STREAM, {SHARE.word: 940, ARRIVED_BYTES.word: 2_350_000})
    (found,) = network_rates("robot", before, read_networks([VIEW], words), 2.0)
    return found


def test_rates_shares_and_ages_follow_from_two_readings(crowded: NetworkRate) -> None:
    assert (crowded.source, crowded.target, crowded.state) == ("robot", "desk", "connected")
    assert (crowded.bytes_per_second, crowded.available) == (1_200_000, 1_250_000)
    assert (crowded.round_trip_ms, crowded.loss) == (21.0, 0.02)
    assert crowded.waiting == {"bulk": 1}
    assert crowded.ages_ms == {"control": (26.0, 64.0)}
    (stream,) = crowded.streams
    assert (stream.output, stream.bytes_per_second, stream.share) == ("camera/image", 1_175_000, 0.94)
    assert crowded.warnings == [WARNING]


def test_a_gateway_that_counts_anew_has_no_negative_rate(words: memoryview) -> None:
    put(words, SLOT, {NETWORK_STATE: board.CONNECTED, SENT_BYTES[0].word: 900, PACKETS.word: 90})
    put(words, STREAM, {ARRIVED_BYTES.word: 800})
    before = read_networks([VIEW], words)
    put(words, SLOT, {NETWORK_STATE: board.CLOSED, SENT_BYTES[0].word: 100, PACKETS.word: 10})
    put(words, STREAM, {ARRIVED_BYTES.word: 80})
    (found,) = network_rates("robot", before, read_networks([VIEW], words), 2.0)
    assert (found.state, found.bytes_per_second, found.loss) == ("cut", 0.0, None)
    assert found.streams[0].bytes_per_second == 0.0


def test_the_loss_is_that_of_the_packets_since_the_last_reading(words: memoryview) -> None:
    put(words, SLOT, {PACKETS.word: 10_000, RESENT_PACKETS.word: 10})
    before = read_networks([VIEW], words)
    put(words, SLOT, {PACKETS.word: 10_100, RESENT_PACKETS.word: 60})
    (found,) = network_rates("robot", before, read_networks([VIEW], words), 2.0)
    assert found.loss == 0.5
    put(words, SLOT, {RESENT_PACKETS.word: 400})  # more often than once each
    (found,) = network_rates("robot", before, read_networks([VIEW], words), 2.0)
    assert found.loss == 1.0


def test_the_output_with_the_largest_share_comes_first_and_is_named_from_four_fifths_on() -> None:
    def counts(share: int, arrived: int) -> dict[str, int]:
        return {SHARE.name: share, ARRIVED_BYTES.name: arrived}

    now = NetworkCounts("connected", {}, {"a/x": counts(10, 500), "b/x": counts(800, 100), "c/x": {}})
    (found,) = network_rates("robot", {}, {"desk": now}, 1.0)
    assert [stream.output for stream in found.streams] == ["b/x", "a/x", "c/x"]
    (warning,) = found.warnings
    assert warning.startswith("b/x takes 80 %")


def test_a_table_shows_a_network(crowded: NetworkRate) -> None:
    head, (row,) = network_table([crowded])
    assert dict(zip(head, map(str, row), strict=True)) == {
        "NETWORK": "robot -> desk",
        "STATE": "connected",
        "USED": "1.2 MB/s",
        "AVAILABLE": "1.2 MB/s",
        "ROUND TRIP": "21.0 ms",
        "LOSS": "2.0 %",
        "WAITING": "1 bulk",
        "CONTROL AGE": "26 ms (99 %: 64)",
        "LARGEST OUTPUT": "camera/image 94 %",
    }


def test_nothing_is_made_up_before_something_is_known(words: memoryview) -> None:
    (found,) = network_rates("robot", {}, read_networks([VIEW], words), 2.0)
    _, (row,) = network_table([found])
    assert [cell.plain for cell in row] == ["robot -> desk", "connecting", "0 B/s", *["-"] * 5]
    assert found.warnings == []


def test_programs_get_the_networks_of_the_machine_of_a_node(crowded: NetworkRate) -> None:
    other = msgspec.structs.replace(crowded, source="desk", target="robot")
    node = NodeSnapshot("id", "arm", CAMERA, None, 0, 0, 0, 0, None)
    (found,) = _node_json(node, Snapshot("robot", [node], [], [crowded, other]))["networks"]
    assert (found["target"], found["warnings"], found["loss"]) == ("desk", [WARNING], 0.02)
    assert found["figures"]["round_trip"] == 0.021
    (shown, _) = json.loads(as_json(Snapshot("", [], [], [crowded, other])))["networks"]
    assert shown == json.loads(json.dumps(found))


def test_each_machine_tells_of_the_networks_from_it(crowded: NetworkRate) -> None:
    other = msgspec.structs.replace(crowded, source="desk", target="robot")
    own, there = Snapshot("desk", [], [], [other]), Snapshot("robot", [], [], [crowded])
    assert merge(own, {"robot": there}, lambda _: "").networks == [other, crowded]


def test_a_description_of_an_output_has_a_line_for_each_machine(
    words: memoryview, crowded: NetworkRate
) -> None:
    inspection = Inspection("id", None, "shm", "/r", "p", "/b", [CAMERA], [], "robot", networks=[VIEW])
    topic = Topic("camera/image", "camera", CAMERA.outputs[0], ())
    described = TopicDescription(inspection, topic, words)
    assert crowded.figures
    (result,) = described.last()
    assert (
        "Machines     desk: 0 B/s, 94 % of the network, 1.2 MB/s available, round trip 21.0 ms"
        in result.text
    )
    assert "control messages 26 ms old on arrival (99 %: 64 ms), compress it" in result.text


@pytest.mark.parametrize("figure", NETWORK_FIGURES, ids=lambda figure: figure.name)
def test_collectors_get_a_figure(figure: NetworkFigure) -> None:
    value = 3 * int(figure.scale)
    metrics = DataflowMetrics("id", "arm", networks=[NetworkMetrics("robot", "desk", {figure.name: value})])
    text = page([], {}, [metrics], RequestCounter()).decode()
    name = f"dora_network_{figure.metric}{'_total' if figure.is_total else ''}"
    assert f'{name}{{dataflow="arm",source="robot",target="desk"}} 3.0' in text
    observed = {name: list(values(metrics)) for name, _, values in _INSTRUMENTS}
    assert observed[f"dora.network.{figure.name}"] == [(3, {"dora.machine": "robot", "dora.peer": "desk"})]


def test_no_word_is_used_twice() -> None:
    network = [NETWORK_STATE, *(figure.word for figure in NETWORK_FIGURES)]
    stream = [figure.word for figure in STREAM_FIGURES]
    for words in (network, stream):
        assert len(set(words)) == len(words)
        assert max(words) < board.WORDS
    # On the same line, an engine and the links of a receiver have theirs.
    assert min(stream) > board.REPEATED


def test_the_report_of_all_machines_has_the_networks_of_each() -> None:
    figures = {"bulk_sent": 5_000_000, "packets": 50, "cuts": 1}
    there = NetworkReport(
        "robot", "desk", figures, {"camera/image": {"crowded": 5000, "highest_share": 940}}
    )
    back = NetworkReport("desk", "robot", {"control_sent": 1000})
    result = merged("id", [DataflowResult("id", networks=(there,)), DataflowResult("id", networks=(back,))])
    assert result is not None
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(result), type=DataflowResult) == result
    assert network_report(result).splitlines()[1:] == [
        "  desk -> robot: 0.0 MB sent",
        "  robot -> desk: 5.0 MB sent, 0.0 % of the packets sent again, cut 1 time",
        "  camera/image took up to 94 % of the network to `desk`, for 5 s: compress it, or lower its rate",
    ]
    assert network_report(DataflowResult("id")) == ""


def test_the_reference_has_every_figure() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "counters.md").read_text()
    assert all(f"| `{figure.name}` |" in text for figure in (*NETWORK_FIGURES, *STREAM_FIGURES))
