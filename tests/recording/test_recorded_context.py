"""What a recording says beside messages: states, parameters, marks, and the code that ran."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from recording_flows import FLOW, Folder
from waiting import TIMEOUT

from dora.daemon.load_dataflow import load_for_run
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import FileRunOptions
from dora.errors import ConnectError
from dora.recording.mcap.file import McapFile
from dora.recording.recorder.context import RecordingContext, fingerprints

FAILING = """
    from helper import LIMIT
    from dora import Node

    node = Node()
    for count, event in enumerate(node):
        if event["type"] == "INPUT":
            node.send_output("image", b"picture")
            node.send_output("spare", b"spare")
            if count == 5:
                node.set_parameters({"gain": 2})
            if count == LIMIT:
                raise ValueError("the lens is dirty")
"""
FAILING_FLOW = FLOW.replace("path: camera.py", "path: failing.py\n        parameters: {gain: 1}")


def channel(path: Path, topic: str) -> Iterator[tuple[int, Any]]:
    """Yield the time and the JSON value of each message of a channel."""
    file = McapFile(str(path))
    file.index(lambda channel: channel.topic == topic)
    for found, stored in file.messages(lambda channel: channel.topic == topic, 0, 2**63):
        assert found.message_encoding == "json"
        assert "arrow_type" not in found.metadata
        yield stored.time_ns, json.loads(stored.data)
    file.close()


def check(path: Path) -> None:
    """Check the recording of a run of FAILING_FLOW."""
    states = [value for _, value in channel(path, "dora/state")]
    assert {node["id"] for node in states[0]["nodes"]} == {"camera", "sink"}
    assert states[0]["links"][0]["source"] == "camera/image"
    values = [(value["node"], value["values"]) for _, value in channel(path, "dora/parameters")]
    assert values[-1] == ("camera", {"gain": 2})
    assert ("sink", {}) in values
    ((when, mark),) = [item for item in channel(path, "dora/mark") if item[1]["kind"] == "failed"]
    assert mark["node"] == "camera"
    assert "exited with status 1: ValueError: the lens is dirty" in mark["text"]
    times = [time_ns for time_ns, _ in channel(path, "dora/state")]
    assert times == sorted(times)
    assert when > times[0]


@pytest.mark.slow
@pytest.mark.processes
def test_a_recording_has_states_parameters_and_marks(folder: Folder) -> None:
    folder.program("helper.py", "LIMIT = 30\n")
    folder.program("failing.py", FAILING)
    process = folder.start("record", folder.flow(FAILING_FLOW), "-o", "a.mcap")
    process.communicate(timeout=TIMEOUT)  # with the traceback of the node
    assert process.returncode == 1
    check(folder.directory / "a.mcap")
    with folder.recording() as recording:
        assert set(recording.topics) == {"camera/image", "camera/spare"}, "they are no outputs"
        sources = recording.start.sources
    program = folder.directory / "failing.py"
    assert sources["failing.py"] == hashlib.sha256(program.read_bytes()).hexdigest()
    assert "helper.py" in sources, "what a program imports belongs to it"
    assert "camera/image" in folder.dora("info", "a.mcap")
    folder.dora("export", "a.mcap", "--parquet", "tables")
    folder.dora("diff", "a.mcap", "a.mcap")


def test_files_that_were_saved_later_have_no_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import b\n")
    (tmp_path / "b.py").write_text("")
    (tmp_path / "flow.yml").write_text("nodes:\n  - {id: a, path: a.py, outputs: [x]}\n")
    dataflow = load_for_run(str(tmp_path / "flow.yml"), FileRunOptions())
    assert set(fingerprints(dataflow)) == {"a.py", "b.py"}
    assert fingerprints(dataflow, before_ns=0) == {}


@pytest.mark.parametrize(("waiting", "reads"), [(10_000, 1), (10_001, 0)])
def test_logs_stay_in_their_files_while_the_recorder_waits_for_its_disk(waiting: int, reads: int) -> None:
    context = MagicMock(_items=[None] * waiting)
    context._closing.wait.side_effect = [False, True]
    RecordingContext._work(context)
    assert context._read.call_count == reads
    context._ask.assert_called_once_with()


def test_what_a_dataflow_logs_at_its_end_is_read_once_nobody_else_reads() -> None:
    context = MagicMock(_state_due=60.0)
    context._ask.side_effect = ConnectError("it has ended")
    RecordingContext.close(context)
    steps = "_closing.set _thread.join _ask _source.close _read _logs.close _order.close"
    assert [name for name, _, _ in context.mock_calls] == steps.split()
    assert context._state_due == 0.0, "the last state is asked for, too"


def test_what_was_logged_before_a_recording_is_not_in_it() -> None:
    context = MagicMock(_since_ns=10, _order=None, _items=[])
    context._logs.entries.return_value = [LogEntry(time_ns, "info", "a", "x") for time_ns in (9, 10, 11)]
    RecordingContext._read(context)
    assert [time_ns for _, time_ns, _ in context._items] == [10, 11]
