"""Record, replay, compare: real processes, one recording for all tests."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from recording_flows import Folder, end
from shared_template import left_by_runs, share_template
from waiting import TIMEOUT, wait_until

from dora.recording.mcap.format import TopicEnd
from dora.recording.opening import open_recording
from dora.recording.replay.replay import Replay
from dora.wire.decode import decode_arrow

pytestmark = pytest.mark.processes

FLOW = {
    "exit_when_nodes_finish": True,
    "nodes": [
        {"id": "camera", "path": "camera.py", "outputs": ["image"]},
        {"id": "gyro", "path": "gyro.py", "outputs": ["rate"]},
        {
            "id": "fusion",
            "path": "fusion.py",
            "inputs": {
                "image": {"source": "camera/image", "queue_size": 2},
                "rate": "gyro/rate",
                "tick": "dora/timer/millis/7",
            },
            "outputs": ["state"],
        },
        {"id": "poller", "path": "poller.py", "inputs": {"state": "fusion/state"}, "outputs": ["seen"]},
        {
            "id": "hands",
            "operators": [
                {"id": "a", "python": "operator_.py", "inputs": {"x": "gyro/rate"}, "outputs": ["out"]},
                {"id": "b", "python": "operator_.py", "inputs": {"x": "hands/a/out"}, "outputs": ["out"]},
            ],
        },
    ],
}
CAMERA = """
    import os, time
    import numpy as np
    from dora import Node
    node = Node()
    for number in range(20):
        time.sleep(os.urandom(1)[0] / 256 * 0.02)
        node.send_output("image", np.frombuffer(os.urandom(5000), np.uint8), {"number": number})
"""
GYRO = """
    import os, time
    import numpy as np
    from dora import Node
    node = Node()
    for _ in range(60):
        time.sleep(0.003)
        node.send_output("rate", np.frombuffer(os.urandom(8), np.uint16).astype(float))
"""
FUSION = """
    import time
    from time import time as now
    import pyarrow as pa
    from dora import Node
    node = Node()
    state = 0.0
    for event in node:
        if event["type"] != "INPUT":
            continue
        if event["id"] == "tick":
            node.send_output("state", pa.array([state, event["metadata"]["timestamp"].timestamp() % 1000]))
            state = 0.0
        else:
            state = state * 0.5 + float(event.numpy().mean())
            time.sleep(0.001)
"""
POLLER = """
    import time
    import pyarrow as pa
    from dora import Node
    node = Node()
    looks = 0
    while (event := node.next(timeout=0.002)) is not None:
        if event["type"] == "ERROR":
            looks += 1
        elif event["type"] == "INPUT":
            node.send_output("seen", pa.array([looks, int(node.is_empty())]))
"""
OPERATOR = """
    from dora import DoraStatus
    class Operator:
        count = 0
        def on_event(self, event, send_output):
            if event["type"] == "INPUT":
                self.count += 1
                send_output("out", event["value"].slice(0, 1 + self.count % 2), {})
            return DoraStatus.CONTINUE
"""
PROGRAMS = {
    "camera.py": CAMERA,
    "gyro.py": GYRO,
    "fusion.py": FUSION,
    "poller.py": POLLER,
    "operator_.py": OPERATOR,
}


class Lab:
    """A folder with a dataflow and a recording of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in PROGRAMS.items():
            self.program(name, text)
        self.flow("flow.yml", FLOW)

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def flow(self, name: str, flow: dict[str, object]) -> str:
        (self.folder / name).write_text(yaml.safe_dump(flow, sort_keys=False))
        return name

    def dora(
        self, *arguments: str, status: int = 0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "dora", *arguments],
            cwd=self.folder,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def values(self, name: str, topic: str) -> list[list[object]]:
        with open_recording(str(self.folder / name)) as recording:
            return [decode_arrow(each.message).to_pylist() for each in recording.messages([topic])]


@pytest.fixture(scope="module")
def recorded() -> Iterator[Lab]:
    folder = Path(tempfile.mkdtemp(prefix="dora-test-", dir="/tmp"))
    before = os.environ.get("DORA_RUNTIME_DIR")
    os.environ["DORA_RUNTIME_DIR"] = str(folder / "run")
    share_template(f"{folder}/run")
    lab = Lab(folder)
    try:
        lab.dora("record", "flow.yml", "-o", "a.mcap")
        yield lab
        assert not left_by_runs(f"{folder}/run"), "a run left its directory"
    finally:
        if before is None:
            del os.environ["DORA_RUNTIME_DIR"]
        else:
            os.environ["DORA_RUNTIME_DIR"] = before
        shutil.rmtree(folder)


@pytest.fixture
def lab(recorded: Lab) -> Iterator[Lab]:
    """The same for each test; programs that a test changes are put back."""
    yield recorded
    for name, text in PROGRAMS.items():
        recorded.program(name, text)


@pytest.mark.slow
def test_a_replay_at_full_speed_sends_the_same(lab: Lab) -> None:
    done = lab.dora("replay", "a.mcap", "--speed", "0", "-o", "full.mcap", "--force")
    assert "from the recording: camera, gyro; running again: fusion, poller, hands" in done.stderr
    equal = lab.dora("diff", "a.mcap", "full.mcap", "--metadata")
    assert "The recordings are equal" in equal.stdout
    assert len(lab.values("a.mcap", "camera/image")) == 20


@pytest.mark.slow
def test_a_replay_of_a_replay_in_real_time_sends_the_same(lab: Lab) -> None:
    lab.dora("replay", "a.mcap", "-o", "real.mcap", "--force")
    lab.dora("replay", "real.mcap", "--speed", "4", "-o", "again.mcap", "--force")
    lab.dora("diff", "a.mcap", "again.mcap")


@pytest.mark.slow
def test_changed_code_shows(lab: Lab) -> None:
    lab.program("fusion.py", FUSION.replace("* 0.5", "* 0.6"))
    lab.dora("replay", "a.mcap", "--speed", "0", "-o", "changed.mcap", "--force")
    done = lab.dora("diff", "a.mcap", "changed.mcap", status=1)
    assert "fusion/state" in done.stdout.splitlines()[1]
    assert "The recordings differ in 1 of 6 topics." in done.stdout


@pytest.mark.slow
def test_a_part(lab: Lab) -> None:
    with open_recording(str(lab.folder / "a.mcap")) as recording:
        times = [(each.time_ns - recording.first_ns) / 1e9 for each in recording.messages(["gyro/rate"])]
    part = ["--from", f"{(times[9] + times[10]) / 2:.9f}", "--to", f"{(times[29] + times[30]) / 2:.9f}"]
    lab.dora("replay", "a.mcap", "--speed", "0", *part, "-o", "part.mcap", "--force")
    assert lab.values("part.mcap", "gyro/rate") == lab.values("a.mcap", "gyro/rate")[10:30]
    assert len(lab.values("part.mcap", "hands/b/out")) <= 20


@pytest.mark.slow
def test_other_nodes_can_be_replaced(lab: Lab) -> None:
    done = lab.dora(
        "replay", "a.mcap", "--replace", "camera,gyro,fusion", "--speed", "0", "-o", "other.mcap", "--force"
    )
    assert "from the recording: camera, gyro, fusion; running again: poller, hands" in done.stderr
    lab.dora("diff", "a.mcap", "other.mcap")


@pytest.mark.slow
def test_variables_reach_the_nodes(lab: Lab) -> None:
    lab.program(
        "fusion.py",
        """
        import os
        from dora import Node
        for _ in Node():
            pass
        print("mode", os.environ["MODE"])
        """,
    )
    done = lab.dora("replay", "a.mcap", "--speed", "0", "--env", "MODE=quick")
    assert "mode quick" in done.stdout


@pytest.mark.slow
def test_another_dataflow(lab: Lab) -> None:
    flow = {
        "nodes": [
            FLOW["nodes"][1],  # type: ignore[index]
            {"id": "new", "path": "new.py", "inputs": {"rate": "gyro/rate"}},
        ]
    }
    lab.flow("other.yml", flow)
    lab.program(
        "new.py",
        """
        from dora import Node
        count = sum(event["type"] == "INPUT" for event in Node())
        print(f"new got {count}")
        """,
    )
    done = lab.dora("replay", "a.mcap", "other.yml", "--speed", "0")
    assert "new got 60" in done.stdout


@pytest.mark.slow
def test_free_order_delivers_all_at_full_speed(lab: Lab) -> None:
    lab.dora("replay", "a.mcap", "--free", "--speed", "0", "-o", "free.mcap", "--force")
    assert lab.values("free.mcap", "gyro/rate") == lab.values("a.mcap", "gyro/rate")
    assert len(lab.values("free.mcap", "hands/a/out")) == 60


def test_new_code_takes_over_in_a_replay_that_is_free(lab: Lab) -> None:
    program = """
        from dora import Node
        node = Node()
        print("old code")
        for event in node:
            pass
    """
    lab.program("fusion.py", program)
    command = [sys.executable, "-m", "dora", "replay", "a.mcap", "--loop", "--hot-reload"]
    with subprocess.Popen(command, cwd=lab.folder, stdout=subprocess.PIPE, text=True) as replay:
        assert replay.stdout is not None
        for line in replay.stdout:
            if "old code" in line:
                lab.program("fusion.py", program.replace("old", "new"))
            elif "new code" in line and "being started" not in line:
                replay.send_signal(signal.SIGINT)
                break
        else:
            raise AssertionError("the replay ended before the new code ran")
        replay.communicate(timeout=TIMEOUT)
    assert replay.returncode == 0


def test_step_by_step(lab: Lab) -> None:
    done = lab.dora("replay", "a.mcap", "--step", "-o", "steps.mcap", "--force", stdin="\n2\nwhat\nc\n")
    lines = done.stderr.splitlines()
    assert (
        sum("camera/image  uint8[5,000]" in line or "gyro/rate  double[4]" in line for line in lines) == 3
    )
    assert sum(line.startswith("single step:") for line in lines) == 2
    lab.dora("diff", "a.mcap", "steps.mcap")


def test_q_stops(lab: Lab) -> None:
    lab.dora("replay", "a.mcap", "--step", "-o", "stopped.mcap", "--force", stdin="3\nq\n")
    with open_recording(str(lab.folder / "stopped.mcap")) as recording:
        sent = [
            topic.messages
            for topic in recording.topics.values()
            if topic.name.split("/")[0] in ("camera", "gyro")
        ]
    assert sum(sent) <= 3


def test_a_missing_message_stops_its_receiver(lab: Lab) -> None:
    lab.program(
        "fusion.py",
        """
        import time
        from dora import Node
        for event in Node():
            pass
        time.sleep(0.1)
        """,
    )
    done = lab.dora("replay", "a.mcap", "--speed", "0")
    assert "message 1 of input `state` did not come" in done.stdout


def test_a_node_that_hangs_is_not_waited_for(lab: Lab) -> None:
    lab.program(
        "fusion.py",
        """
        from dora import Node
        node = Node()
        while (event := node.next()) is not None and event["type"] != "STOP":
            pass
        node.next()
        import os, time
        deadline = time.monotonic() + 60
        while not os.path.exists("ended") and time.monotonic() < deadline:
            time.sleep(0.01)
        """,
    )
    lab.program("poller.py", POLLER + "\n    open('ended', 'w').close()\n")
    done = lab.dora("replay", "a.mcap", "--speed", "0", "--patience", "300ms")
    assert "so this node is stopped" in done.stdout


@pytest.mark.slow
def test_a_cut_recording_is_replayed_up_to_the_cut(lab: Lab) -> None:
    whole = (lab.folder / "a.mcap").read_bytes()
    (lab.folder / "cut.mcap").write_bytes(whole[: whole.index(b"dora.end") - 100])
    with open_recording(str(lab.folder / "cut.mcap")) as recording:
        count = recording.topics["gyro/rate"].messages
    replay = ["replay", "cut.mcap", "--speed", "0", "-o", "of_cut.mcap", "--force"]
    done = lab.dora(*replay, status=1)
    assert "warning: cut.mcap: the file was cut off" in done.stderr
    assert "s; --allow-incomplete accepts that" in done.stderr.splitlines()[-1]
    assert len(lab.values("of_cut.mcap", "gyro/rate")) == count > 0
    done = lab.dora(*replay, "--allow-incomplete")
    assert done.stderr.splitlines()[-1].startswith("warning: cut.mcap: the file was cut off")
    assert len(lab.values("of_cut.mcap", "gyro/rate")) == count


def test_the_dataflow_of_a_replay_can_be_written(lab: Lab) -> None:
    lab.dora("replay", "a.mcap", "--speed", "0", "--output-yaml", "played.yml", "--force")
    done = lab.dora("record", "played.yml", "-o", "played.mcap", "--force")
    assert "path: dora-replay" in (lab.folder / "played.yml").read_text()
    assert lab.values("played.mcap", "camera/image") == lab.values("a.mcap", "camera/image"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["a.mcap", "--replace", "camra"], 1, "did you mean `camera`?"),
        (["a.mcap", "--from", "1h"], 1, "there is nothing to replay from 3600 s"),
        (["a.mcap", "--speed", "-1"], 2, "--speed has to be a number, at least 0"),
        (["a.mcap", "--hot-reload"], 2, "--hot-reload goes with --free or --loop; in recorded order,"),
        (["a.mcap", "-o", "a.mcap", "--force"], 1, "is the recording that is replayed"),
        (["a.mcap", "-o", "flow.yml"], 1, "exists already"),
        (["a.mcap", "--output-yaml", "flow.yml"], 1, "exists already"),
        (["flow.yml"], 1, "is no recording"),
        (["nowhere.mcap"], 1, "cannot be read"),
        (["a.mcap", "nowhere.yml"], 1, "nowhere.yml"),
        (["a.mcap", "--step", "--output-yaml", "x"], 2, "runs nothing"),
        (["a.mcap", "empty.yml"], 1, "no node of the dataflow is in the recording, but `camera`"),
    ],
)
def test_a_recording_that_cannot_be_replayed_is_refused(
    lab: Lab, arguments: list[str], status: int, sentence: str
) -> None:
    lab.flow("empty.yml", {"nodes": []})
    done = lab.dora("replay", *arguments, status=status)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_recording_of_a_running_dataflow_is_replayed_from_its_middle(folder: Folder) -> None:
    folder.program(
        "sum.py",
        """
        import numpy as np
        from dora import Node
        node = Node()
        total = 0.0
        for event in node:
            if event["type"] == "INPUT":
                total += float(event.numpy().sum()) if event["id"] == "image" else 0.5
                node.send_output("total", np.array([total]))
        """,
    )
    flow = """
    nodes:
      - {id: camera, path: camera.py, inputs: {tick: dora/timer/millis/40}, outputs: [image, spare]}
      - id: sum
        path: sum.py
        inputs: {image: camera/image, tick: dora/timer/millis/30}
        outputs: [total]
    """
    run = folder.run(flow)
    recorder = folder.attach("-o", "a.mcap")
    wait_until(lambda: folder.recorders()[0].messages > 100, "messages")
    end(recorder)
    end(run)
    assert folder.recording().has_orders()
    for name in ("b.mcap", "c.mcap"):
        folder.dora("replay", "a.mcap", "--speed", "0", "-o", name)
    assert "The recordings are equal" in folder.dora("diff", "b.mcap", "c.mcap")
    assert folder.recording("b.mcap").topics["sum/total"].messages > 10


@pytest.mark.slow
def test_export_to_parquet(lab: Lab) -> None:
    import pyarrow.parquet as pq

    done = lab.dora(
        "export", "a.mcap", "--parquet", "tables", "--topics", "gyro/rate,camera/image", "--force"
    )
    assert "tables/gyro/rate.parquet: 60 messages" in done.stdout
    table = pq.read_table(lab.folder / "tables/gyro/rate.parquet")
    assert table.column("value").to_pylist() == lab.values("a.mcap", "gyro/rate")
    assert table.column("sequence").to_pylist() == list(range(1, 61))
    images = pq.read_table(lab.folder / "tables/camera/image.parquet")
    assert images.column("metadata").to_pylist()[3] == '{"number": 3}'
    again = lab.dora("export", "a.mcap", "--parquet", "tables", status=1)
    assert "exists already" in again.stderr


@pytest.mark.parametrize(
    ("recorded", "has_gaps"),
    [
        (TopicEnd(5, 0, 1, 5), False),
        (TopicEnd(5, 0, 11, 15), False),
        (TopicEnd(0, 0, 0, 0), False),
        (TopicEnd(4, 1, 1, 5), True),
        (TopicEnd(4, 0, 1, 5), True),  # one was counted, and its node killed before it was sent
    ],
)
def test_numbers_are_translated_one_by_one_if_any_is_missing(recorded: TopicEnd, has_gaps: bool) -> None:
    replay = Replay.__new__(Replay)
    replay._recording = SimpleNamespace(damage="", end=SimpleNamespace(topics={"a/x": recorded}))  # type: ignore[assignment]
    assert replay._has_gaps("a/x") is has_gaps
