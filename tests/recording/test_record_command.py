"""``dora record`` on dataflows of real processes."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import textwrap
import urllib.request
from pathlib import Path

import pytest
from recording_flows import CAMERA, FAST, FLOW, Folder, end, numbers, said
from tokens import bearer
from waiting import TIMEOUT, all_nodes_run, wait_until

from dora.errors import DoraError
from dora.transport.shm.ring_buffer import _READ as READ
from dora.transport.shm.ring_buffer import AVAILABLE

pytestmark = pytest.mark.processes

BURST = """
    import sys
    import numpy as np
    from dora import Node

    with Node() as node:
        for number in range(1, 3001):
            node.send_output("number", np.array([number]))
            node.send_output("spare", np.array([number]))
            if number % 500 == 0:
                node.send_output("image", np.full(1_000_000, number % 256, np.uint8))
        print("sent everything")
"""
BURST_FLOW = """
    nodes:
      - id: burst
        path: burst.py
        outputs: [number, spare, image]
      - id: sink
        path: sink.py
        inputs:
          number: burst/number
"""
FAILING = """
    from dora import Node

    node = Node()
    for count, event in enumerate(node):
        if event["type"] == "INPUT":
            node.send_output("image", b"picture")
            node.send_output("spare", b"spare")
            if count == 30:
                raise SystemExit("the lens is dirty")
"""


@pytest.mark.slow
def test_together_from_the_first_message_to_the_last(folder: Folder, engine: str) -> None:  # noqa: ARG001
    folder.program("burst.py", BURST)
    text = folder.dora("record", folder.flow(BURST_FLOW), "-o", "a.mcap")
    assert "recorded 6,006 messages of 3 outputs" in text and "to a.mcap" in text
    with folder.recording() as recording:
        assert recording.complete
        assert recording.start.together
        assert recording.end is not None and recording.end.reason == "dataflow ended"
        assert numbers(recording, "burst/number") == list(range(1, 3001))
        assert numbers(recording, "burst/spare") == list(range(1, 3001)), "although it has no link"
        values = [item.message for item in recording.messages(["burst/image"])]
        assert [message.body_size for message in values] == [1_000_000] * 6
        assert recording.dataflow["nodes"][0]["id"] == "burst"


@pytest.mark.slow
def test_a_recording_goes_on_while_new_code_takes_over(folder: Folder) -> None:
    process = folder.start("record", folder.flow(FLOW), "-o", "a.mcap", "--hot-reload")
    wait_until(lambda: sum(status.messages for status in folder.recorders()) > 10, "messages")
    folder.program("camera.py", f"open('new', 'w').close()\n{textwrap.dedent(CAMERA)}")
    wait_until((folder.directory / "new").exists, "the new code")
    recorded = folder.recorders()[0].messages
    wait_until(lambda: folder.recorders()[0].messages > recorded + 10, "messages of the new code")
    assert "runs its new code" in end(process)
    with folder.recording() as recording:
        assert recording.complete
        found = numbers(recording, "camera/image")
        assert found == list(range(1, len(found) + 1))


@pytest.mark.slow
def test_attached_until_ctrl_c(folder: Folder, engine: str) -> None:  # noqa: ARG001
    folder.run()
    recorder = folder.attach("-o", "a.mcap", "--topics", "camera/image")
    (status,) = folder.recorders()
    assert (status.topics, os.path.basename(status.path)) == (["camera/image"], "a.mcap")
    wait_until(lambda: folder.recorders()[0].messages >= 20, "twenty messages")
    text = end(recorder)
    assert "recording 1 output of lab to a.mcap; Ctrl-C ends it" in text
    with folder.recording() as recording:
        assert recording.complete and not recording.start.together
        assert recording.end is not None and recording.end.reason == "asked"
        found = numbers(recording, "camera/image")
        assert found == list(range(found[0], found[0] + len(found))) and len(found) >= 20
        assert recording.topics["camera/image"].schemas == ["foxglove.RawImage"]
    assert folder.recorders() == []


@pytest.mark.slow
def test_attached_until_the_dataflow_ends(folder: Folder) -> None:
    dataflow = folder.run()
    recorder = folder.attach("-o", "a.mcap")
    wait_until(lambda: folder.recorders()[0].messages >= 20, "twenty messages")
    end(dataflow)
    text = said(recorder)
    assert "the dataflow has ended" in text
    with folder.recording() as recording:
        assert recording.complete
        assert set(recording.topics) == {"camera/image", "camera/spare"}


@pytest.mark.slow
def test_stop_from_elsewhere(folder: Folder) -> None:
    folder.run()
    recorder = folder.attach("-o", "a.mcap")
    wait_until(lambda: folder.recorders()[0].messages >= 5, "messages")
    assert "messages to a.mcap" in folder.dora("record", "--stop")
    said(recorder)
    assert "lab is not being recorded" in folder.dora("record", "--stop", status=1)


@pytest.mark.slow
def test_a_ring_is_saved_on_demand(folder: Folder) -> None:
    folder.run()
    recorder = folder.attach("--last", "1s", "-o", "a.mcap")
    wait_until(lambda: _sent() >= 80, "four seconds, of which the first are forgotten")
    assert not (folder.directory / "a.mcap").exists()
    assert "to a.mcap" in folder.dora("record", "--save")
    recorder.send_signal(signal.SIGUSR1)
    wait_until((folder.directory / "a-2.mcap").exists, "the second file")
    text = end(recorder)
    assert "keeping the last 1 s of 2 outputs of lab" in text
    for name in ("a.mcap", "a-2.mcap"):
        with folder.recording(name) as recording:
            assert recording.complete
            assert recording.start.last_seconds == 1.0
            assert recording.end is not None and recording.end.reason == "saved"
            assert numbers(recording, "camera/image")[0] > 20, "one second, and chunks of one second"
    assert "start one with `dora record --last 30s`" in folder.dora("record", "--save", status=1)


@pytest.mark.slow
def test_a_ring_is_saved_when_a_node_fails(folder: Folder) -> None:
    folder.program("camera.py", FAILING)
    text = folder.dora("record", folder.flow(), "--last", "1m", "-o", "crash.mcap", status=1)
    assert "Node `camera` exited with status 1" in text and "to crash.mcap" in text
    with folder.recording("crash.mcap") as recording:
        assert recording.end is not None and recording.end.failed == ["camera"]
        assert numbers(recording, "camera/image")[-1] >= 30
        assert recording.complete


@pytest.mark.slow
def test_a_ring_is_saved_when_a_node_fails_again(folder: Folder) -> None:
    folder.program("camera.py", FAILING)
    flow = FLOW.replace(
        "path: camera.py", "path: camera.py\n        restart_policy: on-failure\n        max_restarts: 1"
    )
    folder.dora("record", folder.flow(flow), "--last", "1s", "-o", "crash.mcap", status=1)
    for name in ("crash.mcap", "crash-2.mcap"):
        with folder.recording(name) as recording:
            assert recording.end is not None and recording.end.failed == ["camera"]


@pytest.mark.slow
def test_the_exit_status_is_that_of_the_dataflow_too(folder: Folder) -> None:
    folder.program("camera.py", FAILING)
    text = folder.dora("record", folder.flow(), "-o", "a.mcap", status=1)
    assert "recorded" in text and "INCOMPLETE" not in text
    with folder.recording() as recording:
        assert recording.complete, "every message is there"


@pytest.mark.slow
def test_a_killed_recorder_leaves_a_readable_file(folder: Folder) -> None:
    folder.run()
    recorder = folder.attach("-o", "a.mcap")
    wait_until(lambda: _written(folder, "camera/image"), "a chunk")
    ring_buffers = list(Path("/dev/shm").glob(f"dora-rings-{recorder.pid}-*"))
    assert ring_buffers or not AVAILABLE
    recorder.kill()
    recorder.wait()
    wait_until(lambda: not any(ring.exists() for ring in ring_buffers), "its ring buffers to be removed")
    with folder.recording() as recording:
        assert not recording.complete and recording.end is None
        found = numbers(recording, "camera/image")
        assert found == list(range(found[0], found[0] + len(found))) and found
    assert folder.recorders() == []
    # The next one can be attached, and the dataflow has not noticed.
    again = folder.attach("-o", "b.mcap")
    wait_until(lambda: folder.recorders() and folder.recorders()[0].messages >= 20, "twenty messages")
    end(again)


def _written(folder: Folder, topic: str) -> list[int]:
    """Return the numbers of the messages that are in the file by now."""
    try:
        with folder.recording() as recording:
            return numbers(recording, topic)
    except DoraError:
        return []  # not even its beginning


@pytest.mark.slow
def test_missed_messages_are_reported(folder: Folder) -> None:
    folder.program("camera.py", CAMERA.replace("3000", "30_000").replace('"width": 50', '"width": 500'))
    folder.run(FAST)
    recorder = folder.attach("-o", "a.mcap")
    wait_until(lambda: _reads_a_ring_buffer(recorder.pid), "messages in a ring buffer")
    recorder.send_signal(signal.SIGSTOP)
    sent = _sent()
    sent_later = wait_until(lambda: (now := _sent()) > sent + 100 and now, "more messages than a tap holds")
    recorder.send_signal(signal.SIGCONT)
    wait_until(lambda: folder.recorders()[0].messages >= 100, "messages")
    text = end(recorder, status=1)
    assert "INCOMPLETE: messages are missing:" in text and "of camera/image" in text
    with folder.recording() as recording:
        assert not recording.complete
        assert recording.end is not None
        missed = recording.end.topics["camera/image"]
        found = numbers(recording, "camera/image")
        assert missed.lost == missed.last - missed.first + 1 - len(found) > 0
        small = numbers(recording, "camera/spare")
        assert set(range(sent, sent_later)) <= set(small), "small messages wait in a ring buffer"


def _reads_a_ring_buffer(pid: int) -> bool:
    """Return whether a recorder has taken from a ring buffer. What was sent before is in queues only."""
    ring_buffers = Path("/dev/shm").glob(f"dora-rings-{pid}-*/*")
    return any(memoryview(ring.read_bytes()).cast("Q")[READ] for ring in ring_buffers)


def _sent() -> int:
    from dora.daemon.client import running
    from dora.observe.tap_session import inspect
    from dora.transport.board import SENT, Board

    (run,) = running()
    with run:
        inspection = inspect(run)
    board = Board.open(inspection.board)
    try:
        return board.get(inspection.nodes[0].outputs[0].slot, SENT)
    finally:
        board.close()


@pytest.mark.slow
def test_a_full_disk_ends_the_recording_and_not_the_dataflow(folder: Folder) -> None:
    dataflow = folder.run(FAST)
    recorder = folder.attach(
        "-o",
        "a.mcap",
        "--compression",
        "none",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY)),
    )
    text = said(recorder, status=1)
    assert "error: a.mcap cannot be written any further: there is no room left on its disk" in text
    assert "INCOMPLETE" in text
    with folder.recording() as recording:
        assert recording.end is not None and recording.end.reason == "disk full"
        assert recording.end.topics["camera/image"].lost > 0
        assert len(numbers(recording, "camera/image")) == recording.end.topics["camera/image"].messages > 0
    assert dataflow.poll() is None
    end(dataflow)


@pytest.mark.slow
def test_files_and_names_that_cannot_be(folder: Folder) -> None:
    (folder.directory / "a.mcap").write_text("precious")
    path = folder.flow()
    for arguments in (["record", path, "-o", "a.mcap"], ["record", "-o", "a.mcap"]):
        assert "a.mcap exists already; choose another file" in folder.dora(*arguments, status=1)
    assert "is a folder; give a file" in folder.dora("record", path, "-o", ".", status=1)
    assert "the folder no does not exist" in folder.dora("record", path, "-o", "no/a.mcap", status=1)
    assert "no dataflow is running" in folder.dora("record", status=1)
    text = folder.dora("record", path, "--topics", "camera/imge", "-o", "b.mcap", status=1)
    assert "this dataflow has no output `camera/imge`; did you mean `camera/image`?" in text
    assert not (folder.directory / "b.mcap").exists()
    assert "give either a dataflow file to run, or -d" in folder.dora("record", path, "-d", "x", status=2)
    assert "leave the file out" in folder.dora("record", path, "--save", status=2)
    placed = folder.flow(
        FLOW.replace("path: camera.py", "path: camera.py\n        deploy: {machine: robot}")
    )
    assert "only a coordinator knows machines" in folder.dora("record", placed, "-o", "c.mcap", status=1)
    folder.flow()
    assert "use `dora record FILE`" in folder.dora("record", path, "--output-yaml", status=2)
    folder.run()
    text = folder.dora("record", "--topics", "camera", "-o", "b.mcap", status=1)
    assert "`camera` is a node; its outputs are" in text
    assert "no running dataflow is called `nobody`" in folder.dora("record", "-d", "nobody", status=1)


@pytest.mark.slow
def test_outputs_that_come_later_are_recorded_too(folder: Folder) -> None:
    folder.run()
    recorder = folder.attach("-o", "a.mcap")
    (folder.directory / "more.yml").write_text(
        "id: more\npath: camera.py\ninputs: {tick: dora/timer/millis/50}\noutputs: [image, spare]\n"
    )
    for least in (5, 10):
        folder.dora("node", "add", "--from-yaml", "more.yml")
        wait_until(lambda: len(_written(folder, "more/image")) >= least, "its messages")  # noqa: B023
        assert "more/image" in folder.recorders()[0].topics
        folder.dora("node", "remove", "more")
    end(recorder)
    with folder.recording() as recording:
        assert recording.complete
        assert {"more/image", "camera/image"} <= set(recording.topics)


@pytest.mark.slow
def test_ctrl_c_ends_a_recording_and_its_dataflow(folder: Folder) -> None:
    recorder = folder.start("record", folder.flow(), "-o", "a.mcap")
    wait_until(lambda: folder.recorders() and folder.recorders()[0].messages >= 20, "twenty messages")
    text = end(recorder)
    assert "messages of 2 outputs" in text and "INCOMPLETE" not in text
    with folder.recording() as recording:
        assert recording.complete and recording.start.together


@pytest.mark.slow
def test_a_killed_command_leaves_a_whole_file(folder: Folder) -> None:
    command = folder.start("record", folder.flow(), "-o", "a.mcap")
    wait_until(lambda: folder.recorders() and folder.recorders()[0].messages >= 20, "twenty messages")
    command.kill()
    command.communicate()
    wait_until(lambda: not _in_use(folder), "the end of the recorder")
    with folder.recording() as recording:
        assert recording.end is not None and recording.end.reason == "dataflow ended"
        found = numbers(recording, "camera/image")
        assert found == list(range(1, len(found) + 1))


def _in_use(folder: Folder) -> bool:
    """Return whether a process has the file open."""
    path = os.path.realpath(folder.directory / "a.mcap")
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if path in {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}:
                return True
        except OSError:
            continue
    return False


@pytest.mark.slow
def test_a_killed_node_is_no_loss(folder: Folder) -> None:
    folder.run(FLOW.replace("path: camera.py", "path: camera.py\n        restart_policy: always"))
    recorder = folder.attach("-o", "a.mcap")
    for count in (20, 40):
        wait_until(lambda: folder.recorders()[0].messages >= count, "messages")  # noqa: B023
        os.kill(_camera(), signal.SIGKILL)
    wait_until(lambda: folder.recorders()[0].messages >= 60, "messages of the third process")
    end(recorder)
    with folder.recording() as recording:
        assert recording.complete
        assert recording.end is not None and recording.end.failed == ["camera"]


def _camera() -> int:
    """Return the process of the camera."""
    from dora.daemon.client import running
    from dora.observe.tap_session import inspect

    (run,) = running()
    with run:
        pid = inspect(run).nodes[0].pid
    assert pid is not None
    return pid


LATE = """
    import os, time
    import numpy as np
    from dora import Node

    with Node() as node:
        while not os.path.exists("now"):
            time.sleep(0.01)
        for number in range(20):
            node.send_output("out", np.array([number]))
"""


@pytest.mark.slow
def test_messages_of_an_ended_node_wait_for_the_recorder(folder: Folder) -> None:
    folder.program("late.py", LATE)
    folder.run(FLOW + "\n      - {id: late, path: late.py, outputs: [out]}\n")
    recorder = folder.attach("-o", "a.mcap", "--topics", "late/out")
    recorder.send_signal(signal.SIGSTOP)
    (folder.directory / "now").touch()
    wait_until(lambda: _status("late") == "Stopped", "the end of the node")
    sent = _sent()
    wait_until(lambda: _sent() > sent + 60, "the daemon's time to clean up")
    recorder.send_signal(signal.SIGCONT)
    wait_until(lambda: folder.recorders()[0].messages == 20, "all messages")
    end(recorder)
    with folder.recording() as recording:
        assert recording.complete
        assert numbers(recording, "late/out") == list(range(1, 21))


def _status(node_id: str) -> str:
    from dora.daemon.client import running
    from dora.observe.tap_session import inspect

    (run,) = running()
    with run:
        return next(node.status for node in inspect(run).nodes if node.id == node_id)


OPERATOR = """
    from dora import DoraStatus

    class Operator:
        def on_event(self, event, send_output):
            if event["type"] == "INPUT":
                send_output("out", event["value"], event["metadata"])
            return DoraStatus.CONTINUE
"""
OPERATORS = """
    nodes:
      - {id: burst, path: few.py, outputs: [number]}
      - id: hands
        operators:
          - id: a
            python: operator_.py
            inputs: {x: {source: burst/number, queue_size: 100}}
            outputs: [out]
          - id: b
            python: operator_.py
            inputs: {x: {source: hands/a/out, queue_size: 100}}
            outputs: [out]
"""
FEW = """
    import numpy as np
    from dora import Node

    with Node() as node:
        for number in range(1, 51):
            node.send_output("number", np.array([number]))
"""


def test_messages_between_operators_are_recorded(folder: Folder) -> None:
    folder.program("few.py", FEW)
    folder.program("operator_.py", OPERATOR)
    folder.dora("record", folder.flow(OPERATORS), "-o", "a.mcap")
    with folder.recording() as recording:
        assert recording.complete
        for topic in ("burst/number", "hands/a/out", "hands/b/out"):
            assert numbers(recording, topic) == list(range(1, 51)), topic


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_the_disk(folder: Folder) -> None:
    folder.run(FAST)
    os.mkfifo(folder.directory / "slow.mcap")
    reader = os.open(folder.directory / "slow.mcap", os.O_RDONLY | os.O_NONBLOCK)
    try:
        recorder = folder.attach("-o", "slow.mcap", "--force", "--compression", "none")
        wait_until(lambda: folder.recorders()[0].messages >= 60, "messages")
        # A pipe that nobody reads takes 64 KiB.
        wait_until(lambda: recorder.send_signal(signal.SIGINT) or recorder.poll() is not None, "its end")
        assert "aborted; the recording can be read up to here" in said(recorder, 130)
    finally:
        os.close(reader)


def _wait_until_it_says(command: subprocess.Popen[str], text: str) -> None:
    assert command.stderr is not None
    errors, said_so_far = command.stderr.fileno(), bytearray()
    os.set_blocking(errors, False)

    def has_said_it() -> bool:
        try:
            said_so_far.extend(os.read(errors, 65536))
        except BlockingIOError:
            pass
        return text in said_so_far.decode()

    wait_until(has_said_it, lambda: f"{text!r} in {said_so_far.decode()!r}")


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--last", "1m")])
def test_a_killed_recorder_is_reported_at_once_and_at_the_end(
    folder: Folder, tmp_path_factory: pytest.TempPathFactory, options: tuple[str, ...]
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    folder.environment["TMPDIR"] = str(temporary)
    command = folder.start("record", folder.flow(), "-o", "a.mcap", *options)
    wait_until(lambda: folder.recorders() and folder.recorders()[0].messages >= 20, "twenty messages")
    os.kill(folder.recorders()[0].pid, signal.SIGKILL)
    _wait_until_it_says(command, "the recorder was killed; the dataflow goes on unrecorded")
    assert command.poll() is None
    text = end(command, status=1)
    assert "error: the recorder was killed; what it has written can be read" in text
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_is_reported_while_the_dataflow_goes_on(folder: Folder, small_disk: Path) -> None:
    path = str(small_disk / "a.mcap")
    command = folder.start("record", folder.flow(FAST), "-o", path, "--compression", "none")
    _wait_until_it_says(command, "no room left on its disk; the dataflow goes on unrecorded")
    assert command.poll() is None
    assert "INCOMPLETE" in end(command, status=1)


def test_a_recording_and_a_replay_show_the_dashboard(folder: Folder) -> None:
    file = folder.flow()
    for command in (("record", file, "-o", "a.mcap"), ("replay", "a.mcap", "--loop")):
        process = folder.start(*command, "--ui")
        assert process.stderr is not None
        found = next(
            match for line in process.stderr if (match := re.search(r"(\S+/)open\?ticket=(\S+)", line))
        )
        asked = urllib.request.Request(f"{found[1]}api/dataflows", headers=bearer(found[2]))
        with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
            (dataflow,) = json.load(answer)
        assert (dataflow["name"], dataflow["status"]) == ("lab", "Running")
        wait_until(lambda: all_nodes_run("lab"), "all nodes")
        if command[0] == "record":
            wait_until(lambda: folder.recorders()[0].messages > 0, "a message to replay")
        end(process)


def test_the_options_of_a_run_are_refused_for_what_runs_already(folder: Folder) -> None:
    folder.run()
    told = folder.dora("record", "-d", "lab", "--ui", "--strict", status=2)
    assert told.startswith(
        "error: `--strict` and `--ui` are for a dataflow that this command runs, but lab is running already"
    )
