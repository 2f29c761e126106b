"""The pure parts of observers: rates, latencies, queues, values as text."""

from __future__ import annotations

import doctest
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from msgspec import structs

from dora._paths import path_records_of
from dora.cli.top_tables import link_row
from dora.errors import ConnectError, DoraError
from dora.node.receive.path_meter import PathMeter, Records
from dora.observe import formatting as values
from dora.observe import latency, rates, topics
from dora.observe.latency import PathReader
from dora.observe.rates import RateMeter
from dora.observe.snapshot import RunSource
from dora.transport.board import (
    BYTES,
    CLOSED,
    CONNECTED,
    DROPPED,
    FIRST,
    LINE_BYTES,
    RECEIVED,
    SENT,
    STATE,
    WORDS,
)
from dora.wire.counters import EXPIRED, MISSED, OVERDUE, SILENT, THINNED
from dora.wire.daemon_protocol import Description, Inspection, LinkView, NodeView, OutputView
from dora.wire.encode import encode
from dora.wire.message import Message, pack_head
from dora.wire.metadata import encode_metadata
from dora.wire.path_statistics import path_number
from dora.wire.trail import origin_id

MS = 1_000_000


@pytest.mark.parametrize("module", [latency, rates, values])
def test_the_examples_in_the_docstrings(module) -> None:
    assert doctest.testmod(module).failed == 0


def test_a_path_without_new_messages_keeps_its_last_latencies_also_after_a_miss(tmp_path: Path) -> None:
    camera, boxes = origin_id("camera/image"), origin_id("detector/boxes")
    nodes = [
        NodeView("camera", "Running", outputs=[OutputView("image", 0)]),
        NodeView("detector", "Running", outputs=[OutputView("boxes", 1)]),
        NodeView("motor", "Running"),
    ]
    link = LinkView(2, 1, "detector/boxes", "motor/in")
    inspection = Inspection("id", None, "shm", "", "", "", nodes, [link])
    board = str(tmp_path / "board")
    memory = Records(path_records_of(board, 0))
    meter = PathMeter(memory)
    path = path_number(camera, 2)
    meter.add(path, 80 * MS)
    meter.note_budget(path, 50 * MS, boxes)
    reader = PathReader(board, memoryview(bytearray(3 * LINE_BYTES)).cast("Q"))
    (first,) = reader.refresh(inspection)
    assert (first.messages, first.missed) == (1, 1)
    assert first.median_ms == first.p99_ms == pytest.approx(80, rel=0.07)
    assert first.slowest_hop == "the work of `detector` until it sent `boxes`"
    assert reader.refresh(inspection) == [first]
    meter.note_budget(path, 50 * MS, boxes)
    assert reader.refresh(inspection) == [structs.replace(first, missed=2)]
    memory.close()


def message_of(data, metadata=None) -> Message:
    payload = encode(data)
    section = encode_metadata(metadata) if metadata else b""
    head = pack_head(payload.encoding, payload.schema, section, payload.size, 1, 1_700_000_000_123_456_789)
    return Message(head + payload.to_bytes())


@pytest.mark.parametrize("fault", [DoraError("no"), ConnectError("it has ended")])
def test_a_connection_whose_dataflow_cannot_be_observed_is_closed(fault: DoraError) -> None:
    class Run:
        description = Description("id", None, [], "arm")
        closed = 0

        def ask(self, _: object) -> None:
            raise fault

        def close(self) -> None:
            self.closed += 1

    run: Any = Run()
    with pytest.raises(type(fault)):
        RunSource(run)
    assert run.closed == 1


# ------------------------------------------------------------------ measured rates


def test_missed_messages_do_not_distort_the_rate() -> None:
    meter = RateMeter(10)
    for number in (1, 2, 3, 50, 51):  # every 10 ms
        meter.add(number, number * 10 * MS, 100)
    found = meter.rate()
    assert found is not None
    assert (found.hz, found.mean_ms, found.samples) == (100.0, 10.0, 3)
    assert (found.min_ms, found.max_ms, found.deviation_ms) == (10.0, 10.0, 0.0)
    assert found.bytes_per_second == pytest.approx(10_000)


def test_the_window_slides_and_a_restarted_sender_starts_a_new_one() -> None:
    meter = RateMeter(1)
    for number in range(1, 200):
        meter.add(number, number * 100 * MS, 1)
    assert meter.rate().samples == 10
    meter.forget_before(10**12)
    assert meter.rate() is None
    meter.add(5, 10**12, 1)
    meter.add(1, 10**12 + MS, 1)
    assert meter.rate() is None


def test_messages_of_one_moment_or_number_have_no_rate() -> None:
    meter = RateMeter(1)
    meter.add(1, MS, 1)
    meter.add(2, MS, 1)
    assert meter.rate() is None
    meter.add(2, 5 * MS, 1)  # of another sender, which has sent as many
    assert meter.rate() is None


# ------------------------------------------------------------------ values


def test_shortened_values_are_marked() -> None:
    shown = values.FormattedValue(message_of(pa.array(range(20))), full=False)
    assert shown.as_line() == f"data=[{', '.join(map(str, range(16)))}, … 4 more int64] metadata={{}}"
    line = json.loads(shown.as_json("a/b"))
    assert (len(line["data"]), line["length"]) == (16, 20)
    whole = values.FormattedValue(message_of(pa.array(range(20))), full=True)
    assert json.loads(whole.as_json("a/b"))["data"] == list(range(20))
    long_text = values.FormattedValue(message_of(pa.array(["x" * 1000])), full=False)
    assert len(long_text.data[0]) == values.SHOWN_TEXT + 1
    nested = values.FormattedValue(message_of(pa.array([list(range(100))])), full=False)
    assert nested.data[0][-1] == "… 84 more"


def test_values_without_a_json_form_become_text() -> None:
    metadata = {
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "raw": b"\x01\xff",
        "none": None,
        "deep": {"x": [1, 2.5]},
    }
    data = pa.array([float("nan"), float("inf"), None, 1.5])
    line = json.loads(values.FormattedValue(message_of(data, metadata), full=False).as_json("a/b"))
    assert line["data"] == ["nan", "inf", None, 1.5]
    assert line["metadata"] == {
        "at": "2026-01-02T00:00:00Z",
        "raw": "01ff",
        "none": None,
        "deep": {"x": [1, 2.5]},
    }
    assert line["timestamp"] == "2023-11-14T22:13:20.123456Z"


def test_a_message_that_cannot_be_decoded_is_reported() -> None:
    head = pack_head(0, b"?", b"", 0, 1, 0)
    shown = values.FormattedValue(Message(head), full=False)
    assert "unknown format" in shown.as_line()
    assert "unknown format" in json.loads(shown.as_json("a/b"))["error"]


@pytest.mark.parametrize(
    "text", ["{", "NaN1", "[1, {}]", '[1, "a"]', pytest.param("[" * 100_000, id="a hundred thousand lists")]
)
def test_a_text_that_is_no_array_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not JSON|has no Arrow type"):
        values.parse_data(text)


# ------------------------------------------------------------------ topics


def inspection() -> Inspection:
    return Inspection(
        dataflow_id="d",
        file=None,
        engine="iceoryx2",
        run_dir="/r",
        prefix="p",
        board="/b",
        nodes=[
            NodeView(
                "camera", "Running", outputs=[OutputView("image", 2), OutputView("log", 3, text=True)]
            ),
            NodeView("sink", "Running"),
        ],
        links=[
            LinkView(4, 2, "camera/image", "sink/fast", queue_size=5),
            LinkView(5, 2, "camera/image", "sink/sure", policy="backpressure", queue_size=5),
        ],
    )


def test_topics_are_found_by_name() -> None:
    (image,) = topics.find_topics(inspection(), ["camera/image", "camera/image"])
    assert image.subscribers == ["sink/fast", "sink/sure"]
    assert [topic.name for topic in topics.find_tappable(inspection(), [])] == ["camera/image"]
    with pytest.raises(DoraError, match="carries lines of the log"):
        topics.find_tappable(inspection(), ["camera/log"])


# ------------------------------------------------------------------ the board


def board(**_) -> memoryview:
    return memoryview(bytearray(8 * WORDS * 8)).cast("Q")


def test_what_qos_left_out_is_not_among_the_received() -> None:
    words = board()
    reader = rates.Counters(inspection(), words)
    words[4 * WORDS + STATE] = CONNECTED
    before = reader.read()
    words[4 * WORDS + RECEIVED] = 10
    for counter, count in ((EXPIRED, 3), (THINNED, 2), (MISSED, 4), (OVERDUE, 1)):
        words[4 * WORDS + counter.word] = count
    after = msgspec.structs.replace(reader.read(), time_ns=before.time_ns + 10**9)
    fast, _ = rates.rates(inspection(), before, after)[1]
    assert (fast.hz, fast.flags) == (5.0, ("overdue",))
    assert fast.counts == {"expired": 3, "thinned": 2, "missed": 4}
    assert after.links[4].received == 5


def test_rates_queues_and_losses_come_from_the_board() -> None:
    words = board()
    reader = rates.Counters(inspection(), words)
    for slot in (4, 5):
        words[slot * WORDS + STATE] = CONNECTED
    words[2 * WORDS + SENT] = 10
    words[4 * WORDS + FIRST] = 2
    words[4 * WORDS + RECEIVED] = 5
    words[4 * WORDS + DROPPED] = 1
    words[5 * WORDS + RECEIVED] = 3
    before = reader.read()
    assert before.links == {4: rates.LinkCounts(5, 1, 2), 5: rates.LinkCounts(3, 0, 7)}
    words[2 * WORDS + SENT] = 110
    words[2 * WORDS + 5] = 50_000
    words[5 * WORDS + RECEIVED] = 103
    words[5 * WORDS + SILENT.word] = 1
    after = msgspec.structs.replace(reader.read(), time_ns=before.time_ns + 2 * 10**9)
    # The receiver has not polled: of 102 messages behind, its queue holds 5.
    assert after.links[4] == rates.LinkCounts(5, 98, 5)
    outputs, links = rates.rates(inspection(), before, after)
    assert (outputs[2].hz, outputs[2].bytes_per_second) == (50.0, 25_000.0)
    fast, sure = links
    assert (fast.hz, fast.waiting, fast.dropped, fast.dropping_hz) == (0.0, 5, 98, 48.5)
    assert (sure.hz, sure.bytes_per_second, sure.waiting) == (50.0, 25_000.0, 7)
    assert (fast.flags, sure.flags) == ((), ("silent",))
    assert [[str(cell) for cell in link_row(item)[:2]] for item in links] == [
        ["camera/image -> sink/fast", "0.0/s"],
        ["camera/image -> sink/sure", "silent"],
    ]


def test_a_latency_ends_when_the_message_is_taken() -> None:
    words = board()
    link = latency.LatencyMeter(inspection().links[0], words)
    link.add_sent(1, 0)  # not connected: no receiver will take it
    words[4 * WORDS + STATE] = CONNECTED
    link.add_sent(2, 0)
    link.poll()
    assert link.times_ns == []
    words[4 * WORDS + RECEIVED] = 2
    link.poll()
    assert len(link.times_ns) == 1
    link.add_sent(3, 0)
    words[4 * WORDS + DROPPED] = 1  # it was lost, not taken
    link.poll()
    assert len(link.times_ns) == 1


def test_nothing_waits_at_a_receiver_that_is_gone() -> None:
    words = board()
    reader = rates.Counters(inspection(), words)
    words[4 * WORDS + STATE] = CONNECTED
    words[2 * WORDS + SENT] = 100
    before = reader.read()
    assert before.links[4] == rates.LinkCounts(0, 95, 5)
    words[4 * WORDS + STATE] = CLOSED
    after = msgspec.structs.replace(reader.read(), time_ns=before.time_ns + 10**9)
    assert after.links[4] == rates.LinkCounts(0, 0, 0)
    fast, _ = rates.rates(inspection(), before, after)[1]
    assert fast.dropping_hz == 0.0, "what was not lost after all is no negative loss"


def test_counters_that_are_read_in_the_middle_of_a_change_give_no_negative_numbers() -> None:
    words = board()
    reader = rates.Counters(inspection(), words)
    words[4 * WORDS + STATE] = CONNECTED
    words[2 * WORDS + SENT] = 9
    words[4 * WORDS + RECEIVED] = 10  # the sender counts its message later
    before = reader.read()
    assert before.links[4].waiting == 0
    words[4 * WORDS + EXPIRED.word] = 1  # known before it counts as received
    after = msgspec.structs.replace(reader.read(), time_ns=before.time_ns + 10**9)
    fast, _ = rates.rates(inspection(), before, after)[1]
    assert fast.hz == 0.0


def test_the_size_of_messages_is_not_known_where_they_are_not_copied() -> None:
    view = inspection()
    view.links[1].kind = "local"
    words = board()
    reader = rates.Counters(view, words)

    def sizes(count: int, size: int) -> list[float | None]:
        before = reader.read()
        words[2 * WORDS + SENT] += count
        words[2 * WORDS + BYTES] += size
        for slot in (4, 5):
            words[slot * WORDS + RECEIVED] += count
        after = msgspec.structs.replace(reader.read(), time_ns=before.time_ns + 10**9)
        return [link.bytes_per_second for link in rates.rates(view, before, after)[1]]

    assert sizes(10, 500) == [500.0, None]
    assert sizes(10, 0) == [None, None]
    assert sizes(0, 0) == [None, None]
