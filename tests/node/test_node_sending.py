"""Sending: what may be sent, metadata, undeclared outputs, service messages, loans."""

from __future__ import annotations

import gc
import json
import mmap
import re
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import wait_until

from dora import Input, Node, SampleAlreadySent, SendError, UndeclaredOutput, UnsupportedData
from dora.errors import SharedMemoryFull
from dora.node.send.output import OutputPort
from dora.transport.board import LINE_BYTES, Board
from dora.transport.inprocess import LocalSender
from dora.transport.queues import DropOldestQueue
from dora.wire.message import Message
from dora.wire.node_config import LinkConfig, OutputConfig
from dora.wire.node_protocol import Closing


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(
        node("a", outputs="out unheard"), node("b", inputs={"in": ("a/out", {"queue_size": 100})})
    )


@pytest.fixture
def sender(daemon: FakeDaemon) -> Node:
    return daemon.node("a")


@pytest.fixture
def receiver(daemon: FakeDaemon, sender: Node) -> Node:  # noqa: ARG001 - both exist before anything is sent
    return daemon.node("b")


def one(receiver: Node) -> Input:
    (event,) = receiver.drain()
    assert isinstance(event, Input)
    return event


def log_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


# ------------------------------------------------------------------ data


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", pa.array([], pa.uint8())),
        (b"abc", pa.array([97, 98, 99], pa.uint8())),
        (bytearray(b"abc"), pa.array([97, 98, 99], pa.uint8())),
        (memoryview(b"abc"), pa.array([97, 98, 99], pa.uint8())),
        (np.array([1.5, 2.5], np.float32), pa.array([1.5, 2.5], pa.float32())),
        (np.arange(6, dtype=np.int16).reshape(2, 3), pa.array(range(6), pa.int16())),
        (pa.array([1, None, 3]), pa.array([1, None, 3])),
        (pa.array(["a", "ß"]), pa.array(["a", "ß"])),
        (pa.array([{"x": 1, "y": [1.0]}]), pa.array([{"x": 1, "y": [1.0]}])),
        (pa.array(range(10)).slice(3, 4), pa.array([3, 4, 5, 6])),
        (pa.chunked_array([[1], [2, 3]]), pa.array([1, 2, 3])),
        (pa.record_batch({"x": [1, 2]}), pa.array([{"x": 1}, {"x": 2}])),
        (pa.table({"x": [1, 2]}), pa.array([{"x": 1}, {"x": 2}])),
        (pa.nulls(3), pa.nulls(3)),
    ],
)
def test_sent_data_arrives_as_its_arrow_array(
    sender: Node, receiver: Node, data: Any, expected: pa.Array
) -> None:
    sender.send_output("out", data)
    assert one(receiver)["value"].equals(expected)


@pytest.mark.parametrize("data", [None, "text", 5, object(), pa.scalar(1), [1, 2]])
def test_unsupported_data_is_refused(sender: Node, data: Any) -> None:
    with pytest.raises(TypeError, match="cannot send"):
        sender.send_output("out", data)
    with pytest.raises(TypeError, match="cannot send"):
        sender.send_output("unheard", data)


def test_the_values_buffer_holds_exactly_the_values(sender: Node, receiver: Node) -> None:
    """Recorders write it to disk whole."""
    for size in (3, 5000):
        sender.send_output("out", bytes(size))
        value = one(receiver)["value"]
        assert value.offset == 0
        assert value.buffers()[0] is None
        assert value.buffers()[1].size == size


def test_data_is_copied_before_the_call_returns(sender: Node, receiver: Node) -> None:
    for size in (10, 100_000):
        array = np.zeros(size, np.uint8)
        metadata = {"list": [1]}
        sender.send_output("out", array, metadata)
        array[:] = 1
        metadata["list"].append(2)
        event = one(receiver)
        assert not event.numpy().any()
        assert event["metadata"]["list"] == [1]


@pytest.mark.parametrize(
    "call",
    [
        lambda node: node.send_output("out", b"x", {"a": 1}),
        lambda node: node.send_output("out", b"x", metadata={"a": 1}),
        lambda node: node.send_output(output_id="out", data=b"x", metadata={"a": 1}),
    ],
)
def test_every_way_to_pass_the_arguments(sender: Node, receiver: Node, call: Any) -> None:
    call(sender)
    assert one(receiver)["metadata"]["a"] == 1


def test_messages_of_an_output_without_receivers_are_counted(sender: Node) -> None:
    sender.send_output("unheard", b"x")
    assert sender.statistics()["outputs"]["unheard"] == {"sent": 1}


def test_sending_goes_on_after_a_stop(daemon: FakeDaemon, sender: Node, receiver: Node) -> None:
    daemon.stop("a")
    assert [event["type"] for event in sender] == ["STOP"]
    sender.send_output("out", b"x")
    assert one(receiver)["data"] == b"x"


# ------------------------------------------------------------------ metadata


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (3, 3),
        (-(2**63), -(2**63)),
        (2**63 - 1, 2**63 - 1),
        (1.5, 1.5),
        ("text", "text"),
        ([1, 2], [1, 2]),
        ((1, 2), [1, 2]),
        ([1, True], [1, True]),
        ([1.0, 2], [1.0, 2]),
        (["a", "b"], ["a", "b"]),
        ([], []),
        ((), []),
        ([True, False], [True, False]),
        (None, None),
        (b"ab", b"ab"),
        ({"a": {"b": [1, {"c": None}]}}, {"a": {"b": [1, {"c": None}]}}),
        (np.float32(1.5), 1.5),
        (np.int64(7), 7),
        (np.str_("x"), "x"),
        (np.array([1, 2]), [1, 2]),
    ],
)
def test_metadata_values(sender: Node, receiver: Node, value: Any, expected: Any) -> None:
    sender.send_output("out", b"x", {"key": value})
    received = one(receiver)["metadata"]["key"]
    assert received == expected
    assert type(received) is type(expected)


def test_a_time_arrives_in_utc(sender: Node, receiver: Node) -> None:
    zone = timezone(timedelta(hours=2))
    sender.send_output("out", b"x", {"taken": datetime(2024, 5, 1, 12, 0, 0, 123456, zone)})
    taken = one(receiver)["metadata"]["taken"]
    assert taken == datetime(2024, 5, 1, 10, 0, 0, 123456, UTC)
    assert taken.utcoffset() == timedelta(0)


def test_metadata_of_other_types_arrives_as_text_with_a_warning_for_each_type(
    sender: Node, receiver: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        sender.send_output("out", b"x", {"key": complex(1, 2)})
        assert one(receiver)["metadata"]["key"] == "(1+2j)"
    (line,) = log_lines(capsys.readouterr().out)
    assert (line["level"], line["message"]) == ("warn", "metadata values of type complex are sent as text")


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1])
def test_an_integer_that_does_not_fit(sender: Node, value: int) -> None:
    for output_id in ("out", "unheard"):
        with pytest.raises(OverflowError):
            sender.send_output(output_id, b"x", {"key": value})


def test_keys_are_strings(sender: Node) -> None:
    with pytest.raises(TypeError, match="keys of metadata are strings, not int"):
        sender.send_output("out", b"x", {1: "one"})  # type: ignore[dict-item]


def test_a_failed_send_costs_no_message(sender: Node, receiver: Node) -> None:
    for metadata in ({"key": 2**64}, {1: 2}):
        with pytest.raises((OverflowError, TypeError)):
            sender.send_output("out", b"x", metadata)  # type: ignore[arg-type]
    sender.send_output("out", b"x")
    assert one(receiver).sequence == 1
    assert receiver.statistics()["inputs"]["in"]["dropped"] == 0


def test_without_memory_on_one_channel_no_receiver_gets_the_message() -> None:
    class Full(LocalSender):
        def send(self, message: bytes, control: bytes = b"") -> None:  # noqa: ARG002
            raise SharedMemoryFull

        def loan(self, size: int) -> NoReturn:  # noqa: ARG002
            raise SharedMemoryFull

    got: DropOldestQueue[Message] = DropOldestQueue(10, lambda _: False)
    link = LinkConfig(slot=2, node_slot=3, bell="", consumer="b/in")
    board = Board("", mmap.mmap(-1, 16 * LINE_BYTES))
    port = OutputPort(
        OutputConfig("out", "out", 1, [link]),
        LocalSender([(got, lambda: None)]),
        board,
        rings=False,
        overflow_channels={"more": Full([])},
    )
    for size in (5, 100_000):
        with pytest.raises(SharedMemoryFull):
            port.send(bytes(size), None)
    assert (port.statistics(), len(got)) == ({"sent": 0}, 0)


def test_an_interrupt_right_after_a_message_leaves_the_output_usable(
    sender: Node, receiver: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    port = sender._session.outputs["out"]
    with monkeypatch.context() as patch:
        patch.setattr(port, "_ring", lambda **_: True)  # as if the receiver had slept
        patch.setattr(port, "_prepare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sender.send_output("out", b"x")
    assert not port._is_held()
    sender.send_output("out", b"y")
    assert [event["data"] for event in receiver.drain()] == [b"x", b"y"]


@pytest.mark.parametrize("metadata", [None, {}])
def test_without_metadata_there_is_the_timestamp_and_nothing_else(
    sender: Node, receiver: Node, metadata: Any
) -> None:
    before = datetime.now(UTC)
    sender.send_output("out", b"x", metadata)
    received = one(receiver)["metadata"]
    assert list(received) == ["timestamp"]
    assert before - timedelta(microseconds=1) <= received["timestamp"] <= datetime.now(UTC)


def test_forwarded_metadata_keeps_the_time_of_the_source(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", outputs="out"),
        node("relay", inputs={"in": "a/out"}, outputs="out"),
        node("b", inputs={"in": "relay/out"}),
    )
    a, relay, b = (daemon.node(name) for name in ("a", "relay", "b"))
    a.send_output("out", b"x", {"width": 3})
    received = one(relay)
    received["metadata"]["height"] = 2
    relay.send_output("out", received["value"], received["metadata"])
    event = one(b)
    assert event["metadata"] == {"timestamp": received["metadata"]["timestamp"], "width": 3, "height": 2}
    assert event.send_time >= event["metadata"]["timestamp"]


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
def test_a_receiver_sees_the_array_that_was_sent_with_the_metadata_of_another_one(
    sender: Node, receiver: Node, shape: tuple[int, ...]
) -> None:
    sender.send_output("out", np.ones((2, 2), np.complex64), {"mine": 1})
    received = one(receiver)["metadata"]
    lengths = np.arange(2, dtype=np.float32).reshape(shape)
    sender.send_output("out", lengths, received)
    with sender.loan("out", shape, "float32", received) as loaned:
        loaned[:] = lengths
    for event in receiver.drain():
        assert isinstance(event, Input)
        assert event.numpy().dtype == lengths.dtype
        assert event.numpy().tolist() == lengths.tolist()
        assert event["metadata"]["mine"] == 1


def test_large_metadata(sender: Node, receiver: Node) -> None:
    text = "x" * 100_000
    sender.send_output("out", b"y", {"text": text})
    event = one(receiver)
    assert event["metadata"]["text"] == text
    assert event["data"] == b"y"


@pytest.mark.parametrize("metadata", ["encoding", 5, ["encoding"]])
def test_metadata_that_is_no_dictionary_is_refused(sender: Node, metadata: Any) -> None:
    kind = type(metadata).__name__
    with pytest.raises(UnsupportedData, match=f"metadata is a dictionary, not {kind}"):
        sender.send_output("out", b"x", metadata)


# ------------------------------------------------------------------ undeclared outputs


def test_an_undeclared_output_is_warned_about_once_and_dropped(
    sender: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        sender.send_output("ouut", b"x")
    sender.send_output("zzz", b"x")
    first, second = log_lines(capsys.readouterr().out)
    assert first["level"] == second["level"] == "warn"
    assert first["message"] == (
        "output `ouut` is not declared for node `a`, did you mean `out`? (declared: out, unheard); "
        "its messages are dropped"
    )
    assert "did you mean" not in second["message"]
    assert sender.statistics()["undeclared"] == 4


def test_the_daemon_gets_the_counts_of_messages_to_undeclared_outputs(
    daemon: FakeDaemon, sender: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    for output, count in (("ouut", 3), ("zzz", 1)):
        for _ in range(count):
            sender.send_output(output, b"x")
    sender.close()
    wait_until(lambda: daemon.heard("a", Closing) == [Closing({"ouut": 3, "zzz": 1})], "the report")
    assert len(log_lines(capsys.readouterr().out)) == 2


def test_an_undeclared_output_raises_where_that_is_wanted(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_STRICT", "1")
    with pytest.raises(UndeclaredOutput, match="did you mean `out`"):
        daemon.node("a").send_output("ouut", b"x")


@pytest.mark.parametrize(
    ("output_id", "error", "words"),
    [
        (
            "my output",
            UndeclaredOutput,
            "'my output' is not the id of an output: it holds the character ` `",
        ),
        ("/out", UndeclaredOutput, "starts or ends with a slash"),
        ("", UndeclaredOutput, "is empty"),
        (5, TypeError, "the id of an output is a string, not int"),
        (None, RuntimeError, "the id of an output is a string, not NoneType"),
    ],
)
def test_an_impossible_output_id_always_raises(
    sender: Node, output_id: Any, error: type[Exception], words: str
) -> None:
    for _ in range(2):
        with pytest.raises(error, match=re.escape(words)):
            sender.send_output(output_id, b"x")
    assert sender.statistics()["undeclared"] == 0


def test_loans_of_undeclared_outputs_always_raise(sender: Node) -> None:
    with pytest.raises(UndeclaredOutput, match="not declared"):
        sender.send_output_raw("ouut", 5)
    with pytest.raises(UndeclaredOutput):
        sender.loan("ouut", 5)


def test_output_ids_with_slashes(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a", outputs="arm/left"), node("b", inputs={"in": "a/arm/left"}))
    sender, receiver = daemon.node("a"), daemon.node("b")
    sender.send_output("arm/left", b"x")
    assert one(receiver)["data"] == b"x"


# ------------------------------------------------------------------ services


def test_a_request_and_its_response(sender: Node, receiver: Node) -> None:
    request_id = sender.send_service_request("out", b"question", {"a": 1})
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", request_id)
    event = one(receiver)
    assert event["metadata"]["request_id"] == request_id
    assert event["metadata"]["a"] == 1
    sender.send_service_response("out", b"answer", event["metadata"])
    assert one(receiver)["metadata"]["request_id"] == request_id


def test_request_ids_differ(sender: Node, receiver: Node) -> None:
    assert len({sender.send_service_request("out", b"") for _ in range(50)}) == 50
    assert len(receiver.drain()) == 50


def test_a_given_request_id_is_replaced_with_a_warning(
    sender: Node, receiver: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"request_id": "mine"}
    request_id = sender.send_service_request("out", b"", given)
    assert one(receiver)["metadata"]["request_id"] == request_id != "mine"
    assert given == {"request_id": "mine"}
    (line,) = log_lines(capsys.readouterr().out)
    assert line["level"] == "warn"
    assert "request_id" in line["message"]


def test_a_response_without_request_id_is_sent_with_a_warning(
    sender: Node, receiver: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    sender.send_service_response("out", b"x", {})
    assert one(receiver)["data"] == b"x"
    (line,) = log_lines(capsys.readouterr().out)
    assert line["level"] == "warn"


# ------------------------------------------------------------------ loans


@pytest.mark.parametrize("size", [0, 1, 64, 5000, 1_000_000])
def test_a_raw_sample_arrives_as_bytes(sender: Node, receiver: Node, size: int) -> None:
    with sender.send_output_raw("out", size, {"a": 1}) as buffer:
        np.frombuffer(buffer, np.uint8)[:] = 7
    event = one(receiver)
    assert event["value"].type == pa.uint8()
    assert event["data"] == b"\7" * size
    assert event["metadata"]["a"] == 1


def test_the_buffer_is_flat_writable_bytes(sender: Node) -> None:
    sample = sender.send_output_raw("out", 10)
    for buffer in (sample.as_buffer(), sample.as_memoryview()):
        assert (buffer.ndim, buffer.format, len(buffer), buffer.readonly) == (1, "B", 10, False)


def test_sending_a_sample_by_hand(sender: Node, receiver: Node) -> None:
    sample = sender.send_output_raw("out", 3)
    sample.as_buffer()[:] = b"abc"
    assert receiver.is_empty()
    sample.send()
    assert one(receiver)["data"] == b"abc"
    with pytest.raises(SampleAlreadySent, match="already been sent"):
        sample.send()
    with pytest.raises(SampleAlreadySent):
        sample.as_buffer()
    assert receiver.is_empty()


def test_a_sample_that_is_still_in_use_cannot_be_sent_yet(sender: Node, receiver: Node) -> None:
    sample = sender.send_output_raw("out", 3)
    array = np.frombuffer(sample.as_buffer(), np.uint8)
    array[:] = 5
    with pytest.raises(SendError, match="a view of its buffer is still open"):
        sample.send()
    assert receiver.is_empty()
    del array
    sample.send()
    assert one(receiver)["data"] == b"\5\5\5"


def test_a_block_at_whose_end_an_array_is_alive_sends_nothing_yet(sender: Node, receiver: Node) -> None:
    sample = sender.send_output_raw("out", 3)
    with pytest.raises(SendError, match="a view of its buffer is still open"), sample as buffer:
        array = np.frombuffer(buffer, np.uint8)
        array[:] = 6
    assert receiver.is_empty()
    array[0] = 7
    del array
    sample.send()
    assert one(receiver)["data"] == b"\7\6\6"


def test_a_memoryview_has_to_be_released_before_a_sample_is_sent(sender: Node, receiver: Node) -> None:
    sample = sender.send_output_raw("out", 3)
    view, other = sample.as_memoryview(), sample.as_memoryview()
    assert other is not view
    view[:] = b"abc"
    view.release()
    assert other.tobytes() == b"abc"
    with pytest.raises(RuntimeError, match="view of its buffer is still open"):
        sample.send()
    assert receiver.is_empty()
    other.release()
    sample.send()
    assert one(receiver)["data"] == b"abc"
    with pytest.raises(RuntimeError, match="already been sent"):
        sample.as_memoryview()


NO_VIEW = (
    BufferError if sys.version_info >= (3, 12) else ValueError
)  # 3.11 has no buffers written in Python


def test_a_buffer_gives_no_view_of_a_sample_that_is_sent(sender: Node, receiver: Node) -> None:
    sample = sender.send_output_raw("out", 3)
    buffer = sample.as_buffer()
    assert sample.as_buffer() is buffer
    buffer[:] = b"abc"
    assert (len(buffer), bytes(buffer), buffer[1:2]) == (3, b"abc", b"b")
    sample.send()
    assert one(receiver)["data"] == b"abc"
    with pytest.raises(NO_VIEW):
        memoryview(buffer)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="a plain memoryview keeps its memory")
def test_a_buffer_gives_no_view_of_a_sample_that_is_gone(sender: Node) -> None:
    buffer = sender.send_output_raw("out", 3).as_buffer()
    with pytest.raises(BufferError, match="its sample is gone"):
        memoryview(buffer)


def test_a_sample_whose_block_raised_can_be_sent_later(sender: Node, receiver: Node) -> None:
    sample = sender.send_output_raw("out", 3)
    with pytest.raises(KeyError), sample as buffer:
        buffer[:] = b"abc"
        raise KeyError
    assert receiver.is_empty()
    sample.send()
    assert one(receiver)["data"] == b"abc"


def test_a_block_that_raises_sends_nothing(sender: Node, receiver: Node) -> None:
    for _ in range(20):  # more than there may be loans at a time
        with pytest.raises(KeyError), sender.send_output_raw("out", 3):
            raise KeyError
        with pytest.raises(KeyError), sender.loan("out", 3):
            raise KeyError
    assert receiver.is_empty()
    sender.send_output("out", b"x")
    assert one(receiver).sequence == 1


@pytest.mark.slow
def test_a_sample_that_is_dropped_gives_its_memory_back(sender: Node, receiver: Node) -> None:
    for _ in range(20):
        sender.send_output_raw("out", 100)
    for _ in range(20):
        sender.send_output_raw("out", 100).discard()
    gc.collect()
    assert receiver.is_empty()


@pytest.mark.slow
def test_a_buffer_keeps_its_memory_while_it_is_used(sender: Node, receiver: Node) -> None:
    sample = sender.send_output_raw("out", 5000)
    buffer = np.frombuffer(sample.as_buffer(), np.uint8)
    del sample
    gc.collect()
    sender.send_output("out", b"\1" * 5000)
    buffer[:] = 2
    assert one(receiver)["data"] == b"\1" * 5000


@pytest.mark.parametrize("size", [-1, 2**62])
def test_a_sample_of_impossible_size(sender: Node, size: int) -> None:
    with pytest.raises((ValueError, SendError)):
        sender.send_output_raw("out", size)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64", np.int64])
def test_a_loan_is_a_numpy_array(sender: Node, receiver: Node, dtype: Any) -> None:
    with sender.loan("out", (4, 5), dtype, {"a": 1}) as array:
        assert array.shape == (4, 5)
        assert array.dtype == np.dtype(dtype)
        array[:] = np.arange(20).reshape(4, 5)
    event = one(receiver)
    assert event.numpy().tolist() == np.arange(20).reshape(4, 5).tolist()
    assert event["value"].to_pylist() == list(range(20))
    assert event["value"].type == pa.from_numpy_dtype(np.dtype(dtype))
    assert event["metadata"]["a"] == 1
    assert event["metadata"]["shape"] == [4, 5]
    assert event["metadata"].get("encoding") == ("mono8" if dtype == "uint8" else None)


def test_the_array_of_a_sent_loan_is_read_only(sender: Node, receiver: Node) -> None:
    with sender.loan("out", 5) as array:
        array[:] = 1
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 2
    assert one(receiver)["data"] == b"\1" * 5


@pytest.mark.parametrize("dtype", ["bool", "U5", "datetime64[s]", "O"])
def test_a_loan_of_something_that_is_no_number(sender: Node, dtype: str) -> None:
    with pytest.raises(TypeError, match="plain number type"):
        sender.loan("out", 5, dtype)


@pytest.mark.parametrize("shape", [0, (0, 3), ()])
def test_loans_of_unusual_shapes(sender: Node, receiver: Node, shape: Any) -> None:
    with sender.loan("out", shape, "float32") as array:
        array[...] = 3
    assert one(receiver).numpy().size == int(np.prod(shape))


def test_a_raw_sample_can_be_sent_on_an_output_without_receivers(sender: Node) -> None:
    with sender.send_output_raw("unheard", 5) as buffer:
        buffer[:] = b"abcde"
    assert sender.statistics()["outputs"]["unheard"] == {"sent": 1}


# ------------------------------------------------------------------ after the end


def test_nothing_can_be_sent_after_close(sender: Node) -> None:
    sample = sender.send_output_raw("out", 3)
    sender.close()
    for send in (
        lambda: sender.send_output("out", b"x"),
        lambda: sender.send_output("undeclared", b"x"),
        lambda: sender.send_output_raw("out", 3),
        lambda: sender.loan("out", 3),
        lambda: sample.send(),
        lambda: sender.send_service_request("out", b"x"),
    ):
        with pytest.raises(SendError, match="closed"):
            send()
