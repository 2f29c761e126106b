"""Bags of ROS 2 as recordings: every storage and compression, damaged bags, types in bags."""

from __future__ import annotations

import gc
import os
import re
import resource
import shutil
import sqlite3
import sys
import time
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from recorded_files import T0, write_recording
from ros_bags import LIBRARY, MESSAGES, Sent, as_read, image, join_bags, time_of, write_bag
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from dora.cli.main import run_command_line
from dora.recording.bags.restore import cdr_of
from dora.recording.mcap.format import NotARecording
from dora.recording.opening import open_recording
from dora.ros2 import DefinitionError, InterfaceLibrary, MalformedMessage
from dora.ros2.bag_types import bag_type
from dora.ros2.types.idl_text import read_idl
from dora.ros2.types.msg_text import read_message
from dora.wire.decode import decode_arrow
from dora.wire.metadata import decode_metadata

MCAP, SQLITE = StoragePlugin.MCAP, StoragePlugin.SQLITE3


def contents(path: Path, **options: Any) -> list[tuple[str, int, Any]]:
    """Return the topic, the time and the value of each message."""
    with open_recording(str(path), **options) as opened:
        return [
            (each.topic, each.time_ns, decode_arrow(each.message).to_pylist()) for each in opened.messages()
        ]


def expected(messages: list[Sent] = MESSAGES) -> list[tuple[str, int, Any]]:
    return [(sent.topic[1:], time_of(sent), as_read(sent)) for sent in messages]


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return write_bag(tmp_path / "drive")


def failed(capsys: pytest.CaptureFixture[str], *command: str | Path) -> str:
    """Run a command that fails; return its error, one line without a traceback."""
    assert run_command_line(list(map(str, command))) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


# Storages.


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (MCAP, CompressionMode.NONE),
        (MCAP, CompressionMode.FILE),
        (MCAP, CompressionMode.MESSAGE),
        (MCAP, CompressionMode.STORAGE),
        (SQLITE, CompressionMode.NONE),
        (SQLITE, CompressionMode.FILE),
        (SQLITE, CompressionMode.MESSAGE),
    ],
    ids=lambda value: value.name,
)
def test_every_storage_and_compression_is_read(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode
) -> None:
    bag = write_bag(tmp_path / "drive", storage=storage, compression=compression)
    assert contents(bag) == expected()
    (file,) = (one for one in bag.iterdir() if one.name != "metadata.yaml")
    assert contents(file) == expected(), "a file alone is a bag"
    (bag / "metadata.yaml").unlink()
    assert contents(bag) == expected(), "a killed recorder leaves no metadata"
    with open_recording(str(bag)) as opened:
        assert opened.complete
        assert opened.topics["chatter"].messages == 2


def test_decompressed_files_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write_bag(tmp_path / "drive", compression=CompressionMode.FILE)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with open_recording(str(bag)) as opened:
        assert list((tmp_path / "tmp").iterdir())
        assert len(list(opened.messages())) == 5
    assert not list((tmp_path / "tmp").iterdir())


def test_nothing_decompressed_is_left_of_a_file_that_is_no_bag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "drive.mcap.zstd"
    file.write_bytes(zstandard.compress(b"no bag at all"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    with pytest.raises(NotARecording):
        open_recording(str(file))
    assert not list((tmp_path / "tmp").iterdir())


def test_a_small_disk_keeps_a_part_of_its_room_and_not_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_bag(tmp_path / "drive", compression=CompressionMode.FILE)
    disk = SimpleNamespace(f_blocks=100 << 20, f_bavail=50 << 20, f_frsize=1)
    monkeypatch.setattr("os.fstatvfs", lambda _: disk)
    assert contents(bag) == expected()
    disk.f_bavail = (100 << 20) // 20
    with pytest.raises(NotARecording, match="has no room for it"):
        open_recording(str(bag))


def test_a_compressed_file_that_would_fill_the_disk_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [write_bag(tmp_path / name, compression=CompressionMode.FILE) for name in ("one", "two")]
    bag = join_bags(tmp_path / "drive", *parts)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    free = [1 << 40, 1 << 20]  # for the first file, and for the second

    def disk(_: int) -> SimpleNamespace:
        return SimpleNamespace(f_blocks=1 << 40, f_bavail=free.pop(0), f_frsize=1)

    monkeypatch.setattr("os.fstatvfs", disk)
    with open_recording(str(bag)) as opened:
        assert "drive_1.mcap.zstd cannot be decompressed: " in opened.damage
        assert f"{tmp_path / 'tmp'} has no room for it; let TMPDIR name a folder" in opened.damage
        assert len(list(opened.messages())) == 5
        (folder,) = (tmp_path / "tmp").iterdir()
        assert [file.name for file in folder.iterdir()] == ["0-drive_0.mcap.zstd"]


def test_files_of_a_bag_are_merged_by_time(tmp_path: Path) -> None:
    parts = [MESSAGES[:3], MESSAGES[1::2], MESSAGES[4:]]
    bags = [write_bag(tmp_path / f"part{number}", part) for number, part in enumerate(parts)]
    sqlite = write_bag(tmp_path / "part3", MESSAGES[:1], storage=SQLITE)
    bag = join_bags(tmp_path / "drive", *bags, sqlite)
    assert contents(bag) == sorted(
        expected([*parts[0], *parts[1], *parts[2], *MESSAGES[:1]]), key=lambda each: each[1]
    )


def test_facts_about_a_bag_are_of_all_its_files(tmp_path: Path) -> None:
    early, late = MESSAGES[:2], MESSAGES[2:]
    parts = [write_bag(tmp_path / f"part{number}", part) for number, part in enumerate((late, early, []))]
    bag = join_bags(tmp_path / "drive", *parts)
    with open_recording(str(bag)) as opened:
        assert opened.topics["chatter"].messages == 2
        assert opened.size == sum(file.stat().st_size for file in bag.iterdir())
        assert (opened.first_ns, opened.last_ns) == (time_of(MESSAGES[0]), time_of(MESSAGES[-1]))
        assert opened.reached_ns == 0
        for _ in opened.messages(end_ns=time_of(MESSAGES[3])):
            pass
        assert opened.reached_ns == time_of(MESSAGES[2])


def test_a_damage_that_only_reading_finds_is_told_afterwards(tmp_path: Path) -> None:
    many = [
        Sent("/image", number / 100, "sensor_msgs/msg/Image", {"data": bytes([number]) * 60_000})
        for number in range(100)
    ]
    bag = write_bag(tmp_path / "drive", many)
    (file,) = bag.glob("*.mcap")
    data = bytearray(file.read_bytes())
    place = data.index(bytes([50]) * 60_000)
    data[place - 300 : place] = b"\xff" * 300  # the head of the message, in a chunk of the middle
    file.write_bytes(data)
    with open_recording(str(bag)) as opened:
        assert not opened.damage
        assert 20 < len(list(opened.messages())) <= 50
        assert opened.damage


def test_messages_of_sqlite_that_were_stored_late_come_by_their_time(tmp_path: Path) -> None:
    assert contents(write_bag(tmp_path / "drive", MESSAGES[::-1], storage=SQLITE)) == expected()


def test_a_message_of_sqlite_without_bytes_ends_the_bag_as_damaged(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", storage=SQLITE)
    with closing(sqlite3.connect(bag / "drive.db3")) as database:
        database.execute("UPDATE messages SET data = 'text' WHERE timestamp = ?", (time_of(MESSAGES[2]),))
        database.commit()
    with open_recording(str(bag)) as opened:
        assert len(list(opened.messages())) == 2
        assert opened.damage == "a message has no time, or no bytes"


def test_the_tenth_file_comes_after_the_ninth(tmp_path: Path) -> None:
    drive = tmp_path / "drive"
    drive.mkdir()
    for number in (9, 10):  # without metadata: the recorder was killed
        word = Sent("/chatter", 0.5, "std_msgs/msg/String", {"data": str(number)})
        (file,) = write_bag(tmp_path / str(number), [word]).glob("*.mcap")
        file.rename(drive / f"drive_{number}.mcap")
    assert [value[0]["data"] for _, _, value in contents(drive)] == ["9", "10"]


def test_a_part_of_the_time_and_of_the_topics(bag: Path) -> None:
    for path in (bag, write_bag(bag.with_name("other"), storage=SQLITE)):
        with open_recording(str(path)) as opened:
            times = (time_of(MESSAGES[1]), time_of(MESSAGES[3]))
            found = [(each.topic, each.sequence) for each in opened.messages(["chatter"], *times)]
            assert found == [("chatter", 1)]
            assert (opened.first_ns, opened.duration) == (T0, 0.4)


@pytest.mark.parametrize(
    "options", [{"use_chunking": False}, {"use_statistics": False}, {"use_summary_offsets": False}]
)
@pytest.mark.parametrize("profile", ["ros2", ""])
def test_mcap_files_of_other_programs(tmp_path: Path, options: dict[str, bool], profile: str) -> None:
    from mcap.writer import Writer

    path = tmp_path / "foxglove.mcap"
    with path.open("wb") as file:
        writer = Writer(file, **options)
        writer.start(profile=profile)
        for sent in MESSAGES:
            kind = LIBRARY.message(sent.type)
            schema = writer.register_schema(sent.type, "ros2msg", kind.definition_text().encode())
            channel = writer.register_channel(sent.topic, "cdr", schema)
            writer.add_message(channel, time_of(sent), kind.encode(sent.value), time_of(sent))
        schema = writer.register_schema("a.B", "protobuf", b"")
        writer.add_message(writer.register_channel("/other", "protobuf", schema), T0, b"x", T0)
        writer.finish()
    assert contents(path) == expected()
    with open_recording(str(path)) as opened:
        assert opened.complete
        assert opened.left_out == {"/other": "protobuf"}


def test_a_topic_without_its_slash_is_the_same_topic(tmp_path: Path) -> None:
    from mcap.writer import Writer

    path = tmp_path / "foxglove.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros2")
        kind = LIBRARY.message("std_msgs/msg/String")
        schema = writer.register_schema(kind.name, "ros2msg", kind.definition_text().encode())
        for number, topic in enumerate(("chatter", "/chatter")):
            channel = writer.register_channel(topic, "cdr", schema)
            writer.add_message(channel, T0 + number, kind.encode({"data": topic}), T0 + number)
        writer.finish()
    assert [(topic, value[0]["data"]) for topic, _, value in contents(path)] == [
        ("chatter", "chatter"),
        ("chatter", "/chatter"),
    ]


# Types.


def test_the_definition_in_the_bag_counts_and_not_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "std_msgs/msg").mkdir(parents=True)
    (tmp_path / "std_msgs/msg/String.msg").write_text("int32 number\nstd_msgs/Header[] headers\n")
    (tmp_path / "std_msgs/msg/Header.msg").write_text("string only\n")
    own = InterfaceLibrary([tmp_path], prefixes=[])
    sent = Sent("/chatter", 0.0, "std_msgs/msg/String", {"number": 5, "headers": [{"only": "one"}]})
    for storage in (MCAP, SQLITE):
        bag = write_bag(tmp_path / storage.name, [sent], library=own, storage=storage)
        assert contents(bag)[0][2] == [{"number": 5, "headers": [{"only": "one"}]}]


def test_idl_definitions(tmp_path: Path) -> None:
    line = "=" * 80
    text = (
        f"{line}\nIDL: std_msgs/msg/Float64\n"
        "module std_msgs { module msg { struct Float64 { double data; }; }; };\n"
        f'{line}\nIDL: lab_msgs/msg/Pair\n#include "std_msgs/msg/Float64.idl"\n'
        "module lab_msgs { module msg {\n"
        "struct Pair { std_msgs::msg::Float64 left; sequence<uint8> right; }; }; };\n"
    )
    kind = bag_type("lab_msgs/msg/Pair", text, LIBRARY.definition)
    data = kind.encode({"left": {"data": 0.5}, "right": b"ab"})
    sent = Sent("/pair", 0.0, "std_msgs/msg/String", {})
    bag = write_bag(tmp_path / "drive", [sent], definitions={sent.type: text}, data={0: data})
    content = next(bag.glob("*.mcap")).read_bytes()
    # The file as rosbag2 writes it for the type; the names have the same length.
    (bag / "drive.mcap").write_bytes(content.replace(b"std_msgs/msg/String", b"lab_msgs/msg/Pair\0\0"))
    with open_recording(str(bag / "drive.mcap")) as opened:
        assert opened.count == 1
    assert kind.decode(data).to_pylist() == [{"left": {"data": 0.5}, "right": [97, 98]}]


def test_a_bag_without_definitions_needs_the_standard_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Humble writes it: SQLite with the version 3 of the tables."""
    bag = write_bag(tmp_path / "drive", storage=SQLITE, version=8)
    with sqlite3.connect(bag / "drive.db3") as database:
        database.execute("DROP TABLE message_definitions")
        database.execute("UPDATE schema SET schema_version = 3")
    database.close()
    assert contents(bag) == expected()
    from dora.ros2.types import standard

    monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
    standard.standard_messages.cache_clear()
    try:
        assert run_command_line(["info", str(bag)]) == 0
        assert "sensor_msgs/msg/JointState" in capsys.readouterr().out
        error = failed(capsys, "export", bag, "--parquet", tmp_path / "out")
        assert 'pip install "dora-dataflow[ros2]"' in error
    finally:
        standard.standard_messages.cache_clear()


def test_a_type_that_nobody_knows_spoils_only_its_topic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "lab_msgs/Unknown what\n"
    bag = write_bag(tmp_path / "drive", definitions={"std_msgs/msg/String": text})
    assert run_command_line(["info", str(bag)]) == 0
    assert "std_msgs/msg/String" in capsys.readouterr().out
    error = failed(capsys, "export", bag, "--parquet", tmp_path / "all")
    assert (
        "the messages of `/chatter` cannot be read: there is no message type 'lab_msgs/msg/Unknown'"
        in error
    )
    others = ["--topics", "camera/image_raw,arm/joint_states"]
    assert run_command_line(["export", str(bag), "--parquet", str(tmp_path / "out"), *others]) == 0


def test_definitions_cannot_take_all_memory() -> None:
    line = "=" * 80
    doubling = "".join(
        f"{line}\nMSG: a/T{number}\na/T{number + 1} left\na/T{number + 1} right\n" for number in range(40)
    )
    with pytest.raises(DefinitionError, match="more than 100,000 fields"):
        bag_type("a/T", f"a/T0 first\n{doubling}{line}\nMSG: a/T40\nint32 x\n", LIBRARY.definition)
    chain = "".join(f"{line}\nMSG: a/T{number}\na/T{number + 1} next\n" for number in range(5000))
    with pytest.raises(DefinitionError, match="levels deep"):
        bag_type("a/T", f"a/T0 first\n{chain}", LIBRARY.definition)
    with pytest.raises(DefinitionError, match="own type"):
        bag_type("a/T", "a/T again\n", LIBRARY.definition).decode(bytes(8))


@pytest.mark.parametrize("line", ["uint8[4000000000] x", "string[4000000000] x", "Part[100000] x"])
def test_a_definition_of_a_message_that_no_memory_holds_is_refused(line: str) -> None:
    text = f"{line}\n{'=' * 80}\nMSG: a/Part\nfloat64[30000] x\n"
    with pytest.raises(
        DefinitionError, match=r"each a/msg/T has at least .* bytes, but a message may have"
    ):
        bag_type("a/T", text, LIBRARY.definition).decode(b"\0\1\0\0" + bytes(8))


def test_a_large_array_takes_no_memory_before_its_message_is_there() -> None:
    kind = bag_type("a/T", "uint8[500000000] x\nstring[100000000] y\n", LIBRARY.definition)
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage, match="claims 500000000 elements, but 8 bytes are left"):
            kind.decode(b"\0\1\0\0" + bytes(8))
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.lengthy
def test_the_time_for_a_definition_grows_with_its_length_only() -> None:
    def seconds(fields: int) -> float:
        lines = [f"x{number}" for number in range(fields)]
        begin = time.thread_time()  # other programs and threads do not count
        read_message("".join(f"int32 {name}\n" for name in lines), "a/msg/T")
        inner = "".join(f"long {name};\n" for name in lines)
        read_idl(f"module a {{ module msg {{ struct T {{\n{inner}}}; }}; }};", "T.idl")
        return time.thread_time() - begin

    # A garbage collection looks at what all tests before left behind.
    gc.disable()
    try:
        short, long = (min(seconds(fields) for _ in range(3)) for fields in (2_000, 20_000))
    finally:
        gc.enable()
    # Ten times as many fields took a hundred times as long.
    assert long < 40 * short


def test_a_small_compressed_message_cannot_take_all_memory() -> None:
    huge = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    assert cdr_of(huge) == bytes(1 << 20)
    claims = bytearray(zstandard.ZstdCompressor(write_content_size=True).compress(bytes(1 << 20)))
    claims[5:9] = (0xFFFFFFFF).to_bytes(4, "little")  # the size in the head of the frame
    with pytest.raises(NotARecording):
        cdr_of(bytes(claims))


# Commands.


def test_info_shows_the_topics_of_a_bag(bag: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["info", str(bag)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Bag of ROS 2  {bag}, ")
    assert "Messages      5 in 3 topics\n" in out
    assert "Complete      yes\n" in out
    assert re.search(r"\ncamera/image_raw +sensor_msgs/msg/Image +2 +2.50 Hz", out)
    assert "Replay" not in out
    assert "Dataflow" not in out


def test_a_bag_equals_the_same_bag_of_another_storage(
    bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_bag(tmp_path / "other", storage=SQLITE, compression=CompressionMode.MESSAGE)
    assert run_command_line(["diff", str(bag), str(other)]) == 0
    assert "equal: 5 messages in 3 topics" in capsys.readouterr().out


def test_parquet_of_a_bag(bag: Path, tmp_path: Path) -> None:
    assert run_command_line(["export", str(bag), "--parquet", str(tmp_path / "out")]) == 0
    table = pq.read_table(tmp_path / "out/chatter.parquet")
    assert table.column("value").to_pylist() == [[{"data": "hello"}], [{"data": "again"}]]
    command = ["export", str(bag), "--parquet", str(tmp_path / "images"), "--images"]
    assert run_command_line([*command, "--topics", "camera/image_raw"]) == 0
    table = pq.read_table(tmp_path / "images/camera/image_raw.parquet")
    assert table.column("value").to_pylist() == [bytes([10]) * 24, bytes([20]) * 24]


def test_images_in_the_form_of_dora(bag: Path) -> None:
    with open_recording(str(bag), images=True) as opened:
        first = next(opened.messages(["camera/image_raw"])).message
        assert decode_arrow(first).to_pylist() == [10] * 24
        assert decode_metadata(first.metadata) == {
            "width": 4,
            "height": 2,
            "encoding": "rgb8",
            "frame_id": "camera",
            "stamp": 7_000_000_005,
            "ros2_type": "sensor_msgs/msg/Image",
            "ros2_topic": "/camera/image_raw",
        }


def test_large_images_are_not_copied_into_small_ones(tmp_path: Path) -> None:
    """Rows with and without bytes at their end, above the size from which values stay where they are."""
    pixels = np.arange(200 * 100 * 3, dtype=np.uint32).astype(np.uint8)
    plain = {"width": 200, "height": 100, "encoding": "rgb8", "step": 600, "data": pixels}
    rows = np.pad(pixels.reshape(100, 600), ((0, 0), (0, 8))).reshape(-1)
    padded = {**plain, "step": 608, "data": rows}
    sent = [
        Sent("/image", index, "sensor_msgs/msg/Image", value) for index, value in enumerate((plain, padded))
    ]
    for storage in (MCAP, SQLITE):
        bag = write_bag(tmp_path / storage.name, sent, storage=storage)
        assert [value for _, _, value in contents(bag, images=True)] == [pixels.tolist()] * 2
        assert contents(bag) == expected(sent)


def test_an_image_of_another_definition_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sensor_msgs/msg").mkdir(parents=True)
    (tmp_path / "sensor_msgs/msg/Image.msg").write_text("int32 number\n")
    own = InterfaceLibrary([tmp_path], prefixes=[])
    bag = write_bag(
        tmp_path / "drive", [Sent("/x", 0.0, "sensor_msgs/msg/Image", {"number": 5})], library=own
    )
    assert contents(bag)[0][2] == [{"number": 5}]
    error = failed(capsys, "export", bag, "--parquet", tmp_path / "out", "--images")
    assert "the bag defines sensor_msgs/msg/Image without the fields of an image" in error


def test_messages_without_fields(tmp_path: Path) -> None:
    sent = [Sent("/start", 0.0, "std_msgs/msg/Empty", {})]
    assert contents(write_bag(tmp_path / "drive", sent)) == [("start", T0, [{}])]


@pytest.mark.lengthy
def test_a_bag_may_have_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sent = [Sent("/x", number / 10, "std_msgs/msg/Int32", {"data": number}) for number in range(60)]
    parts = [
        write_bag(tmp_path / f"part{number}", [each], storage=SQLITE if number % 2 else MCAP)
        for number, each in enumerate(sent)
    ]
    bag = join_bags(tmp_path / "drive", *parts)
    open_files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, open_files + 20), hard))
    try:
        assert contents(bag) == expected(sent)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_options_of_bags_are_refused_for_recordings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = write_recording(tmp_path / "run.mcap", [("a/x", 0.0, b"1")])
    for command in (
        ["export", str(recording), "--parquet", str(tmp_path / "out"), "--images"],
        ["replay", str(recording), "--topic", "a/x=/x"],
    ):
        assert run_command_line(command) == 2
        assert "are for bags of ROS 2" in capsys.readouterr().err


# Damaged, cut and foreign bags.


def cut(file: Path, part: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * part)])


@pytest.mark.lengthy
@pytest.mark.parametrize("storage", [MCAP, SQLITE], ids=lambda value: value.name)
def test_a_bag_that_was_cut_is_read_up_to_the_cut(
    tmp_path: Path, storage: StoragePlugin, capsys: pytest.CaptureFixture[str]
) -> None:
    many = [
        Sent("/image", number / 100, "sensor_msgs/msg/Image", {"data": bytes([number]) * 60_000})
        for number in range(100)
    ]
    bag = write_bag(tmp_path / "drive", many, storage=storage)
    (file,) = (one for one in bag.iterdir() if one.name != "metadata.yaml")
    cut(file, 0.6)
    found = contents(bag)
    assert 20 < len(found) < 100
    assert found == expected(many)[: len(found)]
    with open_recording(str(bag)) as opened:
        assert not opened.complete
        assert opened.count >= len(found)
        assert opened.first_ns == found[0][1] < found[-1][1] <= opened.last_ns
    assert run_command_line(["info", str(bag)]) == 0
    assert "Complete      no: a part cannot be read: " in capsys.readouterr().out
    error = failed(capsys, "export", bag, "--parquet", tmp_path / "out")
    assert "it was read up to 0." in error
    command = ["export", str(bag), "--parquet", str(tmp_path / "more"), "--allow-incomplete"]
    assert run_command_line(command) == 0


@pytest.mark.lengthy
@pytest.mark.parametrize("storage", [MCAP, SQLITE], ids=lambda value: value.name)
@pytest.mark.parametrize(
    "compression", [CompressionMode.NONE, CompressionMode.FILE], ids=lambda value: value.name
)
def test_every_cut_gives_messages_or_a_sentence(
    tmp_path: Path, storage: StoragePlugin, compression: CompressionMode, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "drive", storage=storage, compression=compression)
    (file,) = (one for one in bag.iterdir() if one.name != "metadata.yaml")
    whole = file.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        file.write_bytes(whole[:size])
        assert run_command_line(["diff", str(bag), str(bag)]) == 2, size
        error = capsys.readouterr().err
        assert error.startswith(("error: ", "warning: "))
        assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.lengthy
@pytest.mark.parametrize("storage", [MCAP, SQLITE], ids=lambda value: value.name)
def test_changed_bytes_give_messages_or_a_sentence(
    tmp_path: Path, storage: StoragePlugin, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "drive", storage=storage)
    (file,) = (one for one in bag.iterdir() if one.name != "metadata.yaml")
    whole = file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        data = bytearray(whole)
        data[place] ^= 0xFF
        file.write_bytes(data)
        status = run_command_line(["export", str(bag), "--parquet", str(tmp_path / f"out{place}")])
        captured = capsys.readouterr()
        assert status in (0, 1)
        assert (status == 0) == ("error: " not in captured.err)
        assert "Traceback" not in captured.err


def test_a_missing_file_of_a_bag_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "drive")
    described = yaml.safe_load((bag / "metadata.yaml").read_text())
    described["rosbag2_bagfile_information"]["relative_file_paths"].append("drive/drive_1.mcap")
    (bag / "metadata.yaml").write_text(yaml.safe_dump(described))
    error = failed(capsys, "export", bag, "--parquet", tmp_path / "out")
    assert "its file drive_1.mcap cannot be read: No such file or directory" in error
    assert len(contents(bag)) == 5


def _no_metadata(bag: Path) -> None:
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [")


def _other_metadata(bag: Path) -> None:
    (bag / "metadata.yaml").write_text("name: something\n")


def _empty_folder(bag: Path) -> None:
    for file in bag.iterdir():
        file.unlink()


def _no_messages(bag: Path) -> None:
    next(bag.glob("*.mcap")).unlink()


def _other_database(bag: Path) -> None:
    _empty_folder(bag)
    with sqlite3.connect(bag / "drive.db3") as database:
        database.execute("CREATE TABLE people (name TEXT)")
    database.close()


def _text(bag: Path) -> None:
    _empty_folder(bag)
    (bag / "drive.mcap").write_text("no bag at all")


def _bag_of_ros_1(bag: Path) -> None:
    _empty_folder(bag)
    (bag / "drive.mcap").write_bytes(b"#ROSBAG V2.0\n")


def _recordings(bag: Path) -> None:
    _empty_folder(bag)
    write_recording(bag / "run.mcap", [("a/x", 0.0, b"1")])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_bag_of_ros_1, "it is a bag of ROS 1, and `rosbags-convert` makes one of ROS 2 from it"),
        (_recordings, "run.mcap is a recording of dora and no part of a bag"),
        (_no_metadata, "metadata.yaml cannot be read: while parsing"),
        (_other_metadata, "metadata.yaml does not describe a bag of ROS 2"),
        (_empty_folder, "is a folder, but no bag of ROS 2"),
        (_no_messages, "its file drive.mcap cannot be read: No such file or directory"),
        (_other_database, "no bag that can be read: it has no tables of topics and messages"),
        (_text, "is no recording: it is not an MCAP file"),
    ],
)
def test_what_is_no_bag_is_refused(
    bag: Path, spoil: Callable[[Path], None], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(bag)
    assert told in failed(capsys, "info", bag)


def test_names_in_a_bag_do_not_reach_the_terminal_as_they_are(
    bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bag / "drive.mcap"
    file.write_bytes(file.read_bytes().replace(b"/chatter", b"/\x1b[31mer"))
    assert run_command_line(["info", str(bag)]) == 0
    out = capsys.readouterr().out
    assert "\\x1b[31mer" in out
    assert "\x1b" not in out
    assert [topic for topic, _, _ in contents(bag)].count("\\x1b[31mer") == 2


def test_what_a_killed_recorder_wrote_into_the_log_of_sqlite_is_read(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", MESSAGES[:4], storage=SQLITE)
    with closing(sqlite3.connect(bag / "drive.db3")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        data = LIBRARY.message("std_msgs/msg/String").encode({"data": "late"})
        ((topic,),) = database.execute("SELECT id FROM topics WHERE name = '/chatter'")
        time_ns = time_of(MESSAGES[4])
        database.execute(
            "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)", (topic, time_ns, data)
        )
        database.commit()
        killed = tmp_path / "killed"
        killed.mkdir()
        for name in ("drive.db3", "drive.db3-wal"):
            shutil.copy(bag / name, killed / name)
    found = contents(killed)
    assert found[:4] == expected(MESSAGES[:4])
    assert found[4:] == [("chatter", time_ns, [{"data": "late"}])]


def test_a_malformed_message_is_told(bag: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / "malformed", data={3: b"\0\1\0\0\xff\xff\xff\xff"})
    error = failed(capsys, "export", bag, "--parquet", tmp_path / "out")
    assert "message 2 of `chatter`: " in error


def test_an_image_with_too_few_bytes_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {**image(1, 1), "height": 9}
    bag = write_bag(tmp_path / "drive", [Sent("/image", 0.0, "sensor_msgs/msg/Image", small)])
    error = failed(capsys, "export", bag, "--parquet", tmp_path / "out", "--images")
    assert "message 1 of `image`: a received message is no image" in error
