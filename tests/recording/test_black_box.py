"""The black box of runs of real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recording_flows import Folder, said
from test_recorded_context import channel
from waiting import TIMEOUT, guardian_of, wait_until

from dora.cluster.dashboard.pages import _keeps_black_box
from dora.daemon.client import running as connected_runs
from dora.daemon.run_directory import remove_stale
from dora.observe.tap_session import inspect
from dora.recording.opening import open_recording
from dora.transport.shm.ring_buffer import AVAILABLE

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not AVAILABLE, reason="a black box is for Linux"),
]

SOURCE = """
    import numpy as np
    from dora import Node

    node = Node()
    for count, event in enumerate(node):
        if event["type"] == "INPUT":
            node.send_output("image", np.full(100_000, count % 256, np.uint8))
            node.send_output("number", np.array([count]))
"""
FAILING = """
    from dora import Node

    node = Node()
    for event in node:
        if event["type"] == "INPUT" and event["id"] == "number" and event["value"][0].as_py() == 40:
            raise ValueError("forty")
"""
SINK = """
    from dora import Node

    for event in Node():
        pass
"""
SLOW = """
    import time
    from dora import Node

    for event in Node():
        time.sleep(0.001)
"""
FLOW = """
    nodes:
      - id: source
        path: source.py
        inputs: {tick: dora/timer/millis/20}
        outputs: [image, number]
      - id: sink
        path: sink.py
        inputs: {image: source/image, number: source/number}
"""


@pytest.fixture(autouse=True)
def programs(folder: Folder) -> None:
    folder.environment = {"DORA_BLACK_BOX": ""}  # the tests have it off
    folder.program("source.py", SOURCE)
    folder.program("sink.py", SINK)
    folder.program("failing.py", FAILING)


def saved(folder: Folder) -> list[Path]:
    """Return the files of the black boxes in a folder, by their names."""
    return sorted((folder.directory / "out").glob("*/black-box/*.mcap"))


def running(folder: Folder, flow: str = FLOW) -> Any:
    """Run a dataflow until it has sent some messages."""
    process = folder.run(flow)
    wait_until(lambda: "Running" in folder.dora("node", "list", "--format", "json"), "the nodes")
    return process


def save(folder: Folder, *arguments: str) -> str:
    """Save, as soon as there are messages; return what the command said."""
    found: list[str] = []

    def has_messages() -> bool:
        found.append(folder.dora("save", *arguments))
        return "saved 0 messages" not in found[-1] and "no messages" not in found[-1]

    wait_until(has_messages, "messages in the black box")
    return found[-1]


def has_black_box() -> bool:
    """Return whether the page of the only run finds its black box."""
    (run,) = connected_runs()
    with run:
        subject: Any = SimpleNamespace(view=SimpleNamespace(uuid=run.description.dataflow_id))
        return _keeps_black_box(subject)


@pytest.mark.slow
def test_a_failure_is_saved_and_the_report_names_the_file(folder: Folder) -> None:
    process = folder.start("run", folder.flow(FLOW.replace("sink.py", "failing.py")), "--stop-after", "8s")
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    (path,) = saved(folder)
    assert path.name.endswith("-failed.mcap")
    assert f"dora debug {path.relative_to(folder.directory)} sink --at failure" in errors
    with open_recording(str(path)) as recording:
        found = {topic.name: topic.messages for topic in recording.topics.values()}
        assert found["source/number"] >= 41, "small messages are whole, to the failure and after it"
        assert found["source/image"] >= 1
        assert recording.end is not None
        assert recording.end.failed == ["sink"]
        assert recording.has_orders()
        numbers = [item.sequence for item in recording.messages(["source/number"])]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        values = [item.message.small_body for item in recording.messages(["source/number"])]
        assert len(set(values)) == len(values)
    (mark,) = [mark for _, mark in channel(path, "dora/mark") if mark["kind"] == "failed"]
    assert (mark["node"], "ValueError: forty" in mark["text"]) == ("sink", True)
    assert {value["node"] for _, value in channel(path, "dora/parameters")} == {"source", "sink"}
    states = [state for _, state in channel(path, "dora/state")]
    assert {node["id"] for node in states[-1]["nodes"]} == {"source", "sink"}
    folder.dora("info", str(path))


@pytest.mark.slow
def test_a_node_that_is_killed_loses_nothing(folder: Folder) -> None:
    process = running(folder)
    save(folder)  # so there are messages
    (run,) = connected_runs()
    with run:
        (pid,) = (node.pid for node in inspect(run).nodes if node.id == "source")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT)
    path = next(path for path in saved(folder) if path.name.endswith("-failed.mcap"))
    with open_recording(str(path)) as recording:
        assert recording.end is not None
        assert recording.end.failed == ["source"]
        assert recording.end.topics["source/number"].lost <= 1, "one may be counted before it is sent"


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True])
def test_a_run_that_is_killed_is_saved(folder: Folder, everything: bool) -> None:
    process = running(folder)
    save(folder)
    before = saved(folder)
    if everything:
        guardian = guardian_of(process.pid)
        assert guardian is not None
        process.send_signal(signal.SIGSTOP)  # else it would start another guardian
        os.kill(guardian, signal.SIGKILL)
    process.kill()
    process.communicate(timeout=TIMEOUT)
    if everything:
        remove_stale(folder.root)  # as the next start does
    wait_until(lambda: len(saved(folder)) > len(before), "the file of the killed run")
    (path,) = set(saved(folder)) - set(before)
    assert path.name.endswith("-killed.mcap")
    wait_until(lambda: not [name for name in os.listdir("/dev/shm") if "dora-box" in name], "no leftover")
    with open_recording(str(path)) as recording:
        assert recording.topics["source/number"].messages > 0
        assert recording.end is not None


@pytest.mark.slow
def test_a_user_saves_with_a_note_and_few_files_stay(folder: Folder) -> None:
    process = running(folder, "black_box: {files: 2}\n" + FLOW.replace("\n    ", "\n"))
    assert has_black_box()
    text = save(folder, "--note", "look here")
    (first,) = saved(folder)
    assert str(first.relative_to(folder.directory)) in text
    assert ("note", "look here") in [
        (mark["kind"], mark["text"]) for _, mark in channel(first, "dora/mark")
    ]
    for _ in range(2):
        folder.dora("save")
    assert len(saved(folder)) == 2, "the oldest goes"
    assert first not in saved(folder)
    folder.dora("save", "-o", "mine.mcap")
    assert len(saved(folder)) == 2
    assert "mine.mcap exists already" in folder.dora("save", "-o", "mine.mcap", status=1)
    assert "does not exist" in folder.dora("save", "-o", "no/mine.mcap", status=1)
    process.send_signal(signal.SIGINT)
    said(process)


@pytest.mark.slow
def test_saves_at_the_same_time_get_a_file_each(folder: Folder) -> None:
    process = running(folder, FLOW)
    save(folder)
    before = len(saved(folder))
    saves = [folder.start("save") for _ in range(4)]
    for command in saves:
        said(command)
    assert len(saved(folder)) == before + 4
    for path in saved(folder):
        with open_recording(str(path)) as recording:
            assert recording.end is not None
            assert recording.topics["source/number"].messages > 0
    process.send_signal(signal.SIGINT)
    said(process)


@pytest.mark.slow
def test_what_is_left_out_is_not_kept_and_an_output_saves(folder: Folder) -> None:
    flow = "black_box: {leave_out: [source/image], save_on: [source/number]}\n" + FLOW.replace(
        "\n    ", "\n"
    )
    process = running(folder, flow)
    wait_until(lambda: bool(saved(folder)), "the file that the output saves")
    path = saved(folder)[0]
    assert path.name.endswith("-output.mcap")
    with open_recording(str(path)) as recording:
        assert set(recording.start.topics) == {"source/number"}
    process.send_signal(signal.SIGINT)
    said(process)


def test_a_missed_budget_that_says_so_is_saved(folder: Folder) -> None:
    folder.program("slow.py", SLOW)
    paths = "paths: [{from: source/number, to: sink/number, budget: 1us, on_miss: save}]\n"
    process = running(folder, paths + FLOW.replace("sink.py", "slow.py").replace("\n    ", "\n"))
    wait_until(lambda: bool(saved(folder)), "the file of the missed budget")
    path = saved(folder)[0]
    assert path.name.endswith("-missed.mcap")
    marks = [mark for _, mark in channel(path, "dora/mark") if mark["kind"] == "missed"]
    assert marks[0]["node"] == "sink"
    assert "source/number" in marks[0]["text"]
    process.send_signal(signal.SIGINT)
    said(process)


def test_a_safe_state_is_saved(folder: Folder) -> None:
    folder.program(
        "silent.py",
        """
        import numpy as np
        from dora import Node

        node = Node()
        for count, event in enumerate(node):
            if event["type"] == "INPUT" and count < 20:
                node.send_output("number", np.array([count]))
        """,
    )
    safe = "number: {safe_state: {value: [-1], type: int64, silence: 200ms}}"
    flow = FLOW.replace("source.py", "silent.py").replace(
        "outputs: [image, number]", f"outputs: [{{{safe}}}]"
    )
    process = running(folder, flow.replace("image: source/image, ", ""))
    wait_until(lambda: bool(saved(folder)), "the file of the safe state")
    path = saved(folder)[0]
    assert path.name.endswith("-safe-state.mcap")
    (mark, *_) = [mark for _, mark in channel(path, "dora/mark") if mark["kind"] == "safe_state"]
    assert (mark["node"], "`number`" in mark["text"]) == ("sink", True)
    process.send_signal(signal.SIGINT)
    said(process)


def test_an_order_to_save_what_is_off_says_so(folder: Folder) -> None:
    folder.environment["DORA_BLACK_BOX"] = "off"
    process = running(folder)
    assert "the black box of this dataflow is off" in folder.dora("save", status=1)
    assert not has_black_box(), "so its page has no axis"
    process.send_signal(signal.SIGINT)
    said(process)


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_named_and_the_run_goes_on(folder: Folder) -> None:
    process = running(folder)
    (run,) = connected_runs()
    with run:
        out = folder.directory / "out" / run.description.dataflow_id
    out.mkdir(parents=True, exist_ok=True)
    (out / "black-box").write_text("in the way")
    assert "black-box" in folder.dora("save", status=1)
    (out / "black-box").unlink()
    save(folder)
    process.send_signal(signal.SIGINT)
    said(process)


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_nothing_and_the_run_goes_on(
    folder: Folder, small_disk: Path
) -> None:
    noise = "np.random.default_rng(count).integers(0, 256, 100_000, np.uint8)"  # compresses to nothing less
    folder.program("source.py", SOURCE.replace("np.full(100_000, count % 256, np.uint8)", noise))
    process = running(folder)
    (run,) = connected_runs()
    with run:
        out = folder.directory / "out" / run.description.dataflow_id
    out.mkdir(parents=True, exist_ok=True)
    (out / "black-box").symlink_to(small_disk)

    def is_full() -> bool:
        command = folder.start("save")
        output, errors = command.communicate(timeout=TIMEOUT)
        assert (command.returncode == 0) == ("error:" not in errors), errors + output
        assert "Traceback" not in errors
        return "there is no room left on its disk" in errors

    wait_until(is_full, "more in the black box than the disk takes")
    assert [path.name for path in small_disk.iterdir() if not path.name.endswith(".mcap")] == []
    for path in small_disk.glob("*.mcap"):
        open_recording(str(path)).close()  # of an earlier moment, and whole
    (out / "black-box").unlink()
    save(folder)
    process.send_signal(signal.SIGINT)
    said(process)


@pytest.mark.slow
def test_a_saved_black_box_can_be_replayed(folder: Folder) -> None:
    process = running(folder)
    save(folder)
    path = saved(folder)[0]
    process.send_signal(signal.SIGINT)
    said(process)
    folder.dora("replay", str(path), "--speed", "0")


@pytest.mark.parametrize("value", ["soon", "0"])
def test_an_unreadable_duration_is_refused(folder: Folder, value: str) -> None:
    text = folder.dora("run", folder.flow(FLOW), "--black-box", value, status=2)
    assert "write for example 60s, or off" in text or "not a duration" in text


def test_messages_without_a_receiver_are_kept(folder: Folder) -> None:
    alone = FLOW.partition("      - id: sink")[0]
    process = folder.run(alone)
    save(folder, "-o", "a.mcap")
    with folder.recording() as recording:
        found = [item.sequence for item in recording.messages(["source/number"])]
        assert found == list(range(1, len(found) + 1))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=TIMEOUT)
