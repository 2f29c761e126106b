"""A history gives what was true at a moment, of any MCAP file and also of one that was cut off."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pytest
from mcap.exceptions import McapError
from mcap.writer import CompressionType, Writer
from recorded_files import SECOND, T0, message_of, write_recording
from ros_bags import write_bag

from dora.errors import DoraError
from dora.observe.preview.topic import describe
from dora.recording.history import history as module
from dora.recording.history.answers import Answers
from dora.recording.history.foreign_values import convert
from dora.recording.history.history import History
from dora.recording.history.requests import Moment
from dora.recording.mcap import file as file_module
from dora.recording.mcap.channels import PARAMETERS_CHANNEL, ChannelItem, ChannelTable
from dora.recording.mcap.chunk import Chunk, compress
from dora.recording.mcap.file import RECORD, McapFile
from dora.recording.mcap.format import End, NotARecording, RecordingStart
from dora.recording.mcap.indexed import IndexedFile
from dora.recording.mcap.writer import MessageWriter, RecordingWriter

COUNT = [("a/count", number / 10, np.array([number])) for number in range(100)]
SLOW = [("b/slow", float(number), np.array([float(number)])) for number in range(10)]


def value_of(recorded: Any) -> Any:
    from dora.wire.decode import decode_arrow

    return decode_arrow(recorded.message).to_pylist()


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with History(str(write_recording(tmp_path / "lab.mcap", [*COUNT, *SLOW]))) as opened:
        yield opened


def at(seconds: float) -> int:
    return T0 + round(seconds * SECOND)


def test_the_newest_message_up_to_a_moment_is_found(history: History) -> None:
    for seconds, number in ((0.0, 0), (0.05, 0), (0.1, 1), (3.14, 31), (9.9, 99), (100.0, 99)):
        assert value_of(history.message_at("a/count", at(seconds))) == [number]


def test_there_is_no_message_before_the_first(history: History) -> None:
    assert history.message_at("a/count", T0 - 1) is None
    assert history.message_at("none/such", at(5)) is None


def test_the_first_and_the_last_moment_are_of_outputs(history: History) -> None:
    assert (history.first_ns, history.last_ns) == (T0, at(9.9))


def test_a_recording_begins_with_its_first_output_and_ends_with_the_run(tmp_path: Path) -> None:
    context = [("dora/state", second, {"nodes": [], "links": []}) for second in (0, 12)]
    path = write_recording(tmp_path / "lab.mcap", COUNT[10:], context=context)
    with History(str(path)) as history:
        assert (history.first_ns, history.last_ns) == (at(1), at(12))


def test_a_span_gives_its_newest_messages_in_order(history: History) -> None:
    found = history.messages("a/count", at(1), at(2), 100)
    assert [value_of(message)[0] for message in found.items] == list(range(11, 21))
    assert found.complete_from_ns == at(1)
    few = history.messages("a/count", at(1), at(2), 3)
    assert [value_of(message)[0] for message in few.items] == [18, 19, 20]
    assert few.complete_from_ns == at(1.7)


def test_messages_are_read_backward_one_by_one(history: History) -> None:
    found = history.backward("a/count", at(2.05), 3)
    assert [value_of(message)[0] for message in found] == [20, 19, 18]
    assert [value_of(message)[0] for message in history.backward("b/slow", at(0.5), 3)] == [0.0]


def test_a_curve_is_spread_over_its_span(history: History) -> None:
    found = history.curve("a/count", T0 - 1, at(9.9), 10)
    assert [value_of(message)[0] for message in found.items] == list(range(0, 100, 10))
    found = history.curve("a/count", T0 - 1, at(9.9), 60)  # too few for all
    assert [value_of(message)[0] for message in found.items] == list(range(0, 100, 2))


def test_steps_go_from_message_to_message(history: History) -> None:
    assert history.next_time(["b/slow"], at(0)) == at(1)
    assert history.next_time(["a/count", "b/slow"], at(0.95)) == at(1)
    assert history.last_time(["b/slow"], at(3) - 1) == at(2)
    assert history.next_time(["a/count"], at(9.9)) is None
    assert history.last_time(["a/count"], T0 - 1) is None


def test_the_rate_is_of_the_second_before(history: History) -> None:
    assert history.rate("a/count", at(5)) == 10.0
    assert history.rate("b/slow", at(5)) == 1.0


@pytest.mark.parametrize("ends", [True, False])
def test_messages_are_the_same_with_and_without_a_summary(ends: bool, tmp_path: Path) -> None:
    path = write_recording(tmp_path / "lab.mcap", [*COUNT, *SLOW], ends=ends)
    with History(str(path)) as history:
        assert history.outputs["a/count"].messages == 100
        assert bool(history.damage) is not ends
        found = history.messages("a/count", T0 - 1, at(20), 1000).items
        assert [value_of(message)[0] for message in found] == list(range(100))


def test_a_file_that_was_cut_off_shows_what_came_before(tmp_path: Path) -> None:
    whole = write_recording(tmp_path / "lab.mcap", COUNT).read_bytes()
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole[: len(whole) // 2])
    with History(str(cut)) as history:
        assert "ends in the middle" in history.damage
        last = value_of(history.message_at("a/count", at(9.9)))[0]
        assert 20 < last < 80
        assert history.last_ns == at(last / 10)


def test_a_damaged_message_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "lab.mcap", COUNT)
    with IndexedFile(str(path)) as file:
        place = file.newest(file.channels, at(5))
        assert place is not None
        begin = file._chunks[place.chunk].begin + place.offset
    data = bytearray(path.read_bytes())
    data[begin] ^= 0xFF  # the opcode
    path.write_bytes(data)
    with History(str(path)) as history:
        with pytest.raises(NotARecording, match="damaged there"):
            history.message_at("a/count", at(5))
        assert value_of(history.message_at("a/count", at(6))) == [60]
        others = history.messages("a/count", T0 - 1, at(9.9), 1000).items
        assert [value_of(message)[0] for message in others] == [*range(50), *range(51, 100)]


def test_a_query_stops_at_its_budget_and_says_from_when_on_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "compressed.mcap"
    write_json(path, [("/count", number / 10, {"n": number}) for number in range(100)], chunk=200)
    monkeypatch.setattr(module, "BUDGET", 1000)
    monkeypatch.setattr("dora.recording.mcap.indexed.CACHE", 1)
    with History(str(path)) as history:
        found = history.messages("/count", T0 - 1, at(10), 1000)
        assert 1 < len(found.items) < 50
        assert found.complete_from_ns < found.items[0].time_ns
        assert found.items[-1].time_ns == at(9.9)
        again = history.messages("/count", T0 - 1, at(10), 1000)
        assert len(again.items) == len(found.items), "each query has a budget of its own"


def test_what_is_unpacked_already_is_read_beyond_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "compressed.mcap"
    write_json(path, [("/count", number / 10, {"n": number}) for number in range(100)])
    monkeypatch.setattr(module, "BUDGET", 1)
    with History(str(path)) as history:
        found = history.messages("/count", T0 - 1, at(10), 1000)
        assert (len(found.items), found.complete_from_ns) == (100, T0 - 1)
        assert history._file.unpacked > 1


def write_chunks(path: Path, chunks: list[list[tuple[str, int]]]) -> None:
    """Write a file with these chunks of channels and times."""
    channels = ChannelTable()
    writer = RecordingWriter(str(path), channels)
    writer.begin(RecordingStart(dora="1", dataflow_id="id", started=1), b"{}")
    numbers: dict[str, int] = {}
    for messages in chunks:
        chunk = Chunk(1 << 20)
        for topic, time_ns in messages:
            if topic not in numbers:
                numbers[topic] = channels.add(ChannelItem(topic, "", {}, "json"))
            chunk.add_data(numbers[topic], 1, time_ns, b"{}" * 100)
        writer.write(compress(chunk, "zstd"))
    writer.finish(End(complete=True, stopped=1, reason="asked"))


OVERLAPPING = [
    [("y", 5), ("x", 50), ("x", 90)],
    [("x", 10), ("x", 20)],
    [("y", 30), ("x", 40)],
    [("x", 15), ("y", 95)],
]


def test_the_activity_of_all_parts_is_the_whole_file(tmp_path: Path) -> None:
    write_chunks(tmp_path / "a.mcap", [[("x", SECOND), ("x", 6 * SECOND)], [("x", 11 * SECOND)]])
    with History(str(tmp_path / "a.mcap")) as history:
        activity = history.activity(10)  # each part is a second
        sizes = [size for _, _, size in history._file.bytes_over_time()]
        assert activity[0] == activity[5] == sizes[0] / 6
        assert sum(activity) == pytest.approx(sum(sizes))


@pytest.mark.parametrize("topics", ["x", "y", "xy"])
def test_messages_are_found_in_chunks_that_overlap(topics: str, tmp_path: Path) -> None:
    write_chunks(tmp_path / "a.mcap", OVERLAPPING)
    times = sorted(time_ns for chunk in OVERLAPPING for topic, time_ns in chunk if topic in topics)
    with IndexedFile(str(tmp_path / "a.mcap")) as file:
        wanted = [id_ for id_, channel in file.channels.items() if channel.topic in topics]
        assert file.edges(wanted) == (times[0], times[-1])
        for now in range(100):
            newest, following = file.newest(wanted, now), file.next(wanted, now)
            until = [time_ns for time_ns in times if time_ns <= now]
            after = [time_ns for time_ns in times if time_ns > now]
            assert (newest and newest.time_ns) == (until[-1] if until else None)
            assert (following and following.time_ns) == (after[0] if after else None)
            assert [place.time_ns for place in file.places(wanted, now, 1000)] == after


def test_the_chunks_that_were_read_last_stay_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_chunks(tmp_path / "a.mcap", [[("x", number)] for number in range(4)])
    with IndexedFile(str(tmp_path / "a.mcap")) as file:
        size = len(file.contents(0))
        monkeypatch.setattr("dora.recording.mcap.indexed.CACHE", 2 * size)
        for number in (1, 0, 2, 0, 2, 3, 2, 3):
            file.contents(number)
        assert file.unpacked == 4 * size, "each once"
        file.contents(0)
        assert file.unpacked == 5 * size


def test_the_last_message_is_found_without_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = [[("x", 10 * number), ("x", 10 * number + 5)] for number in range(1, 50)]
    chunks += [[("x", 600), ("y", 700)], [("x", 480), ("y", 680)], [("y", 650)]]
    write_chunks(tmp_path / "a.mcap", chunks)
    read: list[int] = []
    real = file_module._read

    def counted(file: BinaryIO, index: Any) -> bytes:
        read.append(index.chunk_start_offset)
        return real(file, index)

    monkeypatch.setattr(file_module, "_read", counted)
    file = McapFile(str(tmp_path / "a.mcap"))
    file.index(lambda channel: channel.topic == "x")
    assert (file.first_ns, file.last_ns) == (10, 600)
    assert len(read) < 5


def test_messages_of_one_time_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    write_chunks(tmp_path / "a.mcap", [[("z", 1), ("y", 5), ("x", 5)], [("z", 5), ("y", 5)], [("x", 5)]])
    file = McapFile(str(tmp_path / "a.mcap"))
    file.index(lambda _: True)

    def found(begin_ns: int, end_ns: int) -> str:
        return "".join(channel.topic for channel, _ in file.messages(lambda _: True, begin_ns, end_ns))

    assert found(0, 9) == "zyxzyx"
    assert found(5, 6) == "yxzyx", "from the time on"
    assert found(0, 5) == "z", "and before the other"


@pytest.mark.parametrize("topics", ["xy", "yx"])
def test_of_messages_of_one_time_the_first_in_the_file_is_the_next_and_the_last_is_the_newest(
    topics: str, tmp_path: Path
) -> None:
    write_chunks(tmp_path / "a.mcap", [[("x", 5)], [("y", 5)]])
    with IndexedFile(str(tmp_path / "a.mcap")) as file:
        numbers = {channel.topic: id_ for id_, channel in file.channels.items()}
        channels = [numbers[topic] for topic in topics]
        following, newest = file.next(channels, 4), file.newest(channels, 5)
    assert following is not None and newest is not None
    assert (following.channel, newest.channel) == (numbers["x"], numbers["y"])


def test_a_chunk_larger_than_the_cache_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.recording.mcap.indexed.CACHE", 0)
    with IndexedFile(str(write_recording(tmp_path / "lab.mcap", COUNT[:1]))) as file:
        assert file.contents(0) == file.contents(0)
        assert file.unpacked == len(file.contents(0))


def test_an_index_of_another_channel_is_a_damage(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "lab.mcap", COUNT)
    with IndexedFile(str(path)) as file:
        place = file.newest(file.channels, at(5))
        assert place is not None
        with pytest.raises(McapError, match="another message where the index says"):
            file.read(place._replace(channel=place.channel + 1))
        index = file._chunks[place.chunk].indexes[place.channel]
    data = bytearray(path.read_bytes())
    data[index + RECORD.size] ^= 0x80  # the channel
    path.write_bytes(data)
    with IndexedFile(str(path)) as file:
        place = file.newest(file.channels, at(5))
        assert place is not None
        assert (place.time_ns, file.damage) == (at(4.9), "an index is damaged")


# ------------------------------------------------------------------------------ about the run


def run_file(path: Path) -> Path:
    """Write a recording with the channels about the run."""
    nodes = [{"id": "a", "path": "a.py", "outputs": ["x"], "parameters": {"gain": 1}}]
    context = [
        *(
            ("dora/state", second, {"nodes": [{"id": "a", "cpu": second}], "links": []})
            for second in range(5)
        ),
        ("dora/parameters", 0, {"node": "a", "values": {"gain": 2}}),
        ("dora/parameters", 3, {"node": "a", "values": {"gain": 3}}),
        ("dora/mark", 2, {"kind": "failed", "node": "a", "text": "ValueError"}),
        ("dora/mark", 4, {"kind": "note", "node": None, "text": "here"}),
    ]
    return write_recording(path, [], dataflow={"nodes": nodes}, context=context)


def test_the_state_is_the_newest_one_up_to_a_moment(tmp_path: Path) -> None:
    with History(str(run_file(tmp_path / "run.mcap"))) as history:
        state = history.state_at(at(2.5))
        assert state is not None
        assert state["nodes"] == [{"id": "a", "cpu": 2}]
        assert history.state_at(T0 - 1) is None
        assert [time_ns for time_ns, _ in history.states(at(1), at(3)).items] == [at(2), at(3)]


def test_marks_and_parameters_are_read(tmp_path: Path) -> None:
    with History(str(run_file(tmp_path / "run.mcap"))) as history:
        assert [(mark.kind, mark.node) for mark in history.marks().items] == [
            ("failed", "a"),
            ("note", None),
        ]
        assert history.parameters_at("a", at(2)) == {"gain": 2}
        assert history.parameters_at("a", at(3)) == {"gain": 3}


def test_without_marks_a_node_that_failed_has_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "failed.mcap"
    writer = RecordingWriter(str(path), ChannelTable())
    writer.begin(RecordingStart(dora="1", dataflow_id="id", started=T0), b"{}")
    messages = MessageWriter(writer)
    messages.add_context((PARAMETERS_CHANNEL, at(1), b"{}"))
    messages.flush()
    writer.finish(End(complete=True, stopped=at(1), reason="asked", failed=["a"]))
    with History(str(path)) as history:
        assert [(mark.time_ns, mark.kind, mark.node) for mark in history.marks(at(1)).items] == [
            (at(1), "failed", "a")
        ]
        assert history.marks().items == history.marks(at(1)).items
        assert history.marks(at(1) - 1).items == []


def test_parameters_are_found_behind_any_number_of_changes_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "many.mcap"
    channels = ChannelTable()
    writer = RecordingWriter(str(path), channels)
    writer.begin(RecordingStart(dora="1", dataflow_id="id", started=T0), b"{}")
    messages = MessageWriter(writer)
    for number in range(10_002):
        value = {"node": "b" if number else "a", "values": {"gain": number}}
        messages.add_context((PARAMETERS_CHANNEL, T0 + number, json.dumps(value).encode()))
    messages.flush()
    writer.finish(End(complete=True, stopped=T0, reason="asked"))
    with History(str(path)) as history:
        assert history.parameters_at("a", at(1)) == {"gain": 0}
        assert history.parameters_at("b", at(1)) == {"gain": 10_001}
        monkeypatch.setattr(module, "BUDGET", 0)
        history._file._cache.clear()
        with pytest.raises(NotARecording, match="the parameters of `a` are not known"):
            history.parameters_at("a", at(1))


def test_without_changes_the_parameters_are_of_the_dataflow(tmp_path: Path) -> None:
    nodes = [{"id": "a", "path": "a.py", "outputs": ["count"], "parameters": {"gain": 1}}]
    path = write_recording(tmp_path / "lab.mcap", COUNT, dataflow={"nodes": nodes})
    with History(str(path)) as history:
        assert history.parameters_at("a", at(1)) == {"gain": 1}
        assert history.parameters_at("b", at(1)) == {}
        assert [box.id for box in history.graph.boxes] == ["a"]


def test_the_graph_of_a_dataflow_with_emoji_is_of_the_dataflow(tmp_path: Path) -> None:
    nodes = [{"id": "a", "description": "🤖 counts", "path": "a.py", "outputs": ["count", "unsent"]}]
    path = write_recording(tmp_path / "lab.mcap", COUNT, dataflow={"nodes": nodes})
    with History(str(path)) as history:
        assert list(history.graph.boxes[0].outputs) == ["count", "unsent"]


# ------------------------------------------------------------------------------ other programs


def write_json(
    path: Path,
    messages: list[tuple[str, float, Any]],
    schema: str = "",
    chunk: int = 1 << 20,
    **options: Any,
) -> Path:
    """Write an MCAP file with messages in JSON, as other programs do."""
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=chunk, compression=CompressionType.ZSTD, **options)
        writer.start("", "test")
        id_ = writer.register_schema(schema, "jsonschema", b"{}") if schema else 0
        channels: dict[str, int] = {}
        for topic, seconds, value in messages:
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "json", id_)
            writer.add_message(channels[topic], at(seconds), json.dumps(value).encode(), at(seconds))
        writer.finish()
    return path


def write_protobuf(path: Path, messages: list[tuple[str, float, Any]]) -> Path:
    """Write an MCAP file with Foxglove's Protobuf messages."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    def described(kind: Any) -> bytes:
        found, waiting = {}, [kind.DESCRIPTOR.file]
        while waiting:
            file = waiting.pop()
            if file.name not in found:
                found[file.name] = file
                waiting += file.dependencies
        files = FileDescriptorSet()
        for file in found.values():
            file.CopyToProto(files.file.add())
        return files.SerializeToString()

    with path.open("wb") as opened:
        writer = Writer(opened)
        writer.start("", "test")
        channels: dict[str, int] = {}
        for topic, seconds, message in messages:
            if topic not in channels:
                schema = writer.register_schema(
                    message.DESCRIPTOR.full_name, "protobuf", described(type(message))
                )
                channels[topic] = writer.register_channel(topic, "protobuf", schema)
            writer.add_message(channels[topic], at(seconds), message.SerializeToString(), at(seconds))
        writer.finish()
    return path


def shown(history: History, output: str, seconds: float = 10.0) -> Any:
    recorded = history.message_at(output, at(seconds))
    assert recorded is not None
    return describe(output, "", recorded.message)


def test_json_of_another_program_becomes_curves_and_tables(tmp_path: Path) -> None:
    messages = [("/imu", 0.0, {"x": 1, "y": {"z": 2.5}}), ("/words", 0.1, {"a": "b"})]
    with History(str(write_json(tmp_path / "foreign.mcap", messages))) as history:
        assert not history.is_own
        assert shown(history, "/imu").head["values"] == [1.0, 2.5]
        assert shown(history, "/imu").head["names"] == ["x", "y.z"]
        assert shown(history, "/words").kind == "table"


def test_integers_without_a_sign_are_shown(tmp_path: Path) -> None:
    most = (1 << 64) - 1
    path = write_json(tmp_path / "foreign.mcap", [("/found", 0.0, {"id": most, "label": "cup"})])
    with History(str(path)) as history:
        recorded = history.message_at("/found", T0)
        assert value_of(recorded) == [{"id": most, "label": "cup"}]
    several = convert("lab_msgs/msg/Found", {"ids": np.array([1, most], np.uint64), "label": "cup"})
    assert several.data.tolist() == [{"ids": [1, most], "label": "cup"}]


def test_a_protobuf_message_that_may_contain_itself_is_shown(tmp_path: Path) -> None:
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message_factory import GetMessageClass

    file = FileDescriptorProto(name="lab.proto", package="lab", syntax="proto3")
    fields = file.message_type.add(name="Part").field
    fields.add(name="mass", number=1, type=FieldDescriptorProto.TYPE_DOUBLE)
    for number, name in enumerate(("left", "right"), start=2):
        fields.add(name=name, number=number, type=FieldDescriptorProto.TYPE_MESSAGE, type_name=".lab.Part")
    pool = DescriptorPool()
    pool.Add(file)
    part = GetMessageClass(pool.FindMessageTypeByName("lab.Part"))
    path = write_protobuf(tmp_path / "parts.mcap", [("/part", 0.0, part(mass=2, left=part(mass=1)))])
    with History(str(path)) as history:
        assert shown(history, "/part").head["names"] == ["mass", "left.mass"]
        assert shown(history, "/part").head["values"] == [2.0, 1.0]


def test_foxglove_in_protobuf_is_drawn(tmp_path: Path) -> None:
    foxglove = pytest.importorskip("foxglove_schemas_protobuf")
    assert foxglove
    from foxglove_schemas_protobuf.FrameTransform_pb2 import FrameTransform
    from foxglove_schemas_protobuf.ImageAnnotations_pb2 import ImageAnnotations
    from foxglove_schemas_protobuf.Log_pb2 import Log
    from foxglove_schemas_protobuf.PointCloud_pb2 import PointCloud
    from foxglove_schemas_protobuf.PoseInFrame_pb2 import PoseInFrame
    from foxglove_schemas_protobuf.RawImage_pb2 import RawImage

    depth = RawImage(width=3, height=2, encoding="16UC1", step=8, data=b"\1\0\2\0\3\0__" * 2)
    image = RawImage(width=2, height=1, encoding="rgb8", step=6, data=bytes(6))
    cloud = PointCloud(point_stride=16, data=np.arange(16, dtype="<f4").tobytes())
    for number, axis in enumerate("xyz"):
        cloud.fields.add(name=axis, offset=4 * number, type=7)
    pose = PoseInFrame(frame_id="map")
    pose.pose.position.x = 3.0
    frame = FrameTransform(parent_frame_id="map", child_frame_id="base")
    frame.translation.y = 2.0
    marks = ImageAnnotations()
    corners = marks.points.add(type=2)
    for x, y in ((1, 2), (5, 2), (5, 8), (1, 8)):
        corners.points.add(x=x, y=y)
    text = marks.texts.add(text="cat")
    text.position.x, text.position.y = 1, 2
    log = Log(level=3, message="hot", name="arm")
    messages = {"depth": depth, "image": image, "cloud": cloud, "pose": pose, "tf": frame, "boxes": marks}
    sent = [(f"/{name}", 1.0, message) for name, message in messages.items()]
    path = write_protobuf(tmp_path / "foxglove.mcap", [*sent, ("/log", 2.0, log)])
    with History(str(path)) as history:
        assert (shown(history, "/depth").head["width"], shown(history, "/depth").head["height"]) == (3, 2)
        assert shown(history, "/image").kind == "image"
        points = np.frombuffer(shown(history, "/cloud").body, np.float32).reshape(-1, 3)
        assert points.tolist() == [[0, 1, 2], [4, 5, 6], [8, 9, 10], [12, 13, 14]]
        assert shown(history, "/pose").head["pose"] == [3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        assert shown(history, "/pose").head["metadata"]["frame_id"] == "map"
        assert shown(history, "/tf").head["transforms"] == [["map", "base", 0, 2.0, 0, 0, 0, 0, 0]]
        assert shown(history, "/boxes").head["boxes"][0][:5] == [1.0, 2.0, 4.0, 6.0, "cat"]
        (line,) = history.log(-1, at(3)).items
        assert (line.level, line.node, line.message) == ("warn", "arm", "hot")


def test_a_file_of_the_sdk_of_foxglove_is_drawn(tmp_path: Path) -> None:
    foxglove = pytest.importorskip("foxglove")
    from foxglove.channels import FrameTransformChannel, SceneUpdateChannel
    from foxglove.messages import (
        CubePrimitive,
        FrameTransform,
        Pose,
        Quaternion,
        SceneEntity,
        SceneUpdate,
        Vector3,
    )

    path = tmp_path / "sdk.mcap"
    context = foxglove.Context()
    turn = Quaternion(x=0.0, y=0.0, z=0.0, w=1.0)
    with foxglove.open_mcap(path, context=context):
        frames = FrameTransformChannel("/tf", context=context)
        scene = SceneUpdateChannel("/scene", context=context)
        plain = foxglove.Channel("/speed", context=context)
        for number in range(5):
            place = Vector3(x=float(number), y=0.0, z=0.0)
            frame = FrameTransform(
                parent_frame_id="map", child_frame_id=f"part{number}", translation=place, rotation=turn
            )
            frames.log(frame, log_time=at(number / 10))
            cube = CubePrimitive(
                pose=Pose(position=place, orientation=turn), size=Vector3(x=2.0, y=4.0, z=6.0)
            )
            scene.log(SceneUpdate(entities=[SceneEntity(id="car", cubes=[cube])]), log_time=at(number / 10))
            plain.log({"speed": number}, log_time=at(number / 10))
    with History(str(path)) as history:
        assert shown(history, "/scene").head["cubes"] == [[4.0, 0, 0, 1.0, 2.0, 3.0, "car", "car"]]
        assert shown(history, "/tf").head["transforms"][0][:3] == ["map", "part4", 4.0]
        assert shown(history, "/speed").head["values"] == [4.0]


def test_foxglove_in_json_is_drawn(tmp_path: Path) -> None:
    image = {"width": 2, "height": 1, "encoding": "mono8", "step": 2, "data": "AAE="}
    path = write_json(tmp_path / "foxglove.mcap", [("/image", 0.0, image)], "foxglove.RawImage")
    with History(str(path)) as history:
        assert shown(history, "/image").kind == "image"


def test_a_bag_of_ros_2_is_drawn(tmp_path: Path) -> None:
    with History(str(write_bag(tmp_path / "bag"))) as history:
        assert history.outputs["/camera/image_raw"].messages == 2
        assert shown(history, "/camera/image_raw").kind == "image"
        assert shown(history, "/chatter").head["texts"] == ["again"]
        assert shown(history, "/arm/joint_states").head["values"] == [0.5]
        assert shown(history, "/arm/joint_states").head["names"] == ["a"]


def test_messages_that_nobody_can_read_say_so(tmp_path: Path) -> None:
    path = tmp_path / "ros1.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start("", "test")
        channel = writer.register_channel("/old", "ros1", 0)
        writer.add_message(channel, T0, b"123", T0)
        writer.finish()
    with History(str(path)) as history:
        recorded = history.message_at("/old", T0)
        assert recorded is not None
        with pytest.raises(NotARecording, match="in `ros1`, which dora does not read"):
            _ = recorded.message


@pytest.mark.parametrize(
    "broken", [{"width": 2}, {"width": 2, "height": 1, "encoding": "rgb8", "step": 9, "data": ""}, 7]
)
def test_a_message_without_the_fields_of_its_schema_says_so(broken: Any, tmp_path: Path) -> None:
    path = write_json(tmp_path / "broken.mcap", [("/image", 0.0, broken)], "foxglove.RawImage")
    with History(str(path)) as history:
        recorded = history.message_at("/image", T0)
        assert recorded is not None
        try:
            preview = describe("/image", "", recorded.message)
        except NotARecording as error:
            assert "is no foxglove.RawImage" in str(error)
        else:
            assert preview.kind != "image"


@pytest.mark.parametrize(
    "value",
    [
        {"x": 10**400},
        {"ids": [1 << 63, -1], "label": "cup"},
        {"timestamp": {"sec": math.inf}, "x": 1},
        {"timestamp": {"sec": 10**15}, "x": 1},
        {"timestamp": {"sec": -(10**15)}, "x": 1},
    ],
    ids=["float", "integers", "endless", "late", "early"],
)
def test_a_message_with_a_number_beyond_all_limits_says_so(value: Any, tmp_path: Path) -> None:
    path = write_json(tmp_path / "numbers.mcap", [("/odd", 0.0, value), ("/even", 0.0, {"x": 2})])
    with History(str(path)) as history:
        answer = Answers([history]).answer(Moment(0, 0, {"/odd": -1, "/even": -1}))
    size = int.from_bytes(answer[:4], "little")
    odd, even = json.loads(answer[4 : 4 + size])["previews"]
    assert odd["kind"] == "problem"
    assert "message 0 of `/odd` is no " in odd["problem"]
    assert even["values"] == [2.0]


@pytest.mark.parametrize("options", [{"use_chunking": False}, {"index_types": 0}])
def test_files_without_chunks_or_indexes_are_read(options: Any, tmp_path: Path) -> None:
    from mcap.writer import IndexType

    given = {"index_types": IndexType.NONE} if "index_types" in options else options
    messages = [("/count", number / 10, {"n": number}) for number in range(30)]
    with History(str(write_json(tmp_path / "plain.mcap", messages, chunk=100, **given))) as history:
        assert history.outputs["/count"].messages == 30
        assert shown(history, "/count", 1.25).head["values"] == [12.0]


def test_what_is_no_recording_is_told(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(NotARecording, match="is not an MCAP file"):
        History(str(text))
    with pytest.raises(DoraError, match="cannot be read"):
        History(str(tmp_path / "none.mcap"))
    with pytest.raises(NotARecording, match="folder without an MCAP file"):
        History(str(tmp_path))
    with pytest.raises(NotARecording, match="has no messages"):
        History(str(write_recording(tmp_path / "empty.mcap", [])))


def test_a_file_that_cannot_be_shown_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[IndexedFile] = []

    def close(file: IndexedFile) -> None:
        closed.append(file)

    monkeypatch.setattr(IndexedFile, "close", close)
    with pytest.raises(NotARecording, match="has no messages"):
        History(str(write_recording(tmp_path / "empty.mcap", [])))
    assert len(closed) == 1


def test_times_of_messages_out_of_order_are_sorted(tmp_path: Path) -> None:
    messages = [("/n", seconds, {"n": seconds}) for seconds in (3.0, 1.0, 2.0, 0.0)]
    with History(str(write_json(tmp_path / "mixed.mcap", messages))) as history:
        assert shown(history, "/n", 1.5).head["values"] == [1.0]
        found = history.messages("/n", T0 - 1, at(9), 9).items
        assert [message.time_ns for message in found] == [at(second) for second in range(4)]


def test_a_struct_with_a_turn_is_a_transform() -> None:
    row = {
        "translation": {"x": 1.0, "y": 0.0, "z": 0.0},
        "rotation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
    }
    message = message_of(pa.array([row]), {"child_frame_id": "arm"}, 1, T0)
    assert describe("a/pose", "", message).head["transforms"] == [["", "arm", 1.0, 0, 0, 0, 0, 0, 1.0]]


def test_a_page_that_steps_draws_what_stays_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora.recording.history import answers as module_of_answers

    drawn: list[tuple[str, int]] = []

    def count(name: str, declared: str, message: Any) -> Any:
        drawn.append((name, message.sequence))
        return describe(name, declared, message)

    monkeypatch.setattr(module_of_answers, "describe", count)
    with History(str(write_recording(tmp_path / "lab.mcap", [*COUNT, *SLOW]))) as opened:
        answers = module_of_answers.Answers([opened])
        answers.prepare()
        first = answers.answer(Moment(0, 0, {"a/count": -1, "b/slow": -1}))
        assert drawn == [("a/count", 1), ("b/slow", 1)], "the first moment was drawn ahead"
        for tenth in range(1, 10):
            answers.answer(Moment(0, tenth * SECOND // 10, {"a/count": -1, "b/slow": -1}))
        assert drawn[2:] == [("a/count", number) for number in range(2, 11)]
        again = answers.answer(Moment(0, 0, {"a/count": -1, "b/slow": -1}))
        assert again == first
