"""Reading recordings: whole ones, cut ones, damaged ones, and files that are none."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from mcap.writer import CompressionType, IndexType, Writer
from recorded_files import SECOND, T0, write_recording

from dora.cli.main import run_command_line
from dora.errors import DoraError
from dora.recording.mcap.file import END_OF_TIME, McapFile
from dora.recording.mcap.format import NotARecording
from dora.recording.mcap.info import facts, trouble
from dora.recording.opening import open_recording
from dora.wire.decode import decode_arrow
from dora.wire.metadata import decode_metadata

MESSAGES = [
    ("camera/image", 0.0, np.zeros(12, np.uint8), {"width": 2}),
    ("arm/state", 0.5, pa.array([{"x": 1.5}])),
    ("camera/image", 1.0, np.ones(12, np.uint8)),
    ("camera/image", 2.0, b"other"),
]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return write_recording(tmp_path / "run.mcap", MESSAGES)


def test_messages_come_back_in_the_order_of_sending(recording: Path) -> None:
    with open_recording(str(recording)) as opened:
        found = list(opened.messages())
        assert [(each.topic, each.sequence, each.time_ns - T0) for each in found] == [
            ("camera/image", 1, 0),
            ("arm/state", 1, SECOND // 2),
            ("camera/image", 2, SECOND),
            ("camera/image", 3, 2 * SECOND),
        ]
        assert decode_arrow(found[1].message).to_pylist() == [{"x": 1.5}]
        assert decode_metadata(found[0].message.metadata) == {"width": 2}
        assert opened.complete
        assert opened.duration == 2.0
        assert opened.topics["camera/image"].messages == 3


def test_topics_and_times_can_be_chosen(recording: Path) -> None:
    with open_recording(str(recording)) as opened:
        some = opened.messages(["camera/image"], T0 + 1, T0 + 2 * SECOND)
        assert [each.sequence for each in some] == [2]


@pytest.mark.parametrize("ends", [True, False])
def test_chunks_may_be_in_any_order(ends: bool, tmp_path: Path) -> None:
    sent = [("a/x", at, b"") for at in (1.0, 2.0, 0.0, 1.5)]
    with open_recording(str(write_recording(tmp_path / "a.mcap", sent, ends=ends))) as opened:
        assert (opened.first_ns, opened.last_ns) == (T0, T0 + 2 * SECOND)
        times = [(each.time_ns - T0) / SECOND for each in opened.messages()]
        assert opened.reached_ns == opened.last_ns
    assert times == ([0.0, 1.0, 1.5, 2.0] if ends else [1.0, 2.0, 0.0, 1.5])


def topics_in(path: Path, times: list[tuple[str, int]], **options: Any) -> list[str]:
    """Write messages as another program may; return their topics as they are read, and the damage."""
    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType.NONE, **options)
        writer.start()
        channels = {topic: writer.register_channel(topic, "json", 0) for topic in "ab"}
        for topic, time_ns in times:
            writer.add_message(channels[topic], log_time=time_ns, data=b"{}", publish_time=0)
        writer.finish()
    with McapFile(str(path)) as opened:
        opened.index(lambda _: True)
        found = [channel.topic for channel, _ in opened.messages(lambda _: True, 0, END_OF_TIME)]
        return [*found, opened.damage] if opened.damage else found


def test_messages_of_one_time_keep_their_order_within_a_chunk(tmp_path: Path) -> None:
    sent = [("b", 5), ("a", 5), ("b", 5), ("a", 5)]
    assert topics_in(tmp_path / "a.mcap", sent) == ["b", "a", "b", "a"]


@pytest.mark.parametrize(
    "options",
    [{"index_types": IndexType.CHUNK}, {"repeat_channels": False}, {"use_chunking": False}],
    ids=["no_message_indexes", "no_channels_at_the_end", "no_chunks"],
)
def test_a_file_with_half_a_summary_is_read_as_a_whole(options: Any, tmp_path: Path) -> None:
    assert topics_in(tmp_path / "a.mcap", [("a", 5), ("b", 6)], **options) == ["a", "b"]


def test_a_time_after_the_end_of_all_clocks_is_a_damage_outside_chunks_too(tmp_path: Path) -> None:
    found = topics_in(tmp_path / "a.mcap", [("a", 5), ("b", END_OF_TIME)], use_chunking=False)
    assert found == ["a", "McapError: a message claims to be from after the year 2262"]


def test_a_damaged_chunk_costs_no_message_of_the_chunks_before_it(tmp_path: Path) -> None:
    # In chunks of two messages, but for the first, which has the channels, too. The last two overlap.
    sent = [("a", 0), ("a", 10), ("b", 100), ("a", 50), ("a", END_OF_TIME)]
    found = topics_in(tmp_path / "a.mcap", sent, chunk_size=60)
    assert found == ["a", "a", "b", "McapError: a message claims to be from after the year 2262"]


def test_a_file_without_its_end_is_read_up_to_the_cut(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "cut.mcap", MESSAGES, ends=False)
    data = path.read_bytes()
    path.write_bytes(data[:-60])
    with open_recording(str(path)) as opened:
        assert [each.sequence for each in opened.messages()] == [1, 1, 2]
        assert opened.duration == 1.0
        assert not opened.complete
        assert trouble(opened).startswith("the file was cut off")


@pytest.mark.parametrize("size", [0, 4, 100, 2000])
def test_any_cut_gives_messages_or_a_sentence(recording: Path, size: int) -> None:
    recording.write_bytes(recording.read_bytes()[:size])
    try:
        with open_recording(str(recording)) as opened:
            assert len(list(opened.messages())) <= len(MESSAGES)
            assert not opened.complete
    except DoraError as error:
        assert str(recording) in str(error)


def test_every_cut_is_survived(recording: Path) -> None:
    whole = recording.read_bytes()
    for size in range(0, len(whole), 97):
        recording.write_bytes(whole[:size])
        try:
            with open_recording(str(recording)) as opened:
                list(opened.messages())
                facts(opened)
        except NotARecording:
            pass


def test_a_changed_byte_is_noticed(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(recording.read_bytes())
    with open_recording(str(recording)) as opened:
        body = next(opened.messages(["arm/state"])).data[-40:]
    data[data.index(body) + 1] ^= 1
    damaged = recording.with_name("damaged.mcap")
    damaged.write_bytes(data)
    with open_recording(str(damaged)) as opened:
        assert [each.topic for each in opened.messages()] == ["camera/image"]
        assert trouble(opened) == "a part cannot be read: McapError: the checksum of a chunk is wrong"
    for command in (["diff", str(recording)], ["export", "--parquet", str(recording.parent / "out")]):
        assert run_command_line([*command, str(damaged)]) == 1
        error = capsys.readouterr().err
        assert f"error: {damaged}: a part cannot be read" in error
        assert "it was read up to 0.000 s; --allow-incomplete accepts that" in error


@pytest.mark.lengthy
def test_a_changed_byte_in_the_summary_is_noticed(recording: Path) -> None:
    whole = recording.read_bytes()
    with open_recording(str(recording)) as opened:
        expected = [each.data for each in opened.messages()]
    (summary,) = struct.unpack("<Q", whole[-28:-20])
    damaged = recording.with_name("damaged.mcap")
    for place in range(summary, len(whole) - 8, 7):
        data = bytearray(whole)
        data[place] ^= 1
        damaged.write_bytes(data)
        with open_recording(str(damaged)) as opened:
            assert not opened.complete
            assert trouble(opened).startswith("a part cannot be read: "), place
            assert [each.data for each in opened.messages()] == expected, place
    data = bytearray(whole)
    data[-12] ^= 1  # the checksum itself
    damaged.write_bytes(data)
    with open_recording(str(damaged)) as opened:
        assert trouble(opened) == "a part cannot be read: McapError: the checksum of the summary is wrong"


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"hello, world")
    with pytest.raises(NotARecording, match="is not an MCAP file"):
        open_recording(str(other))
    other.write_bytes(b"DORAREC\0" + bytes(30))
    with pytest.raises(NotARecording, match="one of dora-rs"):
        open_recording(str(other))
    with pytest.raises(DoraError, match="cannot be read: No such file"):
        open_recording(str(tmp_path / "nowhere"))
    with pytest.raises(DoraError, match="is a folder"):
        open_recording(str(tmp_path))


def test_an_mcap_file_of_another_program_is_reported_as_such(tmp_path: Path) -> None:
    from mcap.writer import Writer

    path = tmp_path / "other.mcap"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.start(profile="ros1")
        writer.finish()
    with pytest.raises(NotARecording, match="its profile is `ros1`"):
        open_recording(str(path))


def test_info_as_text(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["info", str(recording)]) == 0
    shown = capsys.readouterr().out
    assert "Complete    yes" in shown
    assert "4 in 2 topics" in shown
    assert "camera/image  uint8" in shown
    assert "1.00 Hz" in shown


def test_info_as_json(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["info", str(recording), "-f", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] is True
    assert found["messages"] == 4
    assert {topic["name"]: topic["messages"] for topic in found["topics"]} == {
        "camera/image": 3,
        "arm/state": 1,
    }


def test_info_lists_missing_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recording(tmp_path / "lossy.mcap", MESSAGES, lost=3)
    assert run_command_line(["info", str(path)]) == 0
    assert "no: 6 messages are missing" in capsys.readouterr().out
    (tmp_path / "text").write_text("x" * 100)
    assert run_command_line(["info", str(tmp_path / "text")]) == 1
    assert "is no recording" in capsys.readouterr().err


@pytest.mark.processes
def test_info_shows_how_long_data_took_through_a_recorded_dataflow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three images, and boxes of each that follow from it 20 ms later."""
    flow = """
nodes:
  - {id: camera, path: camera.py, outputs: [image]}
  - {id: detector, path: detector.py, inputs: {image: camera/image}, outputs: [boxes]}
"""
    folder = tmp_path / "flow"
    folder.mkdir()
    (folder / "flow.yml").write_text(flow)
    (folder / "camera.py").write_text(
        "from dora import Node\nnode = Node()\nfor _ in range(3):\n    node.send_output('image', b'x')\n"
    )
    (folder / "detector.py").write_text(
        "import time\nfrom dora import Node\nfor event in (node := Node()):\n"
        "    if event['type'] == 'INPUT':\n        time.sleep(0.02)\n"
        "        node.send_output('boxes', b'y')\n"
    )
    recording = tmp_path / "run.mcap"
    assert run_command_line(["record", str(folder / "flow.yml"), "--output", str(recording)]) == 0
    capsys.readouterr()
    assert run_command_line(["info", str(recording), "--paths", "-f", "json"]) == 0
    (path,) = json.loads(capsys.readouterr().out)["paths"]
    assert (path["source"], path["sink"], path["messages"]) == ("camera/image", "detector/boxes", 3)
    assert 19 < path["median_ms"] <= path["worst_ms"]
    assert run_command_line(["info", str(recording), "--paths"]) == 0
    assert "camera/image  detector/boxes" in capsys.readouterr().out
