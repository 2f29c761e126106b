"""Nodes outside a dataflow: recorded inputs, recording them, and a person at a terminal."""

from __future__ import annotations

import gc
import json
import os
import pty
import select
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from file_limit import file_limit

import dora
from dora import ConnectError, Node, NotInDataflow, SendError

# As dora-rs 1.1 writes it, but for the times.
RECORDING: dict[str, Any] = {
    "id": "recv",
    "recording_status": {"state": "clean"},
    "events": [
        {"id": "tick", "time_offset_secs": 0.0, "type": "Input"},
        {
            "id": "in",
            "time_offset_secs": 0.02,
            "data": [1, 2, 3],
            "data_type": "Int64",
            "metadata": {"k": {"Integer": 3}},
            "type": "Input",
        },
        {"type": "InputClosed", "id": "in", "time_offset_secs": 0.04},
        {
            "id": "in",
            "time_offset_secs": 0.03,
            "data": [1.5, None],
            "data_type": "Float64",
            "type": "Input",
        },
        {"type": "Stop", "time_offset_secs": 0.05},
    ],
}


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``replay(recording)`` lets nodes of this process take their inputs from it."""

    def use(recording: Any, text: str | None = None) -> Path:
        file = tmp_path / "inputs.json"
        file.write_text(json.dumps(recording) if text is None else text)
        monkeypatch.delenv("DORA_NODE_CONFIG", raising=False)
        monkeypatch.setenv("DORA_TEST_WITH_INPUTS", str(file))
        return tmp_path / "outputs.jsonl"

    return use


def test_recorded_inputs_come_in_the_order_of_their_times(replay: Any) -> None:
    replay(RECORDING)
    begun, now = time.monotonic(), datetime.now(UTC)
    node = Node()
    events = list(node)
    assert time.monotonic() - begun >= 0.05
    assert [(event["type"], event["id"]) for event in events] == [
        ("INPUT", "tick"),
        ("INPUT", "in"),
        ("INPUT", "in"),
        ("INPUT_CLOSED", "in"),
        ("STOP", "MANUAL"),
    ]
    assert events[0]["value"].equals(pa.nulls(0))
    assert events[1]["value"].to_pylist() == [1, 2, 3]
    assert events[1]["metadata"]["k"] == 3
    assert events[1]["metadata"]["timestamp"] > now
    assert events[2].data == pa.array([1.5, None]).buffers()[1].to_pybytes()[:16]
    assert node.id == "recv"
    assert node.node_config() == {"inputs": {}, "outputs": []}
    assert node.next() is None
    node.close()


def test_outputs_are_written_as_json_lines(replay: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = replay(RECORDING)
    node = Node()
    node.send_output("echo", pa.array([1, 2, 3]), {"k": 1})
    with node.loan("image", np.int64(4)) as image:
        image[:] = 7
    rows = [json.loads(line) for line in outputs.read_text().splitlines()]
    assert [(row["id"], row["data"], row["data_type"]) for row in rows] == [
        ("echo", [1, 2, 3], "Int64"),
        ("image", [7, 7, 7, 7], "UInt8"),
    ]
    assert 0 <= rows[0]["time_offset_secs"] < 10
    node.close()
    monkeypatch.setenv("DORA_TEST_NO_OUTPUT_TIME_OFFSET", "1")
    monkeypatch.setenv("DORA_TEST_WRITE_OUTPUTS_TO", str(outputs.with_name("golden.jsonl")))
    with Node() as node:
        node.send_output("echo", b"x")
    assert (
        outputs.with_name("golden.jsonl").read_text() == '{"id":"echo","data":[120],"data_type":"UInt8"}\n'
    )


@pytest.mark.parametrize("word", ["0", "false", "False", ""])
def test_outputs_have_their_times_unless_they_are_not_wanted(
    replay: Any, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    outputs = replay(RECORDING)
    outputs.write_text("of an earlier run, and longer\n" * 100)
    monkeypatch.setenv("DORA_TEST_NO_OUTPUT_TIME_OFFSET", word)
    with Node() as node:
        node.send_output("echo", b"x")
    assert "time_offset_secs" in json.loads(outputs.read_text())


def test_a_node_that_is_closed_writes_no_more(replay: Any) -> None:
    outputs = replay(RECORDING)
    node = Node()
    node.close()
    with pytest.raises(SendError):
        node.send_output("late", b"x")
    assert outputs.read_text() == ""


def test_a_node_that_is_closed_leaves_no_descriptor_open(replay: Any) -> None:
    replay(RECORDING)
    Node().close()
    gc.collect()
    before = os.listdir("/dev/fd")
    Node().close()
    gc.collect()
    assert len(os.listdir("/dev/fd")) == len(before)


def test_threads_that_send_first_at_once_write_each_message_once(
    replay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = replay(RECORDING)
    node = Node()
    ports = node._session.outputs
    make: Any = ports._make  # type: ignore[attr-defined]
    made, both = [], threading.Event()
    other = threading.Thread(target=node.send_output, args=("echo", b"2"))

    def make_at_once(output_id: str) -> Any:
        made.append(output_id)
        if len(made) == 1:
            other.start()
            both.wait(0.1)  # the other thread should not come here
        else:
            both.set()
        return make(output_id)

    monkeypatch.setattr(ports, "_make", make_at_once)
    node.send_output("echo", b"1")
    other.join(10)
    assert sorted(json.loads(line)["data"][0] for line in outputs.read_text().splitlines()) == [49, 50]


def test_a_node_with_recorded_inputs_has_no_dataflow_to_describe(replay: Any) -> None:
    replay({"id": "n", "events": []})
    with Node() as node, pytest.raises(NotInDataflow, match="no dataflow to describe"):
        node.dataflow_descriptor()


def test_a_recording_may_be_empty_or_end_without_a_stop(replay: Any) -> None:
    replay({"id": "n", "events": []})
    with Node() as node:
        assert node.next() is None
    replay({"id": "n", "events": [{"type": "Input", "id": "a", "data": "text"}]})
    with Node() as node:
        assert [event["type"] for event in node] == ["INPUT"]
    replay({"id": "n", "events": [{"type": "AllInputsClosed"}]})
    with Node("other") as node:
        assert [(event["type"], event["id"]) for event in node] == [("STOP", "ALL_INPUTS_CLOSED")]
        assert node.id == "other"


def test_nothing_comes_after_a_recorded_stop(replay: Any) -> None:
    replay({"id": "n", "events": [{"type": "Stop"}, {"type": "Input", "id": "a"}]})
    with Node() as node:
        assert [event["type"] for event in node] == ["STOP"]
        assert node.next() is None


def test_a_recorded_set_lacks_the_inputs_without_a_message(replay: Any) -> None:
    inputs = {"empty": {}, "none": None, "list": [], "one": [{"data": [1]}]}
    replay({"id": "n", "events": [{"type": "Sync", "inputs": inputs}]})
    with Node() as node:
        (event,) = node
    assert event["missing"] == ["none", "list"]
    assert not event["complete"]


def test_values_may_be_in_arrow_files(replay: Any, tmp_path: Path) -> None:
    batches = [pa.record_batch({"x": [1, 2], "y": ["a", "b"]}), pa.record_batch({"x": [3], "y": ["c"]})]
    with pa.ipc.new_file(tmp_path / "d.arrow", batches[0].schema) as writer:
        for batch in batches:
            writer.write(batch)
    with pa.ipc.new_stream(tmp_path / "s.arrow", batches[0].schema) as writer:
        writer.write(batches[1])
    events = [
        {"type": "Input", "id": "a", "path": "d.arrow"},
        {"type": "Input", "id": "b", "path": "d.arrow", "batch_index": 1},
        {"type": "Input", "id": "c", "path": str(tmp_path / "d.arrow"), "batch_index": 1, "column": "y"},
        {"type": "Input", "id": "d", "path": "s.arrow", "column": "x"},
    ]
    replay({"id": "n", "events": events})
    with Node() as node:
        assert [event["value"].to_pylist() for event in node] == [
            [{"x": 1, "y": "a"}, {"x": 2, "y": "b"}],
            [{"x": 3, "y": "c"}],
            ["c"],
            [3],
        ]


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([{"type": "Inptu"}], "event 0 of .* 'Inptu' is no type"),
        ([{"type": "Input"}], "it has no 'id'"),
        ([{"type": "Input", "id": "a", "path": "none.arrow"}], "is not an Arrow file"),
        ([{"type": "Input", "id": "a", "path": "broken.arrow"}], "is not an Arrow file"),
        ([{"type": "Input", "id": "a", "path": "s.arrow", "batch_index": 1}], "has 1 batches"),
        ([{"type": "Input", "id": "a", "path": "s.arrow", "batch_index": -1}], "there is no number -1"),
        ([{"type": "Stop"}, {"type": "Input", "id": "a", "data": ["x"], "data_type": "Int8"}], "event 1"),
        ([7], "event 0"),
    ],
)
def test_an_error_in_recorded_inputs_names_its_place(
    replay: Any, tmp_path: Path, events: Any, message: str
) -> None:
    offsets = pa.array([0, 1000, 1], pa.int32()).buffers()[1]  # the first text ends far behind the data
    broken = pa.Array.from_buffers(pa.utf8(), 2, [None, offsets, pa.py_buffer(b"a")])
    for name, array in (("s.arrow", pa.array(["a"])), ("broken.arrow", broken)):
        batch = pa.record_batch([array], ["x"])
        with pa.ipc.new_file(tmp_path / name, batch.schema) as writer:
            writer.write(batch)
    replay({"id": "n", "events": events})
    with pytest.raises(ConnectError, match=message):
        Node()


def test_a_recording_that_is_none_or_poisoned_is_refused(
    replay: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    replay(None, "{")
    with pytest.raises(ConnectError, match="is not a recording"):
        Node()
    replay([])
    with pytest.raises(ConnectError, match="has to be a mapping"):
        Node()
    poisoned = {"state": "poisoned", "first_failure_event_index": 0, "first_failure_error": "disk full"}
    replay({"id": "n", "recording_status": poisoned, "events": []})
    with pytest.raises(ConnectError, match="incomplete and is not replayed: disk full"):
        Node()
    replay({"id": "n", "recording_status": "poisoned", "events": []})
    with pytest.raises(ConnectError, match="incomplete and is not replayed: something went wrong"):
        Node()
    monkeypatch.setenv("DORA_TEST_WITH_INPUTS", "/nowhere/inputs.json")
    with pytest.raises(ConnectError, match="cannot be read: No such file"):
        Node()


FLOW = """
nodes:
  - id: send
    path: send.py
    outputs: [out]
  - id: receive
    path: receive.py
    inputs:
      in: {source: send/out, queue_size: 100}
    outputs: [echo]
"""
SEND = """
import pyarrow as pa
from dora import Node
node = Node()
node.send_output("out", pa.array([1, 2]), {"k": [1, 2], "note": None})
node.send_output("out", pa.array(["text"]))
"""
RECEIVE = """
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("echo", event["value"], event["metadata"])
"""


@pytest.mark.processes
def test_recorded_inputs_can_be_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flow").mkdir()
    for name, text in (("flow.yml", FLOW), ("send.py", SEND), ("receive.py", RECEIVE)):
        (tmp_path / "flow" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DORA_WRITE_EVENTS_TO", "recorded")
    dora.run("flow/flow.yml")
    monkeypatch.delenv("DORA_WRITE_EVENTS_TO")
    recording = json.loads((tmp_path / "recorded" / "inputs-receive.json").read_text())
    assert recording["id"] == "receive"
    assert recording["recording_status"] == {"state": "clean"}
    assert [event["type"] for event in recording["events"]] == [
        "Input",
        "Input",
        "InputClosed",
        "AllInputsClosed",
    ]
    first = recording["events"][0]
    assert (first["id"], first["data"], first["data_type"]) == ("in", [1, 2], "Int64")
    assert first["metadata"] == {"k": {"ListInt": [1, 2]}, "note": {"Json": None}}
    assert json.loads((tmp_path / "recorded" / "inputs-send.json").read_text())["events"] == []
    monkeypatch.setenv("DORA_TEST_WITH_INPUTS", "recorded/inputs-receive.json")
    done = subprocess.run([sys.executable, "flow/receive.py"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    rows = [json.loads(line) for line in Path("recorded/outputs.jsonl").read_text().splitlines()]
    assert [row["data"] for row in rows] == [[1, 2], ["text"]]


def test_a_recording_is_valid_and_poisoned_until_its_node_ends(tmp_path: Path) -> None:
    from dora.node.events import Input, Text
    from dora.node.interceptors.input_recorder import InputRecorder

    recorder = InputRecorder("n", str(tmp_path))
    file = tmp_path / "inputs-n.json"
    assert json.loads(file.read_text())["recording_status"]["state"] == "poisoned"
    for number in range(3):
        recorder.after_poll(Input.make("a", Text(f"line {number}", 0)))
        recording = json.loads(file.read_text())
        assert len(recording["events"]) == number + 1
        assert recording["recording_status"]["first_failure_event_index"] == number + 1
    recorder.close()
    assert json.loads(file.read_text())["recording_status"] == {"state": "clean"}


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (pa.array([(1, 2, 3)], pa.month_day_nano_interval()), "has no form in a recording"),
        (pa.array([2**62], pa.timestamp("us")), "out of range"),  # no time that Python knows
    ],
)
def test_an_unrecordable_event_poisons_the_recording_and_not_the_node(
    array: Any,
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dora.node.events import Input, Reference, Text
    from dora.node.interceptors.input_recorder import InputRecorder

    recorder = InputRecorder("n", str(tmp_path))
    recorder.after_poll(Input.make("a", Reference(array, {}, 0)))
    recorder.after_poll(Input.make("a", Text("more", 0)))
    recorder.close()
    recording = json.loads((tmp_path / "inputs-n.json").read_text())
    assert recording["events"] == []
    assert reason in recording["recording_status"]["first_failure_error"]
    assert "the recording of inputs stops" in capsys.readouterr().out


def test_a_recording_that_a_full_disk_ends_is_poisoned_and_ends_without_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dora.node.events import Input, Text
    from dora.node.interceptors.input_recorder import InputRecorder

    recorder = InputRecorder("n", str(tmp_path))
    recorder.after_poll(Input.make("a", Text("text", 0)))
    with file_limit(1):
        recorder.close()
    recording = json.loads((tmp_path / "inputs-n.json").read_text())
    assert len(recording["events"]) == 1
    assert recording["recording_status"]["state"] == "poisoned"
    assert "the recording of inputs stops" in capsys.readouterr().out


def converse(script: Path, *answers: str) -> str:
    """Run a program in a terminal of its own; answer each of its questions; return what was shown."""
    leader, follower = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DORA_")}
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=environment | {"TERM": "dumb"},
        start_new_session=True,
    )
    os.close(follower)
    shown, answered, deadline = "", 0, time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([leader], (), (), 0.1)[0]:
            try:
                data = os.read(leader, 4096)
            except OSError:  # the program has ended
                break
            if not data:
                break
            shown += data.decode()
        if answered < len(answers) and shown.count("]: ") > answered:
            os.write(leader, answers[answered].encode())
            answered += 1
    process.wait(60)
    os.close(leader)
    return shown + f"\n(status {process.returncode})"


@pytest.mark.processes
def test_a_person_at_a_terminal_can_play_the_dataflow(tmp_path: Path) -> None:
    script = tmp_path / "node.py"
    script.write_text(RECEIVE + "print('after', event['type'], event['id'])\n")
    shown = converse(
        script,
        "a\n",
        "[1, 2]\n",
        "b\n",
        "hello\n",
        "c\n",
        "HEX:0a0b\n",
        "d\n",
        "HEX:xyz\n",
        "d\n",
        "\n",
        "\n",
    )
    assert "no dataflow started it" in shown
    assert "node sends output `echo` (list<item: int64>): [[1, 2]]" in shown
    assert "node sends output `echo` (string): ['hello']" in shown
    assert "node sends output `echo` (uint8): [10, 11]" in shown
    assert "try again" in shown
    assert "node sends output `echo` (null): []" in shown
    assert "after STOP MANUAL" in shown
    assert shown.endswith("(status 0)")


@pytest.mark.processes
def test_the_end_of_input_at_a_terminal_is_a_stop(tmp_path: Path) -> None:
    script = tmp_path / "node.py"
    script.write_text(RECEIVE)
    assert converse(script, "\x04").endswith("(status 0)")
