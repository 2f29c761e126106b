"""Recordings of several machines become one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recorded_files import SECOND, T0, write_recording
from test_recorded_context import channel

from dora.errors import DoraError
from dora.recording.join import join
from dora.recording.opening import open_recording


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
    end = join({"left": str(left), "right": str(right)}, str(tmp_path / "both.mcap"))
    assert not end.complete
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


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    part = write_recording(tmp_path / "a.mcap", [("a/x", 1.0, b"1")])
    (tmp_path / "b.mcap").write_text("precious")
    with pytest.raises(DoraError, match="exists already"):
        join({"": str(part)}, str(tmp_path / "b.mcap"))
