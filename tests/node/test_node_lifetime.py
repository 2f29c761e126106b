"""Registration of a node, its information, and the ways to end: on purpose, by accident, by Ctrl-C."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fake_daemon import FakeDaemon, StartFlow, finish
from flows import node
from waiting import TIMEOUT, wait_until

from dora import ConnectError, DaemonLost, Node, NotInDataflow, SendError, StartFailed
from dora._paths import ROOT_MARK, path_records_of
from dora._version import __version__
from dora.node import daemon_client
from dora.transport.board import CREDIT_WAITING
from dora.wire.correlation import uuid7
from dora.wire.framing import encode_frame
from dora.wire.node_protocol import Closing, InputsClosed, Ready, Register, Started, StartRefused, StopFrame
from dora.wire.path_statistics import records


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(
        node("a", outputs="out"),
        node("b", inputs={"in": ("a/out", {"queue_size": 2, "queue_policy": "backpressure"})}),
        descriptor={"nodes": [{"id": "a"}, {"id": "b"}]},
    )


# ------------------------------------------------------------------ registration


def test_the_conversation_with_the_daemon(daemon: FakeDaemon) -> None:
    daemon.node("a")
    (register,) = daemon.heard("a", Register)
    assert isinstance(register, Register)
    assert (register.pid, register.version, register.dynamic) == (os.getpid(), __version__, False)
    assert len(daemon.heard("a", Ready)) == 1


def test_the_environment_wins_over_a_given_id(daemon: FakeDaemon) -> None:
    with daemon.environment("a"):
        assert Node("something-else").id == "a"


@pytest.mark.lengthy
def test_a_second_node_in_a_process_is_the_same_node(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    first = daemon.node("a")
    with daemon.environment("a"):
        second = Node()
        gone = Node()
        del gone, first
        gc.collect()
        third = Node("another-name")
    assert len(daemon.heard("a", Register)) == 1
    receiver = daemon.node("b")
    second.send_output("out", b"1")
    third.send_output("out", b"2")
    assert [receiver.next(TIMEOUT)["data"] for _ in range(2)] == [b"1", b"2"]  # type: ignore[index]
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["level"], line["node_id"]) == ("warn", "a")
    assert "is the same node" in line["message"]
    second.close()
    with pytest.raises(SendError, match="is closed"):
        third.send_output("out", b"3")


def test_outside_a_dataflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DORA_NODE_CONFIG", raising=False)
    monkeypatch.setattr(sys, "argv", ["detector.py"])
    monkeypatch.setattr(sys, "stdin", None)  # a terminal would be asked
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # imported by another test
    with pytest.raises(NotInDataflow) as raised:
        Node()
    for part in ("DORA_NODE_CONFIG", "path: detector.py", "dora run", "path: dynamic"):
        assert part in str(raised.value)
    assert isinstance(raised.value, RuntimeError)


@pytest.mark.parametrize("text", ["{", "nonsense", "{}", '{"node_id": 5}', "[]"])
def test_a_configuration_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DORA_NODE_CONFIG", text)
    with pytest.raises(ConnectError, match="DORA_NODE_CONFIG cannot be read"):
        Node()


def test_a_daemon_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(
        "DORA_NODE_CONFIG",
        f'{{"dataflow_id": "x", "node_id": "a", "socket": "{tmp_path}/none.sock"}}',
    )
    with pytest.raises(ConnectError, match="the daemon cannot be reached"):
        Node()


@pytest.mark.parametrize("node_id", ["a/b", "", "ä", "a b", ".hidden"])
def test_an_impossible_id(monkeypatch: pytest.MonkeyPatch, node_id: str) -> None:
    monkeypatch.delenv("DORA_NODE_CONFIG", raising=False)
    with pytest.raises(ConnectError, match="is not a node id"):
        Node(node_id=node_id)


def test_a_dynamic_node_without_a_dataflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DORA_NODE_CONFIG", raising=False)
    monkeypatch.setenv("DORA_RUNTIME_DIR", str(tmp_path / "none"))
    with pytest.raises(ConnectError, match="no dataflow is running that node `viewer` could join"):
        Node("viewer")


@pytest.mark.parametrize("backlog", [100, 0])
def test_a_dataflow_that_does_not_answer_is_named(
    monkeypatch: pytest.MonkeyPatch, runtime_root: str, backlog: int
) -> None:
    monkeypatch.delenv("DORA_NODE_CONFIG", raising=False)
    monkeypatch.setattr(daemon_client, "_ANSWER_LIMIT", 0.1)
    root = Path(runtime_root)
    (root / "lock").write_bytes(ROOT_MARK)
    (root / "lock").chmod(0o600)
    (root / "0123456789ab").mkdir(mode=0o700)
    path = root / "0123456789ab" / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as suspended, socket.socket(socket.AF_UNIX) as earlier:
        suspended.bind(str(path))
        suspended.listen(backlog)
        if not backlog:  # no other one has room
            earlier.connect(str(path))
        with pytest.raises(ConnectError, match=str(path)):
            Node("viewer")


def test_a_broken_start(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a"), answer_ready=(StartRefused("node `b` ended before all nodes were ready"),)
    )
    with pytest.raises(StartFailed, match="node `b` ended"):
        daemon.node("a")


def test_a_stop_during_the_start_is_delivered(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node("a", inputs={"in": "a/out"}, outputs="out"), answer_ready=(StopFrame(), Started(0))
    )
    assert [event["type"] for event in daemon.node("a")] == ["STOP"]


def test_a_failed_start_leaves_no_node_behind(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a"), answer_ready=(StartRefused("no"),))
    with pytest.raises(RuntimeError):
        daemon.node("a")
    gc.collect()
    assert daemon.heard("a", Closing) == []


# ------------------------------------------------------------------ what it knows


def test_information(daemon: FakeDaemon) -> None:
    receiver = daemon.node("b")
    assert receiver.dataflow_id() == "test-dataflow"
    assert receiver.dataflow_descriptor()["nodes"][1]["id"] == "b"
    assert receiver.node_config() == {
        "inputs": {"in": {"source": "a/out", "queue_size": 2, "queue_policy": "backpressure"}},
        "outputs": [],
    }
    assert daemon.node("a").node_config() == {"inputs": {}, "outputs": ["out"]}
    assert (receiver.is_restart(), receiver.restart_count()) == (False, 0)
    assert abs((receiver.timestamp() - datetime.now(UTC)).total_seconds()) < 10
    assert repr(receiver) == "<dora.Node 'b' of dataflow test-dataflow>"


def test_a_restarted_node_knows(start_flow: StartFlow) -> None:
    restarted = start_flow(node("a"), restart_count=2).node("a")
    assert (restarted.is_restart(), restarted.restart_count()) == (True, 2)


def test_a_restarted_sender_continues_its_sequence_numbers(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a", outputs="out"), node("b", inputs={"in": "a/out"}))
    receiver = daemon.node("b")
    for _ in range(2):
        sender = daemon.node("a")
        sender.send_output("out", b"x")
    assert [event.sequence for event in receiver.drain()] == [1, 2]
    assert receiver.statistics()["inputs"]["in"] == {"received": 2, "dropped": 0}


def test_ids_are_uuids_of_version_7() -> None:
    made = [uuid.UUID(uuid7()) for _ in range(100)]
    assert {item.version for item in made} == {7}
    assert len(set(made)) == 100


# ------------------------------------------------------------------ ending on purpose


def test_a_with_block_closes_the_node(daemon: FakeDaemon) -> None:
    with daemon.node("a") as sender:
        sender.send_output("out", b"x")
        assert daemon.heard("a", Closing) == []
    wait_until(lambda: len(daemon.heard("a", Closing)) == 1, "the closing")


def test_a_block_that_raises_leaves_the_end_to_the_daemon(daemon: FakeDaemon) -> None:
    sender = daemon.node("a")
    with pytest.raises(KeyError), sender:
        raise KeyError
    sender.send_output("out", b"x")
    assert daemon.heard("a", Closing) == []


def test_closing_twice_is_fine(daemon: FakeDaemon) -> None:
    receiver = daemon.node("b")
    receiver.close()
    receiver.close()
    with receiver:
        pass
    assert receiver.next() is None
    assert receiver.try_recv() is None
    assert receiver.is_empty()
    assert list(receiver) == []
    wait_until(lambda: len(daemon.heard("b", Closing)) == 1, "the closing")


def test_a_node_that_is_closed_has_counted_the_latency_of_all_its_messages(daemon: FakeDaemon) -> None:
    sender, receiver = daemon.node("a"), daemon.node("b")
    sender.send_output("out", b"x")
    assert receiver.try_recv() is not None
    file = Path(path_records_of(receiver._session.board.path, receiver._session.config.node_slot))
    receiver.close()
    assert [record.messages for record in records(memoryview(file.read_bytes()).cast("Q"))] == [1]


def test_the_recording_of_a_node_that_is_closed_is_complete(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_WRITE_EVENTS_TO", str(tmp_path))
    receiver = daemon.node("b")
    receiver.close()
    assert json.loads((tmp_path / "inputs-b.json").read_text())["recording_status"] == {"state": "clean"}


def test_open_files_do_not_pile_up(daemon: FakeDaemon) -> None:
    """A notebook makes and drops nodes again and again."""

    def count() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("counts open files in /proc")
    daemon.node("b").close()
    daemon.node("a").close()
    before = count()
    for _ in range(3):
        sender, receiver = daemon.node("a"), daemon.node("b")
        sender.send_output("out", b"x")
        receiver.next(timeout=TIMEOUT)
        sender.close()
        receiver.close()
        del sender, receiver
        wait_until(lambda: len(daemon.heard("b", Closing)) > 0, "the closing")
    # What belongs to the engine stays until the process ends, see `dora.transport.shm.iceoryx2`.
    bells = [
        target
        for fd in os.listdir("/proc/self/fd")
        if (target := _target(fd)).startswith((f"{daemon.run_dir}/bell", f"{daemon.run_dir}/credit"))
    ]
    assert bells == [], f"{before} → {count()} open files"


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


# ------------------------------------------------------------------ a lost daemon


def test_a_handler_that_interrupts_a_frame_to_the_daemon_may_close_the_node(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = daemon.node("a")

    def interrupted(message: object) -> bytes:
        monkeypatch.undo()
        sender.close()
        return encode_frame(message)

    monkeypatch.setattr(daemon_client, "encode_frame", interrupted)
    with pytest.raises(DaemonLost):
        sender.set_parameters({"gain": 1})
    assert daemon.heard("a", Closing) == []


def test_a_daemon_that_is_lost_while_waiting(daemon: FakeDaemon) -> None:
    receiver = daemon.node("b")

    def lose() -> None:
        daemon.wait_for_sleep("b")
        daemon.disconnect("b")

    thread = threading.Thread(target=lose)
    thread.start()
    events = list(receiver)
    thread.join()
    assert [event["type"] for event in events] == ["ERROR"]
    assert "the daemon is gone" in events[0]["error"]
    assert not events[0].is_timeout
    assert receiver.next() is None


def test_buffered_messages_are_delivered_after_the_daemon_is_lost(daemon: FakeDaemon) -> None:
    sender, receiver = daemon.node("a"), daemon.node("b")
    sender.send_output("out", b"x")
    daemon.disconnect("b")
    assert sorted(event["type"] for event in receiver) == ["ERROR", "INPUT"]


def test_a_daemon_that_ends_after_a_stop_is_no_error(daemon: FakeDaemon) -> None:
    sender, receiver = daemon.node("a"), daemon.node("b")
    sender.send_output("out", b"x")
    daemon.send("b", InputsClosed(["in"]), StopFrame())
    daemon.disconnect("b")
    assert [event["type"] for event in receiver] == ["STOP", "INPUT", "INPUT_CLOSED"]


@pytest.mark.parametrize("poll", ["try_recv", "is_empty", "drain"])
def test_a_polling_program_learns_that_the_daemon_is_gone(daemon: FakeDaemon, poll: str) -> None:
    receiver = daemon.node("b")
    daemon.disconnect("b")
    found = {
        "try_recv": lambda: receiver.try_recv() is not None,
        "is_empty": lambda: not receiver.is_empty(),
        "drain": lambda: receiver.drain() != [],
    }[poll]
    wait_until(found, "the loss to be noticed")


def test_sending_goes_on_and_closing_works_without_a_daemon(daemon: FakeDaemon) -> None:
    sender, receiver = daemon.node("a"), daemon.node("b")
    daemon.disconnect("a")
    assert [event["type"] for event in sender] == ["ERROR"]
    sender.send_output("out", b"x")
    event = receiver.next(timeout=TIMEOUT)
    assert event is not None
    assert event["data"] == b"x"
    sender.close()


def test_a_daemon_that_is_lost_during_the_start(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a"), answer_ready=(StopFrame(),))  # and never a word of the start
    raised: list[Exception] = []

    def start() -> None:
        try:
            daemon.node("a")
        except DaemonLost as error:
            raised.append(error)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    wait_until(lambda: len(daemon.heard("a", Ready)) == 1, "the node to be ready")
    daemon.disconnect("a")
    thread.join(TIMEOUT)
    assert len(raised) == 1


@pytest.mark.processes
@pytest.mark.parametrize(
    "script",
    [
        "from dora import Node\nnode = Node()",
        "from dora import Node\nnode = Node()\nnode.me = node\ndel node",
    ],
    ids=["kept", "garbage"],
)
def test_a_program_that_closes_nothing_ends_without_a_warning_of_python(
    daemon: FakeDaemon, script: str
) -> None:
    process = daemon.start_process("a", script, PYTHONDEVMODE="1", PYTHONWARNINGS="error")
    assert finish(process) == (0, "", "")


# ------------------------------------------------------------------ signals


@pytest.mark.processes
def test_ctrl_c_while_waiting_for_an_event(daemon: FakeDaemon) -> None:
    process = daemon.start_process("b", "from dora import Node\nNode().next()")
    daemon.wait_for_sleep("b")
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert "KeyboardInterrupt" in err
    assert status == -signal.SIGINT


@pytest.mark.processes
def test_ctrl_c_while_waiting_for_credit(daemon: FakeDaemon) -> None:
    receiver = daemon.node("b")
    process = daemon.start_process(
        "a",
        """
        from dora import Node
        node = Node()
        try:
            for number in range(100):
                node.send_output("out", b"x")
        except KeyboardInterrupt:
            print("interrupted at", number)
        """,
    )
    slot = daemon.plan.configs["a"].outputs[0].slot
    wait_until(lambda: daemon.board.get(slot, CREDIT_WAITING) == 1, "the sender to wait")
    process.send_signal(signal.SIGINT)
    assert finish(process)[:2] == (0, "interrupted at 2\n")
    assert len(receiver.drain()) == 2


@pytest.mark.processes
def test_a_signal_handler_that_interrupts_a_send_cannot_send_on_the_same_output(daemon: FakeDaemon) -> None:
    receiver = daemon.node("b")
    process = daemon.start_process(
        "a",
        """
        import signal
        from dora import Node, SendError
        node = Node()

        def stop(*_):
            try:
                node.send_output("out", b"stop")
            except SendError as error:
                raise SystemExit(str(error))

        signal.signal(signal.SIGTERM, stop)
        while True:
            node.send_output("out", b"x")
        """,
    )
    slot = daemon.plan.configs["a"].outputs[0].slot
    wait_until(lambda: daemon.board.get(slot, CREDIT_WAITING) == 1, "the sender to wait")
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 1 and "set a flag or raise an exception in the handler" in err
    assert len(receiver.drain()) == 2


@pytest.mark.processes
def test_a_signal_handler_may_close_the_node_that_waits(daemon: FakeDaemon) -> None:
    process = daemon.start_process(
        "b",
        """
        import signal
        from dora import Node
        node = Node()
        signal.signal(signal.SIGTERM, lambda *_: node.close())
        for event in node:
            print(event)
        print("over")
        """,
    )
    daemon.wait_for_sleep("b")
    process.send_signal(signal.SIGTERM)
    assert finish(process) == (0, "over\n", "")


@pytest.mark.processes
def test_a_signal_handler_that_returns_does_not_end_the_wait(daemon: FakeDaemon) -> None:
    sender = daemon.node("a")
    process = daemon.start_process(
        "b",
        """
        import signal
        from dora import Node
        node = Node()
        signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
        print(node.next()["data"])
        """,
    )
    daemon.wait_for_sleep("b")
    process.send_signal(signal.SIGUSR1)
    assert process.stdout is not None
    assert process.stdout.readline() == "handled\n"
    sender.send_output("out", b"x")
    assert finish(process) == (0, "b'x'\n", "")


# ------------------------------------------------------------------ the end of the process


@pytest.mark.processes
@pytest.mark.parametrize("end", ["pass", "import os; os._exit(0)", "import os; os.kill(os.getpid(), 9)"])
@pytest.mark.parametrize("size", [3, 100_000])
def test_messages_outlive_the_process_that_sent_them(daemon: FakeDaemon, end: str, size: int) -> None:
    receiver = daemon.node("b")
    process = daemon.start_process(
        "a", f"from dora import Node\nNode().send_output('out', b'x' * {size})\n{end}"
    )
    finish(process)
    event = receiver.next(timeout=TIMEOUT)
    assert event is not None
    assert event["data"] == b"x" * size


@pytest.mark.processes
def test_a_program_that_just_ends_reports_its_undeclared_outputs(daemon: FakeDaemon) -> None:
    process = daemon.start_process(
        "a", "from dora import Node\nnode = Node()\nnode.send_output('ouut', b'x')"
    )
    assert finish(process)[0] == 0
    wait_until(lambda: daemon.heard("a", Closing) == [Closing({"ouut": 1})], "the report")


@pytest.mark.processes
def test_an_uncaught_exception_leaves_the_end_to_the_daemon(daemon: FakeDaemon) -> None:
    process = daemon.start_process("a", "from dora import Node\nnode = Node()\nraise ValueError('mine')")
    status, _, err = finish(process)
    assert status == 1
    assert err.strip().endswith("ValueError: mine")
    assert daemon.heard("a", Closing) == []
