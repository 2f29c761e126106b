"""``dora topic``, ``dora node`` and ``dora top`` on dataflows of real processes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from datetime import UTC, datetime

import pytest
from on_terminal import on_terminal
from shared_template import left_by_runs
from waiting import TIMEOUT, wait_until
from watching import DORA, FLOW, Running, dora, end, shared_memory

from dora.transport.board import SENT, Board

pytestmark = pytest.mark.processes


def counts_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def top() -> dict[str, dict]:
    return {
        item["node"]: item for item in json.loads(dora("top", "--once", "--refresh-interval", "0.2").stdout)
    }


@pytest.mark.slow
@pytest.mark.usefixtures("arm")
def test_one_measurement_is_tables_on_a_terminal_and_json_for_scripts() -> None:
    with on_terminal("top", "--once", "--refresh-interval", "0.2") as command:
        assert command.end() == 0
        text = re.sub(r"\x1b\[[0-9;]*m|\r", "", command.text)
        nodes, links, *_ = text.split("\n\n")
    assert nodes.split()[:3] == ["NODE", "STATUS", "CPU"] and "\ncamera" in nodes
    assert links.split()[:2] == ["LINK", "RATE"] and "camera/image -> sink/image" in links
    assert dora("top", "--once", "-f", "table").stdout.split()[:2] == ["NODE", "STATUS"]
    refused = dora("top", "--format", "json", status=2)
    assert "error: --format goes with --once" in refused.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("arm")
def test_lists_show_topics_and_nodes() -> None:
    assert dora("topic", "list").stdout.splitlines() == [
        "Node    Name   Subscribers",
        "camera  image  sink/image, hands/a/x",
        "camera  spare",
        "hands   a/out  hands/b/x",
        "hands   b/out",
    ]
    assert counts_of(dora("topic", "list", "-f", "json").stdout)[0] == {
        "node": "camera",
        "name": "image",
        "subscribers": ["sink/image", "hands/a/x"],
    }
    head, camera, *_ = dora("node", "list").stdout.splitlines()
    assert head.split() == ["NODE", "STATUS", "PID", "CPU", "MEMORY", "RESTARTS", "DATAFLOW"]
    assert re.match(r"camera +Running +\d+ +[\d.]+% +[\d.]+ MB +0 +arm$", camera)
    assert "dataflow" not in counts_of(dora("node", "list", "-f", "json", "-d", "arm").stdout)[0]
    assert dora("node", "list", "-q").stdout.split() == ["camera", "sink", "hands"]
    info = json.loads(dora("node", "info", "camera", "-f", "json").stdout)
    assert info["node_id"] == "camera"
    assert info["dataflow"] == "arm"
    assert info["outputs"] == [
        {"id": "image", "subscribers": ["sink/image", "hands/a/x"]},
        {"id": "spare", "subscribers": []},
    ]
    assert info["inputs"] == [{"id": "tick", "source": "dora/timer/millis/20"}]
    assert (info["restart_policy"], info["max_restarts"]) == ("Never", 0)
    assert info["metrics"]["status"] == "Running"
    described = dora("node", "info", "camera").stdout
    assert re.search(r"^Dataflow +arm \(.*\)$", described, re.MULTILINE)
    assert "image -> sink/image, hands/a/x" in described
    assert "did you mean `camera`?" in dora("node", "info", "camrea", status=1).stderr


# What dora-rs 1.1.0 prints as JSON. It has nothing below these keys that is not here.
THEIRS = {
    "node list": {"node", "status", "pid", "cpu", "memory", "restarts", "dataflow"},
    "node info": {
        *("node_id", "dataflow", "path", "outputs", "inputs", "restart_policy", "max_restarts"),
        *("metrics.status", "metrics.pid", "metrics.cpu", "metrics.memory"),
        *("metrics.restart_count", "metrics.pending_messages"),
    },
    "top": {
        *("dataflow_id", "dataflow_name", "node_id", "daemon_id.machine_id", "daemon_id.uuid", "network"),
        *("metrics.pid", "metrics.cpu_usage", "metrics.memory_mb", "metrics.disk_read_mb_s"),
        *("metrics.disk_write_mb_s", "metrics.restart_count", "metrics.broken_inputs", "metrics.status"),
        "metrics.pending_messages",
    },
}


def keys_of(value: dict) -> set[str]:
    found = set()
    for key, item in value.items():
        found |= {f"{key}.{below}" for below in keys_of(item)} if isinstance(item, dict) else {key}
    return found


@pytest.mark.usefixtures("arm")
def test_json_has_the_keys_of_dora_rs() -> None:
    (listed, *_) = counts_of(dora("node", "list", "-f", "json").stdout)
    info = json.loads(dora("node", "info", "camera", "-f", "json").stdout)
    (first, *_) = json.loads(dora("top", "--once", "--refresh-interval", "0.2").stdout)
    for name, found in (("node list", listed), ("node info", info), ("top", first)):
        assert THEIRS[name] - keys_of(found) == set(), name
    assert listed["status"] == info["metrics"]["status"] == first["status"] == "Running"
    assert first["metrics"]["status"] == "running"  # so it is in dora-rs
    assert first["node_id"] == first["node"] and first["dataflow_name"] == first["dataflow"]


@pytest.mark.slow
def test_echo(running: Running, engine: str) -> None:  # noqa: ARG001
    running()
    (line,) = dora("topic", "echo", "camera/image", "--count", "1").stdout.splitlines()
    assert re.match(
        r"camera/image\t data=\[(\d+), .*, … 29,984 more uint8\] metadata=\{\"width\": 100\} "
        r"time=\d\d:\d\d:\d\d\.\d{3}$",
        line,
    )
    observer = running.popen([*DORA, "topic", "echo", "-f", "json"], stdout=subprocess.PIPE, text=True)
    assert observer.stdout is not None
    found: dict[str, dict] = {}
    # Also what feeds no input, and what passes by reference.
    while set(found) != {"camera/image", "camera/spare", "hands/a/out", "hands/b/out"}:
        item = json.loads(observer.stdout.readline())
        found[item["name"]] = item
    observer.send_signal(signal.SIGINT)
    observer.communicate(timeout=TIMEOUT)
    image = found["camera/image"]
    assert (len(image["data"]), image["length"], image["metadata"]) == (16, 30_000, {"width": 100})
    (full,) = counts_of(
        dora("topic", "echo", "camera/image", "--full", "-f", "json", "--count", "1").stdout
    )
    assert len(full["data"]) == 30_000 and "length" not in full


@pytest.mark.slow
def test_hz_and_info_measure_the_rate(running: Running, engine: str) -> None:  # noqa: ARG001
    running()

    def measured() -> bool:
        head, *rows = dora("topic", "hz", "--duration", "1").stdout.splitlines()
        assert head == "topic\tavg_ms\tavg_hz\tmin_ms\tmax_ms\tstd_ms\tsamples"
        found = {row.split("\t")[0]: [float(cell) for cell in row.split("\t")[1:]] for row in rows}
        assert set(found) == {"camera/image", "camera/spare", "hands/a/out", "hands/b/out"}
        assert all(least <= mean_ms <= most for mean_ms, _, least, most, _, _ in found.values())
        return all(
            15 < mean_ms < 80 and 12 < hz < 66 and samples > 5
            for mean_ms, hz, _, _, _, samples in found.values()
        )

    wait_until(measured, "a second in which the machine lets the timer tick")

    def reported() -> str:
        info = dora("topic", "info", "camera/image", "--duration", "0.5").stdout
        return info if "taken after" in info else ""

    info = wait_until(reported, "half a second in which a message comes")
    assert re.search(r"^Type +uint8$", info, re.MULTILINE)
    assert re.search(r"sink/image: \d+ taken, 0 dropped, queue of 4, back-pressure, taken after \d", info)
    rate = re.search(r"^Rate +([\d.]+) Hz$", info, re.MULTILINE)
    bandwidth = re.search(r"^Bandwidth +([\d.]+) ([kM])B/s$", info, re.MULTILINE)
    count = re.search(r"^Messages +(\d+) in", info, re.MULTILINE)
    assert rate and bandwidth and count
    unit = {"k": 1e3, "M": 1e6}[bandwidth[2]]
    seconds = int(count[1]) / float(rate[1])
    # A sender counts a message before its bytes, so the two may be a message apart; and the bandwidth is
    # rounded to a tenth of its unit.
    apart = 30_000 + 0.05 * unit * seconds + 100
    assert float(bandwidth[1]) * unit * seconds == pytest.approx(30_000 * int(count[1]), abs=apart)


@pytest.mark.slow
def test_published_messages_are_counted_like_others(running: Running) -> None:
    process = running(FLOW.replace("millis/20", "millis/200"))  # no queue overflows on a busy machine
    assert dora("topic", "pub", "camera/image", '"hello"', "--count", "3").stdout == (
        "Published to `camera/image` 3 times\n"
    )
    wait_until(lambda: running.log().count("got hello") == 3, "three greetings")
    # Through an operator, to its neighbour as well.
    echo = running.popen(
        [*DORA, "topic", "echo", "hands/b/out", "-f", "json"], stdout=subprocess.PIPE, text=True
    )
    assert echo.stdout is not None
    echo.stdout.readline()
    dora("topic", "pub", "hands/a/out", '["hey"]')
    for line in echo.stdout:
        if json.loads(line)["data"] == ["hey"]:
            break
    echo.send_signal(signal.SIGINT)
    assert echo.wait(TIMEOUT) == 0
    echo.stdout.close()
    links = {f"{link['source']} -> {node}": link for node, item in top().items() for link in item["inputs"]}
    assert links["camera/image -> sink"]["dropped_messages"] == 0
    end(process)
    assert process.returncode == 0
    assert "not received" not in running.log()


@pytest.mark.slow
def test_pub_refuses_invalid_data(running: Running) -> None:
    running.program(
        "deaf.py", "import time\nfrom dora import Node\nnode = Node()\nwhile True: time.sleep(0.1)\n"
    )
    flow = (
        FLOW
        + "      - {id: deaf, path: deaf.py, outputs: [o]}\n"
        + "      - {id: late, path: dynamic, outputs: [o]}\n"
    )
    running(flow, "arm", "--grace-duration", "100ms")
    for arguments, says in [
        (["camera/image", "[1, {}]"], "the message has no Arrow type"),
        (["camera/image", "{"], "the message is not JSON"),
        (["camera/image", "--file", "nothing.json"], "nothing.json cannot be read: No such file"),
        (["camera/imge", "1"], "did you mean `camera/image`?"),
        (["late/o", "1"], "node `late` is not running (it is not connected)"),
        (["camera/image", json.dumps(list(range(200_000)))], "at most 1,044,480 can be published"),
        (["deaf/o", "1"], "node `deaf` has not polled for events for 3 s"),
    ]:
        if len(arguments[1]) > 100_000:
            (running.directory / "large.json").write_text(arguments[1])
            arguments = [arguments[0], "--file", str(running.directory / "large.json")]
        assert says in dora("topic", "pub", *arguments, status=1).stderr
    assert dora("topic", "pub", "camera/image", status=2).stderr.startswith(
        "error: give the message either"
    )


@pytest.mark.slow
def test_unknown_names_and_dataflows_are_refused(running: Running) -> None:
    for arguments in (["topic", "list"], ["topic", "echo"], ["top", "--once"]):
        assert dora(*arguments, status=1).stderr == (
            "error: no dataflow is running; start one with `dora run FILE`\n"
        )
    running()
    for name, says in [
        ("camera/imge", "this dataflow has no output `camera/imge`; did you mean `camera/image`?"),
        ("spare", "this dataflow has no output `spare`; did you mean `camera/spare`?"),
        ("camera", "`camera` is a node; its outputs are `camera/image` and `camera/spare`"),
        ("dora/timer/millis/20", "`dora/timer/millis/20` is generated inside each node that uses it"),
        ("xyz/q", "this dataflow has no output `xyz/q`; `dora topic list` shows them all"),
    ]:
        for command in ("echo", "hz", "info"):
            assert says in dora("topic", command, name, status=1).stderr
    running(FLOW, "leg")
    assert "more than one dataflow is running" in dora("topic", "list", status=1).stderr
    assert dora("topic", "echo", "camera/image", "-d", "leg", "--count", "1").stdout
    assert {item["dataflow"] for item in counts_of(dora("node", "list", "-f", "json").stdout)} == {
        "arm",
        "leg",
    }
    assert "needs a terminal" in dora("top", status=1).stderr


def test_an_observer_ends_with_the_dataflow(running: Running, engine: str) -> None:  # noqa: ARG001
    process = running()
    echo = running.popen(
        [*DORA, "topic", "echo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert echo.stdout is not None
    echo.stdout.readline()
    end(process)
    _, errors = echo.communicate(timeout=TIMEOUT)
    assert echo.returncode == 0
    reported = errors.splitlines()  # on a busy machine also that messages came faster than it could read
    assert reported[-1] == "the dataflow has ended"
    assert all("came faster than they could be read" in line for line in reported[:-1])
    assert process.returncode == 0


@pytest.mark.slow
def test_a_killed_observer_leaves_nothing(running: Running) -> None:
    pytest.importorskip("iceoryx2")
    process = running()
    root = os.environ["DORA_RUNTIME_DIR"]
    # With the first large message a sender gets more memory, and gives back what it had.
    dora("topic", "echo", "--count", "40")
    before = shared_memory(root)
    observers = [
        running.popen([*DORA, "topic", "echo"], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for observer in observers:
        assert observer.stdout is not None
        observer.stdout.readline()
        assert shared_memory(root) - before, "an observer has memory of its own"
        observer.kill()
        observer.wait()
        observer.stdout.close()
    wait_until(lambda: shared_memory(root) <= before, "the killed observer to be cleaned up")
    observer = running.popen([*DORA, "topic", "echo", "camera/image"], stdout=subprocess.PIPE, text=True)
    assert observer.stdout is not None
    observer.stdout.readline()
    observer.send_signal(signal.SIGINT)
    observer.communicate(timeout=TIMEOUT)
    assert observer.returncode == 0
    # With its next message the sender lets go of its half of the connection.
    wait_until(lambda: shared_memory(root) <= before, "nothing to be left of an observer that ends cleanly")
    assert dora("topic", "echo", "camera/image", "--count", "2").stdout.count("\n") == 2
    end(process)
    assert process.returncode == 0


@pytest.mark.slow
def test_a_stopped_observer_does_not_hold_up_the_dataflow(running: Running) -> None:
    """The sender of a link with back-pressure goes on although a tap takes nothing any more."""
    pytest.importorskip("iceoryx2")
    running()
    command = [*DORA, "topic", "echo", "camera/image", "--format", "json"]
    observer = running.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert observer.stdout is not None
    observer.stdout.readline()
    observer.send_signal(signal.SIGSTOP)
    try:
        (name,) = left_by_runs(os.environ["DORA_RUNTIME_DIR"])
        board = Board.open(f"/dev/shm/dora_{name}_board")
        before = board.get(3, SENT)  # after three nodes comes the first output
        wait_until(lambda: board.get(3, SENT) > before + 100, "a hundred images")
        board.close()
        assert top()["sink"]["dropped_messages"] == 0
    finally:
        continued = datetime.now(UTC)
        observer.send_signal(signal.SIGCONT)
    # After what was written before and what lay in its queue comes what was sent since.
    assert any(
        datetime.fromisoformat(json.loads(line)["timestamp"]) > continued for line in observer.stdout
    )
    observer.send_signal(signal.SIGINT)
    _, errors = observer.communicate(timeout=TIMEOUT)
    assert re.match(r"camera/image: [\d,]+ messages came faster than they could be read", errors)


@pytest.mark.slow
def test_the_number_of_observers_is_limited(running: Running) -> None:
    running()
    command = [*DORA, "topic", "echo", "camera/image"]
    observers = [running.popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        for observer in observers:
            assert observer.stdout is not None
            observer.stdout.readline()
        says = dora("topic", "echo", status=1).stderr
        assert says.startswith("error: 4 commands look at `camera/image` already")
        assert dora("topic", "echo", "camera/spare", "--count", "1").stdout
    finally:
        for observer in observers:
            observer.send_signal(signal.SIGINT)
            observer.communicate(timeout=TIMEOUT)
    assert dora("topic", "echo", "--count", "1").stdout


@pytest.mark.slow
def test_a_topic_with_a_large_queue_can_be_observed(running: Running) -> None:
    running(FLOW.replace("queue_size: 4", "queue_size: 300"))
    observer = running.popen([*DORA, "topic", "echo", "camera/image"], stdout=subprocess.PIPE, text=True)
    try:
        assert observer.stdout is not None
        observer.stdout.readline()
        says = dora("topic", "echo", "camera/image", status=1).stderr
        assert says.startswith("error: 1 command looks at `camera/image` already")
    finally:
        end(observer)


@pytest.mark.slow
@pytest.mark.usefixtures("arm")
def test_top_once() -> None:
    found = top()
    assert set(found) == {"camera", "sink", "hands"}
    assert found["camera"]["pid"] and found["camera"]["memory_mb"] > 10
    (link,) = found["sink"]["inputs"]
    assert link["source"] == "camera/image"

    def ticks() -> bool:
        found = top()
        (link,) = found["sink"]["inputs"]
        return (
            60 < found["camera"]["sent_hz"] < 140
            and 30 < link["received_hz"] < 70
            and link["bytes_per_second"] == pytest.approx(link["received_hz"] * 30_000, rel=0.1)
            and found["sink"]["seconds_since_last_message"] < 1
        )

    wait_until(ticks, "a moment in which the machine lets the timer tick")

    def latencies() -> tuple[float, float] | None:
        measured = json.loads(dora("top", "--once", "--latency", "--refresh-interval", "0.5").stdout)
        (link,) = next(item for item in measured if item["node"] == "sink")["inputs"]
        found = link["latency_median_ms"], link["latency_p99_ms"]
        return None if None in found else found

    median, p99 = wait_until(latencies, "messages on the way")
    assert 0 < median <= p99


@pytest.mark.slow
def test_top_names_inputs_that_are_closed_for_silence(running: Running) -> None:
    running.program(
        "talker.py",
        """
        from dora import Node
        node = Node()
        talks = True
        while (event := node.next(timeout=0.01)) is None or event["type"] != "STOP":
            if event is not None and event["type"] == "PARAM_UPDATE":
                talks = event["value"]
            if talks:
                node.send_output("words", b"word")
        """,
    )
    running(
        """
        nodes:
          - {id: talker, path: talker.py, outputs: [words]}
          - {id: ears, path: sink.py, inputs: {words: {source: talker/words, input_timeout: 0.2}}}
          - id: hands
            operators:
              - {id: a, python: operator_.py, inputs: {x: talker/words}, outputs: [out]}
              - {id: b, python: operator_.py, inputs: {x: {source: hands/a/out, input_timeout: 0.2}}}
        """
    )

    def broken() -> dict[str, list[str]]:
        return {name: item["broken_inputs"] for name, item in top().items()}

    none = {"talker": [], "ears": [], "hands": []}
    all_of_them = {"talker": [], "ears": ["words"], "hands": ["b/x"]}
    wait_until(lambda: broken() == none, "messages")
    dora("param", "set", "talker", "talks", "false")
    wait_until(lambda: broken() == all_of_them, "the inputs to be closed")
    dora("param", "set", "talker", "talks", "true")
    wait_until(lambda: broken() == none, "the inputs to recover")
    dora("param", "set", "talker", "talks", "false")
    wait_until(lambda: broken() == all_of_them, "the inputs to be closed again")
    dora("node", "restart", "ears")
    wait_until(lambda: broken() == all_of_them | {"ears": []}, "a new process, which has heard nothing")


@pytest.mark.usefixtures("arm")
@pytest.mark.parametrize("kind", ["dumb", "nonsense"])
def test_top_on_a_terminal_that_cannot_be_drawn_on(kind: str) -> None:
    screen, terminal = pty.openpty()
    done = subprocess.run(
        [*DORA, "top"],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": kind},
        text=True,
        timeout=TIMEOUT,
    )
    os.close(screen)
    os.close(terminal)
    assert done.returncode == 1
    assert f"error: dora top cannot draw on a terminal of the kind `{kind}`" in done.stderr


class Screen:
    """`dora top` on a terminal, and what it draws."""

    def __init__(self, running: Running, *, errors_to_terminal: bool = True) -> None:
        self.ours, self._terminal = pty.openpty()
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 140, 0, 0))
        self._before = termios.tcgetattr(self._terminal)
        self.command = running.popen(
            [*DORA, "top", "--refresh-interval", "0.2"],
            stdin=self._terminal,
            stdout=self._terminal,
            stderr=self._terminal if errors_to_terminal else subprocess.DEVNULL,
            env={**os.environ, "TERM": "xterm"},
        )
        self.shown = ""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while text not in self.shown:
            left = max(0.0, deadline - time.monotonic())
            assert select.select([self.ours], [], [], left)[0], self.shown
            self.shown += os.read(self.ours, 65536).decode(errors="replace")

    def end(self) -> int:
        """Wait until the command has given the terminal back; return its exit status."""
        self.wait_for("\x1b[?1049l")  # back from the alternate screen
        status = self.command.wait(TIMEOUT)
        assert termios.tcgetattr(self._terminal) == self._before
        return status

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.command.kill()
        self.command.wait()
        os.close(self.ours)
        os.close(self._terminal)


@pytest.mark.slow
@pytest.mark.parametrize("errors_to_terminal", [True, False])
def test_top_on_a_terminal(arm: Running, errors_to_terminal: bool) -> None:
    with Screen(arm, errors_to_terminal=errors_to_terminal) as screen:
        for text in ("camera/image -> sink/image", "sorted by name", "RESTARTS"):
            screen.wait_for(text)  # parts of the screen are drawn one after the other
        os.write(screen.ours, b"c")
        screen.wait_for("sorted by CPU")
        os.write(screen.ours, b"\x1b[B\x1b[15~m")  # an arrow of another terminal, F5
        screen.wait_for("sorted by memory")
        os.write(screen.ours, b"\x1b")
        assert screen.end() == 0


@pytest.mark.slow
def test_the_keys_of_top_change_a_running_dataflow(running: Running) -> None:
    running()
    with Screen(running) as screen:
        screen.wait_for("camera/image -> sink/image")
        for keys, answers in [
            (b"o", ["output camera/image (Esc closes)", "data=["]),
            (b"\x1b", ["log of all nodes"]),
            (b"R", ["restart node `camera`?"]),
            (b"y", ["node `camera` is restarted", "--- restart 1 ---"]),  # the second is in the log
            (b"S", ["stop dataflow `arm`"]),
            (b"y", ["has ended (any key leaves)"]),
        ]:
            screen.shown = ""
            os.write(screen.ours, keys)
            for answer in answers:
                screen.wait_for(answer)
        os.write(screen.ours, b"x")
        assert screen.end() == 0


def test_a_terminated_top_gives_the_terminal_back(arm: Running) -> None:
    with Screen(arm) as screen:
        screen.wait_for("camera/image -> sink/image")
        screen.command.terminate()
        assert screen.end() == 130


def test_an_operator_without_an_id_has_the_ports_of_its_node(running: Running) -> None:
    running.program(
        "stereo.py",
        """
        from dora import DoraStatus

        class Operator:
            def on_event(self, dora_event, send_output):
                if dora_event["type"] == "INPUT":
                    send_output("speed", b"fast")
                    send_output("sped", b"typo")
                return DoraStatus.CONTINUE
        """,
    )
    running.program("sink.py", "from dora import Node\nfor event in Node(): pass\n")
    running(
        """
        nodes:
          - id: stereo
            operator: {python: stereo.py, inputs: {tick: dora/timer/millis/20}, outputs: [speed]}
          - id: sink
            path: sink.py
            inputs: {speed: stereo/speed, again: stereo/op/speed}
        """
    )
    assert dora("topic", "list").stdout.splitlines() == [
        "Node    Name   Subscribers",
        "stereo  speed  sink/speed, sink/again",
    ]
    for name in ("stereo/speed", "stereo/op/speed"):  # dora-rs writes the second
        (shown,) = dora("topic", "echo", name, "--count", "1").stdout.splitlines()
        assert shown.startswith("stereo/speed\t")
    wait_until(lambda: "sped" in running.log(), "the warning")
    assert "output `sped` is not declared for node `stereo`, did you mean `speed`?" in running.log()
    assert "`op`" not in running.log()
