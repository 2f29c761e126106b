"""Recordings of several machines become one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from recorded_files import SECOND, T0, write_recording
from test_recorded_context import channel

from dora.cli.commands.save import _report
from dora.errors import DoraError
from dora.recording.join import join
from dora.recording.mcap.file import McapFile
from dora.recording.opening import open_recording
from dora.wire.black_box import SavedBlackBox


def state(left: int, right: int) -> dict[str, Any]:
    """Return a state of two nodes, each with the rate that a machine knows of it."""
    nodes = [
        {"id": "camera", "machine": "left", "sent_hz": left},
        {"id": "arm", "machine": "right", "sent_hz": right},
    ]
    return {"nodes": nodes, "links": [{"source": "camera/image", "target": "arm/image", "hz": right}]}


def test_messages_are_in_the_order_of_their_times(tmp_path: Path) -> None:
    mark = {"kind": "note", "node": None, "text": "here"}
    left = write_recording(
        tmp_path / "left.mcap",
        [("camera/image", at, b"%d" % at) for at in (1.0, 3.0, 5.0)],
        context=[("dora/state", 1.0, state(30, 0)), ("dora/mark", 2.5, mark)],
        lost=2,
    )
    right = write_recording(
        tmp_path / "right.mcap",
        [("arm/position", at, b"%d" % at) for at in (2.0, 4.0)],
        context=[("dora/state", 2.0, state(0, 29)), ("dora/mark", 2.5, mark)],
    )
    end, damage = join({"left": str(left), "right": str(right)}, str(tmp_path / "both.mcap"))
    assert not end.complete and not damage
    with open_recording(str(tmp_path / "both.mcap")) as recording:
        assert recording.start.nodes == ["camera", "arm"]
        assert recording.messages_lost == 2
        found = [(item.topic, (item.time_ns - T0) / SECOND) for item in recording.messages()]
        assert found == [
            ("camera/image", 1.0),
            ("arm/position", 2.0),
            ("camera/image", 3.0),
            ("arm/position", 4.0),
            ("camera/image", 5.0),
        ]
        values = [item.message.small_body for item in recording.messages(["arm/position"])]
        assert len(set(values)) == 2
    assert [value for _, value in channel(tmp_path / "both.mcap", "dora/mark")] == [mark], "once"
    *_, (_, last) = channel(tmp_path / "both.mcap", "dora/state")
    assert [node["sent_hz"] for node in last["nodes"]] == [30, 29], "each machine knows its own nodes"
    assert last["links"][0]["hz"] == 29


def test_a_damaged_part_makes_the_whole_incomplete(tmp_path: Path) -> None:
    left = write_recording(tmp_path / "left.mcap", [("a/x", float(at), b"%d" % at * 20) for at in range(5)])
    right = write_recording(
        tmp_path / "right.mcap", [("b/x", float(at), b"%d" % at * 20) for at in range(5)]
    )
    data = bytearray(left.read_bytes())
    data[data.index(b"2" * 20)] ^= 1  # the checksum of its chunk does not match any more
    left.write_bytes(data)
    end, damage = join({"left": str(left), "right": str(right)}, str(tmp_path / "both.mcap"))
    assert damage.startswith(
        "the file of machine `left` cannot be read to its end (McapError: the checksum"
    )
    assert not end.complete
    assert {name: (topic.messages, topic.lost) for name, topic in end.topics.items()} == {
        "a/x": (2, 3),
        "b/x": (5, 0),
    }
    with open_recording(str(tmp_path / "both.mcap")) as recording:
        assert not recording.complete
        assert (recording.count, recording.messages_lost) == (7, 3)


def test_the_whole_lasts_from_the_first_begin_to_the_last_end_and_names_what_all_parts_name(
    tmp_path: Path,
) -> None:
    parts = {
        machine: str(
            write_recording(
                tmp_path / f"{machine}.mcap",
                [(f"{machine}/x", 5.0, b"1")],
                started=T0 + begun * SECOND,
                stopped=ended,
                sources={f"{machine}.py": machine},
                failed=[machine],
            )
        )
        for machine, begun, ended in (("a", 2, 20.0), ("b", 1, 10.0), ("c", 3, 15.0))
    }
    end, _ = join(parts, str(tmp_path / "both.mcap"))
    assert (end.complete, end.stopped, end.failed) == (True, T0 + 20 * SECOND, ["a", "b", "c"])
    with open_recording(str(tmp_path / "both.mcap")) as recording:
        assert recording.start.started == T0 + SECOND
        assert recording.start.topics == ["a/x", "b/x", "c/x"]
        assert recording.start.sources == {"a.py": "a", "b.py": "b", "c.py": "c"}


def test_logs_of_all_parts_are_one_channel_and_types_of_an_output_one_each(tmp_path: Path) -> None:
    parts = {name: str(tmp_path / f"{name}.mcap") for name in "ab"}
    for name, path in parts.items():
        sent = [(f"{name}/x", 1.0, pa.array(["text"])), (f"{name}/x", 2.0, pa.array([{"y": "text"}]))]
        write_recording(Path(path), sent, context=[("dora/mark", 1.0, {"text": name})])
    join(parts, str(tmp_path / "both.mcap"))
    with McapFile(str(tmp_path / "both.mcap")) as file:
        file.index(lambda _: True)
        topics = sorted(channel.topic for channel in file.channels.values())
    assert topics == ["a/x", "a/x", "b/x", "b/x", "dora/mark"]


def test_a_user_who_saves_is_told_of_a_damaged_part(capsys: pytest.CaptureFixture[str]) -> None:
    saved = SavedBlackBox("/a/both.mcap", messages=7, lost=3, size=2000, problem="a part is damaged")
    assert _report("", saved) == 1
    out, err = capsys.readouterr()
    assert err == "error: the last seconds are not all saved: a part is damaged\n"
    assert out.startswith("saved 7 messages (2.0 kB) to ") and "3 messages of that time are missing" in out


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    part = write_recording(tmp_path / "a.mcap", [("a/x", 1.0, b"1")])
    (tmp_path / "b.mcap").write_text("precious")
    with pytest.raises(DoraError, match="exists already"):
        join({"": str(part)}, str(tmp_path / "b.mcap"))
