"""The parts of the Foxglove node: its server, channels, player, drawers and view, without processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import foxglove
import pyarrow as pa
import pytest
from foxglove.websocket import PlaybackCommand, PlaybackState, PlaybackStatus
from foxglove_client import FOXGLOVE, FoxgloveClient
from ports import free_port
from recorded_files import message_of
from waiting import wait_until

from dora.errors import ConnectError, DoraError
from dora.nodes.foxglove import beside, drawing
from dora.nodes.foxglove.channels import ChannelMap
from dora.nodes.foxglove.live import LiveView
from dora.nodes.foxglove.player import RecordingPlayer
from dora.nodes.foxglove.server import FoxgloveServer, Published, array_of
from dora.observe.preview.drawable import DrawableMessage, NotDrawable


@pytest.fixture
def server() -> Iterator[FoxgloveServer]:
    started = FoxgloveServer("lab", f"127.0.0.1:{free_port()}", control=True)
    yield started
    started.close()


def test_a_topic_is_looked_at_until_the_last_client_leaves(server: FoxgloveServer) -> None:
    client: Any = None
    channel: Any = SimpleNamespace(topic="camera/image")
    for change, looked_at in (
        (server.on_subscribe, {"camera/image"}),
        (server.on_subscribe, {"camera/image"}),
        (server.on_unsubscribe, {"camera/image"}),
        (server.on_unsubscribe, set()),
        (server.on_unsubscribe, set()),
        (server.on_subscribe, {"camera/image"}),
    ):
        change(client, channel)
        assert server.looked_at == looked_at


def test_a_refusal_is_told_once(server: FoxgloveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(server, "warn", told.append)
    client: Any = SimpleNamespace(id=1)
    channel: Any = SimpleNamespace(id=7, topic="/wheels", encoding="ros1")
    for number in (1, 2):
        server.on_client_advertise(client, channel)
        server.on_client_advertise(client, channel)
        for _ in range(2):
            assert server.take_requests() == []
            assert told == ["`/wheels`: dora takes messages in JSON, not in ros1"] * number


def test_a_channel_that_a_client_has_closed_or_left_is_forgotten(server: FoxgloveServer) -> None:
    with FoxgloveClient(server.address) as client:
        client.publish("/wheels", 1)
        wait_until(lambda: server.take_requests() == [Published("/wheels", b"1")], "the message")
        wait_until(lambda: not server._advertised, "the end of the channel")
        channel = {"id": 8, "topic": "/arm", "encoding": "json", "schemaName": ""}
        client.send("advertise", channels=[channel])
        wait_until(lambda: server._advertised, "the other channel")
    wait_until(lambda: not server._advertised, "the end of the client's channels")
    number = 8
    left: Any = SimpleNamespace(id=1)
    server.on_message_data(left, number, b"1")
    assert server.take_requests() == []


def test_clients_get_the_parameters_that_have_changed_and_those_that_they_name(
    server: FoxgloveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    sdk: Any = server._server
    fake = SimpleNamespace(
        stop=sdk.stop,
        publish_parameter_values=lambda values: sent.append(
            {each.name: each.get_value() for each in values}
        ),
    )
    monkeypatch.setattr(server, "_server", fake)
    server.set_parameters({"a/x": 1, "a/y": 2})
    server.set_parameters({"a/x": 1, "a/y": 2})
    server.set_parameters({"a/x": 1, "a/y": 3})
    assert sent == [{"a/x": 1, "a/y": 2}, {"a/y": 3}]
    client: Any = None
    for names, known in (([], ["a/x", "a/y"]), (["a/y", "a/z"], ["a/y"])):
        assert [each.name for each in server.on_get_parameters(client, names)] == known


def test_a_topic_whose_schema_changes_gets_another_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    closed: list[str] = []

    def channel(_: str, *, schema: Any, **__: Any) -> Any:
        opened.append(schema.name)
        return SimpleNamespace(log=lambda *_, **__: None, close=lambda: closed.append(schema.name))

    monkeypatch.setattr("dora.nodes.foxglove.channels.Channel", channel)
    channels = ChannelMap(foxglove.Context())
    for data in (pa.array([1.0]), pa.array([2.0]), pa.array([{"a": 1}]), pa.array([1.0])):
        channels.show("a/x", message_of(data, {}, 1, 1))
    assert (opened, closed) == (["dora.Float64", "dora.Values", "dora.Float64"], opened[:2])
    channels.close()
    assert closed == opened


def test_of_a_long_message_the_first_values_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[bytes] = []

    def channel(*_: Any, **__: Any) -> Any:
        return SimpleNamespace(log=lambda data, **_: logged.append(data))

    monkeypatch.setattr("dora.nodes.foxglove.channels.Channel", channel)
    ChannelMap(foxglove.Context()).show("a/x", message_of(pa.array([{"a": 1}] * 1001), {}, 1, 1))
    assert [len(json.loads(data)["values"]) for data in logged] == [1000]


def test_an_object_with_more_than_values_is_a_struct() -> None:
    assert array_of(Published("a/b", b'{"values": [1, 2]}')).to_pylist() == [1, 2]
    text = b'{"values": [1], "unit": "m"}'
    assert array_of(Published("a/b", text)).to_pylist() == [{"values": [1], "unit": "m"}]


BEGIN_NS, END_NS = 10**18, 10**18 + 10**9


@pytest.fixture
def player() -> Iterator[RecordingPlayer]:
    recording: Any = SimpleNamespace(count=1, first_ns=BEGIN_NS, last_ns=END_NS)
    made = RecordingPlayer(recording, "lab", f"127.0.0.1:{free_port()}")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("at", "seek", "begins"),
    [
        (BEGIN_NS + 5, None, BEGIN_NS + 5),
        (END_NS, None, BEGIN_NS),
        (BEGIN_NS + 5, END_NS + 9, BEGIN_NS),
        (END_NS, BEGIN_NS - 9, BEGIN_NS),
        (END_NS, BEGIN_NS + 7, BEGIN_NS + 7),
    ],
)
def test_a_player_begins_where_a_client_asks_and_again_after_the_end(
    at: int, seek: int | None, begins: int, player: RecordingPlayer
) -> None:
    player._now, player._jumped = at, False
    request: Any = SimpleNamespace(
        seek_time=seek, playback_command=PlaybackCommand.Play, playback_speed=0.0, request_id="7"
    )
    state = player._control(request)
    jumped = begins != at
    assert state == PlaybackState(PlaybackStatus.Playing, begins, 0.01, jumped, "7")
    assert (player._jumped, player._commanded) == (jumped, True)


def test_a_jump_of_a_client_wins_over_the_step_that_was_being_shown(player: RecordingPlayer) -> None:
    player._jumped, player._playing, player._now = False, True, BEGIN_NS
    player._advance(BEGIN_NS, BEGIN_NS + 5, ended=False)
    assert player._now == BEGIN_NS + 5
    player._now = BEGIN_NS + 50
    player._advance(BEGIN_NS + 5, END_NS, ended=True)
    assert (player._now, player._playing) == (BEGIN_NS + 50, True)
    player._advance(BEGIN_NS + 50, END_NS, ended=True)
    assert (player._now, player._playing) == (END_NS, False)


@pytest.mark.parametrize(
    ("draw", "numbers", "metadata", "shown"),
    [
        (drawing.boxes3d, [0.0, 0, 0, 1, 2, 3], {"format": "min_max"}, ("cubes", "size", (1, 2, 3))),
        (drawing.lines3d, [0.0, 0, 0, 1, 1, 1], {}, ("lines", "thickness", 0.02)),
        (drawing.lines3d, [0.0, 0, 0, 1, 1, 1], {"radius": 0.5}, ("lines", "thickness", 1.0)),
    ],
)
def test_boxes_and_lines_in_space_have_their_sizes(
    draw: Any, numbers: list[float], metadata: dict[str, Any], shown: tuple[str, str, Any]
) -> None:
    (drawn,) = draw(DrawableMessage("x", pa.array(numbers), metadata))
    (entity,) = FOXGLOVE["foxglove.SceneUpdate"].FromString(drawn.encode()).entities
    part, attribute, expected = shown
    (found,) = getattr(entity, part)
    value = getattr(found, attribute)
    assert ((value.x, value.y, value.z) if attribute == "size" else value) == expected


def test_joints_have_a_name_each() -> None:
    for names, found in ((None, ["joint_0", "joint_1"]), (["elbow", "wrist"], ["elbow", "wrist"])):
        metadata = {} if names is None else {"joint_names": names}
        (drawn,) = drawing.joints(DrawableMessage("x", pa.array([0.5, 1.0]), metadata))
        joints = FOXGLOVE["foxglove.JointStates"].FromString(drawn.encode()).joints
        assert [(each.name, each.position) for each in joints] == list(zip(found, (0.5, 1.0), strict=True))
    message = DrawableMessage("x", pa.array([0.5, 1.0]), {"joint_names": ["elbow"]})
    with pytest.raises(NotDrawable, match="`joint_names` has 1 names, and there are 2 joints"):
        list(drawing.joints(message))


def view_of(topics: set[str]) -> Any:
    """Return a view of a dataflow whose clients look at these topics; ``sent`` has what they would get."""
    view: Any = LiveView.__new__(LiveView)
    view.sent, view._logs, view._log_directory, view._trouble = [], None, "out/x", ""
    view.server = SimpleNamespace(looked_at=topics, warn=view.sent.append)
    view._channels = SimpleNamespace(send=lambda _, __, time_ns: view.sent.append(time_ns))
    return view


def test_logs_are_read_while_somebody_looks_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []

    class Reader:
        def __init__(self, directory: str) -> None:
            self.directory, self.near_end, self.closed = directory, False, 0
            opened.append(self)

        def begin_near_end(self, size: int) -> None:
            self.near_end = size > 0

        def entries(self) -> Iterator[Any]:
            yield SimpleNamespace(
                timestamp_ns=len(opened), level="info", node_id=None, message="x", file=None, line=None
            )

        def close(self) -> None:
            self.closed += 1

    monkeypatch.setattr("dora.nodes.foxglove.live.LogReader", Reader)
    looked_at = {"/logs"}
    view = view_of(looked_at)
    for topics in ({"/logs"}, {"/logs"}, set(), set(), {"/logs"}):
        looked_at.clear()
        looked_at.update(topics)
        view._show_logs()
    assert view.sent == [1, 1, 2]
    assert [(each.directory, each.near_end, each.closed) for each in opened] == [
        ("out/x", True, 1),
        ("out/x", True, 0),
    ]


def test_a_trouble_that_lasts_is_told_once() -> None:
    view = view_of(set())
    for text in ("it is slow", "it is slow", "it is gone", "it is slow"):
        view._warn(text)
    assert view.sent == ["it is slow", "it is gone", "it is slow"]


def test_a_view_shows_the_last_lines_of_a_dataflow_that_has_ended() -> None:
    def ask() -> None:
        raise ConnectError("it has ended")

    view = view_of({"/logs"})
    view._ask = ask
    view._show_logs = lambda: view.sent.append("the last lines")
    view.run()
    assert view.sent == ["the last lines"]


def test_a_view_that_cannot_listen_closes_the_connection_to_its_dataflow() -> None:
    closed: list[bool] = []
    dataflow: Any = SimpleNamespace(run=None, name="lab", close=lambda: closed.append(True))
    with pytest.raises(DoraError, match="it has to be HOST:PORT"):
        LiveView(dataflow, "here:there", "out/x")
    assert closed == [True]


def test_the_process_beside_a_run_waits_for_its_nodes_and_closes_the_view(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[str] = []
    closed: list[bool] = []

    def view(*_: Any) -> Any:
        if len(tries) < 3:
            raise ConnectError("it is being built")
        return SimpleNamespace(
            server=SimpleNamespace(address="ws://x"), run=run, close=lambda: closed.append(True)
        )

    def run(_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(sys, "argv", ["beside", "socket", "logs"])
    monkeypatch.setattr(beside, "_alone", lambda _: False)
    monkeypatch.setattr(beside, "DaemonClient", tries.append)
    monkeypatch.setattr(beside, "LocalDataflow", lambda _: None)
    monkeypatch.setattr(beside, "LiveView", view)
    with pytest.raises(OSError, match="the disk is gone"):
        beside.main()
    assert (tries, closed) == (["socket"] * 3, [True])
