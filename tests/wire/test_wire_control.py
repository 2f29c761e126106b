"""Control frames: every kind comes back, and a stream of bytes is cut where frames end."""

from __future__ import annotations

import math
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.wire import node_protocol
from dora.wire.black_box import SavedBlackBox
from dora.wire.daemon_protocol import (
    ANSWER_TIMEOUT,
    SAVE_TIMEOUT,
    Answer,
    ApplyChange,
    CheckChange,
    CloseTaps,
    Conflict,
    DataflowEnded,
    DataflowText,
    DeleteParameter,
    DescribeDataflow,
    Description,
    FilePart,
    GetDataflow,
    GetGraph,
    GetJournal,
    GetModel,
    GetParameters,
    GetProgress,
    GraphText,
    Inspect,
    Inspection,
    Interrupt,
    JournalEntries,
    LinkView,
    Model,
    NodeRemoved,
    NodeView,
    Ok,
    OpenTaps,
    OutputView,
    Parameters,
    Publish,
    ReadSavedFile,
    Rejected,
    Request,
    RunProgress,
    SaveBlackBox,
    SentCounts,
    SetParameter,
    StartEventLogs,
    WaitingNode,
    answer_timeout,
    decode_answer,
    decode_to_daemon,
)
from dora.wire.framing import FrameBuffer, FrameError, encode_frame
from dora.wire.journal import JournalEntry, Mark, Values
from dora.wire.node_config import (
    Address,
    ChannelConfig,
    InputConfig,
    LinkConfig,
    NodeConfig,
    OperatorConfig,
    OutputConfig,
    RemoteConfig,
    WriteEventLog,
    decode_address,
    encode_address,
)
from dora.wire.node_protocol import (
    AttachInput,
    AttachLink,
    Closing,
    DetachInput,
    DetachLink,
    InputAttached,
    InputDetached,
    InputsClosed,
    NodeFailedFrame,
    NodeRestartedFrame,
    OperatorFailure,
    OutputsClosed,
    ParamDeletedFrame,
    ParamUpdateFrame,
    PathMissed,
    PublishRequest,
    PublishResult,
    Ready,
    Register,
    Registered,
    RegistrationRefused,
    ReloadFrame,
    SafeStateChanged,
    SafeStateFrame,
    SetOwnParameters,
    SourceFailed,
    Started,
    StartRefused,
    StopDataflow,
    StopFrame,
    TextInput,
    decode_to_node,
)
from dora.wire.operations import (
    MAX_GRACE,
    AddOperation,
    OperationResult,
    ProposedChange,
    RemoveOperation,
    ReplaceOperation,
    RestartOperation,
    StopOperation,
    grace_fault,
)

CONFIG = NodeConfig(
    dataflow_id="id",
    node_id="node",
    engine="iceoryx2",
    run_dir="/run",
    prefix="dora_",
    board="/dev/shm/board",
    node_slot=1,
    bell="/run/bell-0",
    inputs=[
        InputConfig("tick", "timer", "dora/timer/millis/10", interval_ns=10_000_000),
        InputConfig(
            "image", "link", "camera/image", queue_size=3, queue_policy="backpressure", input_timeout=1.5
        ),
    ],
    outputs=[OutputConfig("o", links=[LinkConfig(2, 3, "/run/bell-1", "b/in", dynamic=True)])],
    operators=[OperatorConfig("op", "/op.py", ["image"], ["o"])],
    descriptor=msgspec.Raw(msgspec.msgpack.encode({"nodes": [{"id": "node", "env": {"X": 1}}]})),
    restart_count=2,
)
REMOTE = RemoteConfig("10.0.0.2:7447", {"left": "10.0.0.1:7447"}, "secret")
PROPOSAL = ProposedChange(
    revision=4,
    dataflow={"nodes": []},
    machines={"a": "left", "b": "right"},
    generations={"a": 1},
    added="a/out -> b/in",
)
TO_DAEMON: list[Any] = [
    Register("node", 123, "1.0", dynamic=True, incarnation=4, dataflow="arm"),
    Ready(),
    OutputsClosed(["a", "b"]),
    Closing({"typo": 3}),
    OperatorFailure("detector"),
    SafeStateChanged("command", "deadline", entered=False, seconds=1.5),
    PathMissed("camera/image to motor/command took 60 ms"),
    StopDataflow(),
    SetOwnParameters({"gain": 0.5, "limits": {"low": [1, None]}}),
    DescribeDataflow(),
    GetParameters("a"),
    SetParameter("a", "gain", {"p": [1, None]}),
    DeleteParameter("a", "gain"),
    PublishResult(7, "there is no such output"),
    Inspect(),
    GetProgress(),
    GetGraph(),
    GetDataflow(),
    OpenTaps([3, 4], until_end=True),
    CloseTaps(),
    StartEventLogs("/orders"),
    Publish("a", "out", b"message"),
    InputAttached(7, "no room"),
    InputDetached("image", 7),
    StopOperation("a", 0.5),
    RestartOperation("a"),
    Interrupt(0.5, force=True),
    GetModel(),
    GetJournal(7),
    SaveBlackBox("/tmp/a.mcap", "here"),
    ReadSavedFile("/tmp/a.mcap", 7),
    CheckChange(PROPOSAL),
    ApplyChange(PROPOSAL, "left", REMOTE, {"a": {"out": 7}}),
]
TO_NODE: list[Any] = [
    Registered(CONFIG),
    RegistrationRefused("because"),
    Started(2**63),
    StartRefused("node `b` ended"),
    InputsClosed(["a"]),
    NodeFailedFrame("b", "exit status 3", ["a"]),
    SafeStateFrame("command", "arm/command", "failed", entered=True),
    SourceFailed(["a"]),
    NodeRestartedFrame("b"),
    ReloadFrame(["op"], ["/project/helper.py"]),
    ParamUpdateFrame("gain", 0.5),
    ParamDeletedFrame("gain"),
    StopFrame(),
    PublishRequest(7, "out", b"message"),
    WriteEventLog("/orders/a", end=True),
    AttachLink("o", LinkConfig(2, 3, "/run/bell-1", "b/in"), 5, "", ChannelConfig("id/a/o@9", 16, 11)),
    DetachLink("o", 2, 6, "id/a/o@9"),
    AttachInput(InputConfig("image", "link", "camera/image", late=True)),
    DetachInput("image", 7),
    TextInput(["log"], "žluťoučký"),
]
ANSWERS: list[Any] = [
    Description("id", "/lab.yml", ["a"]),
    Parameters({"gain": 0.5}),
    OperationResult("a"),
    Ok(),
    Model(3, {"nodes": []}, uv=True),
    SavedBlackBox("/tmp/a.mcap", 7, 1, 2048),
    FilePart(b"data"),
    JournalEntries(
        2, [JournalEntry(5, Mark("failed", "a", "no")), JournalEntry(6, Values("a", {"gain": 1}))]
    ),
    Conflict(),
    SentCounts({"camera": {"image": 7}}),
    NodeRemoved(True, {"image": 7}),
    Inspection(
        "id",
        "/lab.yml",
        "iceoryx2",
        "/run",
        "p-",
        "/board",
        [NodeView("a", "Running", outputs=[OutputView("out", 3)])],
        [LinkView(4, 3, "a/out", "b/in")],
    ),
    RunProgress(2, True, False, (WaitingNode("a", "torch"),), 1, ("b",), (), 7, 1, 0),
    GraphText(b'{"nodes": []}'),
    DataflowText(b'{"nodes": []}', "/home/me"),
    DataflowEnded(["camera"]),
    Rejected("because"),
]


def body(frame: bytes) -> bytes:
    assert int.from_bytes(frame[:4], "little") == len(frame) - 4
    return frame[4:]


@pytest.mark.parametrize("message", TO_DAEMON, ids=lambda message: type(message).__name__)
def test_messages_of_a_node_survive_encoding(message: Any) -> None:
    assert decode_to_daemon(body(encode_frame(message))) == message


@pytest.mark.parametrize("message", TO_NODE, ids=lambda message: type(message).__name__)
def test_messages_of_a_daemon_survive_encoding(message: Any) -> None:
    assert decode_to_node(body(encode_frame(message))) == message


@pytest.mark.parametrize("message", ANSWERS, ids=lambda message: type(message).__name__)
def test_answers_to_a_command_survive_encoding(message: Any) -> None:
    assert decode_answer(body(encode_frame(message))) == message


def test_every_kind_of_frame_is_tested_here() -> None:
    assert {type(message) for message in ANSWERS} == set(get_args(Answer))
    assert {type(message) for message in TO_DAEMON} >= {
        *get_args(node_protocol.ToDaemon),
        *get_args(Request),
    }
    assert {type(message) for message in TO_NODE} >= set(get_args(node_protocol.ToNode))


def test_an_address_is_json_and_ignores_unknown_fields() -> None:
    address = Address("id", "node", "/run/daemon.sock", incarnation=1)
    assert decode_address(encode_address(address)) == address
    assert decode_address('{"dataflow_id":"a","node_id":"b","socket":"c","new":1}') == Address(
        "a", "b", "c"
    )
    with pytest.raises(ValueError, match="socket"):
        decode_address('{"dataflow_id":"a","node_id":"b"}')


@given(st.lists(st.sampled_from(TO_NODE), max_size=8), st.lists(st.integers(1, 200), max_size=40))
@settings(derandomize=True, deadline=None)
def test_frames_are_found_however_the_stream_is_cut(messages: list[Any], cuts: list[int]) -> None:
    stream = b"".join(map(encode_frame, messages))
    frames = FrameBuffer()
    found = []
    for size in [*cuts, len(stream)]:
        frames.feed(stream[:size])
        stream = stream[size:]
        found += [decode_to_node(body) for body in frames]
    assert found == messages
    assert list(frames) == []


def test_a_frame_may_be_empty_or_as_long_as_allowed_but_not_longer() -> None:
    frames = FrameBuffer(max_frame=10)
    frames.feed((0).to_bytes(4, "little") + (10).to_bytes(4, "little") + bytes(10))
    assert list(frames) == [b"", bytes(10)]
    frames.feed((11).to_bytes(4, "little"))
    with pytest.raises(FrameError, match="claims 11 bytes; the limit is 10"):
        list(frames)


@pytest.mark.lengthy
@given(st.binary(max_size=60))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_any_body_is_a_frame_or_a_decoding_error(data: bytes) -> None:
    for decode in (decode_to_daemon, decode_to_node):
        try:
            decode(data)
        except msgspec.MsgspecError:
            pass


def test_frames_of_the_other_direction_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_to_node(body(encode_frame(Ready())))
    with pytest.raises(msgspec.ValidationError):
        decode_to_daemon(body(encode_frame(StopFrame())))


def test_what_waits_for_a_build_or_an_end_has_no_limit_and_a_file_a_longer_one() -> None:
    waiting = [
        RestartOperation("a"),
        StopOperation("a"),
        RemoveOperation("a"),
        AddOperation("nodes: []"),
        ReplaceOperation("a", "nodes: []"),
    ]
    assert {answer_timeout(request) for request in waiting} == {None}
    assert answer_timeout(SaveBlackBox()) == SAVE_TIMEOUT > ANSWER_TIMEOUT
    assert answer_timeout(Inspect()) == ANSWER_TIMEOUT


@pytest.mark.parametrize("grace", [None, 0.0, 5.0, MAX_GRACE])
def test_nodes_may_get_no_time_to_end_and_up_to_a_day(grace: float | None) -> None:
    assert grace_fault(grace) == ""


@pytest.mark.parametrize("grace", [-1.0, MAX_GRACE + 1, math.inf, math.nan])
def test_a_grace_out_of_range_is_refused(grace: float) -> None:
    assert "from 0 to 86,400 seconds" in grace_fault(grace)
