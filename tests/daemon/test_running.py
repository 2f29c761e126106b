"""Whole runs with real processes: starting, ending, failing, stopping."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from control_peer import Peer
from running import Bench, when
from waiting import TIMEOUT, alive, wait_until

from dora._version import __version__
from dora.daemon.daemon import Daemon
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import LocalRunOptions
from dora.dataflow.model import LogOptions, RestartOptions
from dora.transport.engines import best_engine
from dora.wire.node_config import Address, decode_address

pytestmark = pytest.mark.processes

QUICK = """
    from control_peer import Peer
    Peer().close()
"""
RECEIVER = """
    from control_peer import Peer
    node = Peer()
    node.until_closed()
    node.close()
"""
PATIENT = """
    import os
    from control_peer import Peer
    node = Peer()
    print("up", os.getpid(), flush=True)
    node.until_stop()
"""
STUBBORN = """
    import os, signal
    from control_peer import Peer
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    node = Peer()
    print("up", os.getpid(), flush=True)
    signal.pause()
"""

SENDS_ON = """
    import time
    from dora import Node
    node = Node()
    print("up", flush=True)
    while True:
        node.send_output("number", b"1")
        time.sleep(0.01)
"""


def interrupt(_: str = "") -> None:
    os.kill(os.getpid(), signal.SIGINT)


def terminate(_: str = "") -> None:
    """Send a second signal: another one than `interrupt`, so that it is none that arrived twice."""
    os.kill(os.getpid(), signal.SIGTERM)


def test_two_nodes_start_together_and_end_in_order(bench: Bench) -> None:
    result = bench.run(
        bench.node("a", QUICK, outputs=("x",)), bench.node("b", RECEIVER, inputs={"x": "a/x"})
    )
    assert result.ok
    assert result.dataflow_id == bench.ids[0]
    assert bench.lines("b") == ["InputsClosed(inputs=['x'])"]


def test_an_empty_dataflow(bench: Bench) -> None:
    assert bench.run().ok


def test_a_script_that_dies_on_import(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.daemon.supervisor.closing.BROKEN_START_GRACE", TIMEOUT)
    result = bench.run(
        bench.node("broken", "import no_such_module"),
        bench.node("other", QUICK),
        bench.node("third", QUICK),
    )
    culprit, *others = result.failures
    assert (culprit.node_id, culprit.kind, culprit.exit_code) == ("broken", "exit", 1)
    assert culprit.last_lines[0] == "Traceback (most recent call last):"
    assert "no_such_module" in culprit.last_lines[-1]
    assert [failure.kind for failure in others] == ["cascading", "cascading"]
    assert "node `broken` ended before all nodes were ready" in " ".join(bench.lines("other"))


def test_a_program_that_ends_well_without_a_node_is_no_failure(bench: Bench) -> None:
    assert bench.run(bench.node("a", "print('done')"), bench.node("b", QUICK)).ok


def test_a_program_that_fails_without_a_node_is_a_failure(bench: Bench) -> None:
    (failure, _) = bench.run(bench.node("a", "exit(3)"), bench.node("b", QUICK)).failures
    assert failure.exit_code == 3


def test_a_script_that_is_missing(bench: Bench) -> None:
    result = bench.run(bench.node("a", None, path="missing.py"))
    (failure,) = result.failures
    assert failure.kind == "spawn"
    assert failure.message == f"could not be started: there is no file {bench.directory}/missing.py"


def test_a_killed_node_fails_before_its_outputs_close(bench: Bench) -> None:
    result = bench.run(
        bench.node("a", PATIENT, outputs=("x",)),
        bench.node("b", RECEIVER, inputs={"x": "a/x"}),
        on_entry=when("up", lambda pid: os.kill(int(pid), signal.SIGKILL)),
    )
    failed, closed = bench.lines("b")
    assert failed.startswith("NodeFailedFrame(node_id='a'")
    assert closed == "InputsClosed(inputs=['x'])"
    (failure,) = result.failures
    assert (failure.node_id, failure.signal) == ("a", signal.SIGKILL)


def test_an_exception_fails_before_its_outputs_close(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.daemon.supervisor.closing.CLOSING_HOLD", TIMEOUT)
    script = """
        from control_peer import Peer
        Peer().close()
        raise ValueError("no more")
    """
    result = bench.run(
        bench.node("a", script, outputs=("x",)), bench.node("b", RECEIVER, inputs={"x": "a/x"})
    )
    assert bench.lines("b")[0].startswith("NodeFailedFrame(node_id='a'")
    assert result.failures[0].last_lines[-1] == "ValueError: no more"


def test_frames_sent_just_before_the_exit_are_handled(bench: Bench) -> None:
    script = """
        from control_peer import Peer
        from dora.wire.node_protocol import Closing
        Peer().send(Closing({"typo": 3}))
    """
    assert bench.run(bench.node("a", script)).undeclared == {"a": {"typo": 3}}


def test_errors_in_the_log_of_a_node_are_counted(bench: Bench) -> None:
    script = """
        from control_peer import Peer
        from dora.node.log import write_log
        Peer()
        for level in ("error", "warn", "error", "info"):
            write_log("a", level, "the arm is hot")
    """
    result = bench.run(bench.node("a", script), bench.node("b", "from control_peer import Peer; Peer()"))
    assert result.node_counts == {"a": {"errors": 2}}


# ----------------------------------------------------------------------------- stopping


def test_one_interrupt_stops_gently_and_the_old_handler_is_restored(bench: Bench) -> None:
    before = signal.getsignal(signal.SIGINT)
    result = bench.run(bench.node("a", PATIENT), on_entry=when("up", interrupt))
    assert result.ok
    assert bench.lines("a")[1:] == ["StopFrame()"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_kills(bench: Bench) -> None:
    def twice(_: str) -> None:
        interrupt()
        terminate()

    result = bench.run(bench.node("a", STUBBORN), on_entry=when("up", twice))
    (failure,) = result.failures
    assert (failure.node_id, failure.kind) == ("a", "grace")
    assert failure.message == "was killed because the dataflow was interrupted twice"


def test_a_signal_that_arrives_twice_at_once_is_one(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` sends its signal to the child, and then to the process group of the child."""
    monkeypatch.setattr("dora.daemon.signals.ECHO", TIMEOUT)

    def twice(_: str) -> None:
        interrupt()
        interrupt()

    assert bench.run(bench.node("a", PATIENT), on_entry=when("up", twice)).ok
    assert bench.lines("a")[1:] == ["StopFrame()"]


def test_a_node_that_ignores_everything_is_killed_after_the_grace(bench: Bench) -> None:
    result = bench.run(
        bench.node("a", STUBBORN),
        on_entry=when("up", interrupt),
        options=LocalRunOptions(engine=best_engine(), grace=0.1),
    )
    (failure,) = result.failures
    assert (failure.kind, failure.signal) == ("grace", signal.SIGKILL)


def test_nodes_that_do_not_end_after_a_stop_are_named_in_the_log(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.daemon.daemon.SLOW_STOP_AFTER", 0.01)
    first, again = when("up", interrupt), when("still waiting for", terminate)

    def on_entry(entry: LogEntry) -> None:
        first(entry)
        again(entry)

    result = bench.run(bench.node("a", STUBBORN), on_entry=on_entry)
    assert result.stopped and not result.ok
    (sentence,) = bench.lines(None)
    assert sentence.startswith("still waiting for `a`; SIGTERM follows 10 s after the stop")


def test_a_node_that_sends_on_after_a_stop_is_told_how_to_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.daemon.daemon.SLOW_STOP_AFTER", 0.5)
    first, again = when("up", interrupt), when("still waiting for", terminate)

    def on_entry(entry: LogEntry) -> None:
        first(entry)
        again(entry)

    bench.run(bench.node("a", SENDS_ON, outputs=("number",)), on_entry=on_entry)
    (sentence,) = bench.lines(None)
    assert sentence.endswith("(`a` still sent: a loop learns of the stop from `node.try_recv()`)")


def test_a_time_that_is_over_before_the_start_is_in_the_log(bench: Bench) -> None:
    result = bench.run(
        bench.node("a", PATIENT), options=LocalRunOptions(engine=best_engine(), stop_after=0.0, grace=20.0)
    )
    assert result.stopped
    assert bench.lines(None) == ["the time to stop came before all nodes were ready"]


def test_an_internal_error_leaves_no_files(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    close = Daemon.close

    def broken(daemon: Daemon) -> None:
        close(daemon)
        raise ZeroDivisionError

    monkeypatch.setattr(Daemon, "close", broken)
    with pytest.raises(ZeroDivisionError):
        bench.run(bench.node("a", QUICK))
    bench.assert_nothing_left(bench.ids[-1])


def test_stop_after_a_time(bench: Bench) -> None:
    result = bench.run(
        bench.node("a", PATIENT), options=LocalRunOptions(engine=best_engine(), stop_after=0.2, grace=20.0)
    )
    assert result.ok


def test_a_node_can_stop_the_whole_dataflow(bench: Bench) -> None:
    script = """
        from control_peer import Peer
        from dora.wire.node_protocol import StopDataflow
        node = Peer()
        node.send(StopDataflow())
        node.until_stop()
    """
    assert bench.run(bench.node("a", script), bench.node("b", PATIENT)).ok
    assert bench.lines("b")[-1] == "StopFrame()"


def test_the_first_exception_of_the_log_stops_the_run_and_comes_back(bench: Bench) -> None:
    def fail(_: str) -> None:
        raise BrokenPipeError("the reader is gone")

    with pytest.raises(BrokenPipeError, match="the reader is gone"):
        bench.run(bench.node("a", PATIENT), on_entry=when("up", fail))


def test_runs_at_once_from_several_threads(bench: Bench) -> None:
    results = []
    node = bench.node("a", QUICK)
    threads = [threading.Thread(target=lambda: results.append(bench.run(node))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.ok for result in results] == [True] * 3
    assert len({result.dataflow_id for result in results}) == 3


# ----------------------------------------------------------------------------- processes


def test_grandchildren_end_with_their_node(bench: Bench) -> None:
    script = """
        import subprocess, sys
        from control_peer import Peer
        node = Peer()
        child = subprocess.Popen(["sleep", "1000"])
        print("child", child.pid, flush=True)
        node.close()
    """
    pids = []
    assert bench.run(bench.node("a", script), on_entry=when("child", pids.append)).ok
    wait_until(lambda: not alive(int(pids[0])), "the end of the grandchild")


def test_a_pipe_held_open_by_another_process_does_not_delay_the_end(bench: Bench) -> None:
    script = """
        import subprocess
        from control_peer import Peer
        node = Peer()
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        print("child", child.pid, flush=True)
        node.close()
    """
    pids = []
    assert bench.run(bench.node("a", script), on_entry=when("child", pids.append)).ok
    assert alive(int(pids[0]))  # it left its process group on purpose
    os.kill(int(pids[0]), signal.SIGKILL)
    wait_until(lambda: not alive(int(pids[0])), "its end")


def test_a_process_gets_its_folder_arguments_and_variables(bench: Bench) -> None:
    script = """
        import os, sys
        from control_peer import Peer
        node = Peer()
        for name in ("PYTHONUNBUFFERED", "FROM_DATAFLOW", "FROM_NODE", "BOTH"):
            print(name, os.environ[name])
        print("args", sys.argv[1:])
        print("cwd", os.getcwd())
        print("cores", sorted(os.sched_getaffinity(0)))
        print("stdin", repr(sys.stdin.read()))
        print("leader", os.getpgrp() == os.getpid())
        print("python", sys.executable)
        node.close()
    """
    core = min(os.sched_getaffinity(0))
    node = bench.node(
        "a", script, env={"FROM_NODE": "2", "BOTH": "node"}, args=("one", "two words"), cpu_affinity=(core,)
    )
    import msgspec

    from dora.daemon.run import run_dataflow

    flow = bench.dataflow(node)
    flow = msgspec.structs.replace(flow, env={**flow.env, "FROM_DATAFLOW": "1", "BOTH": "dataflow"})
    assert run_dataflow(flow, LocalRunOptions(engine=best_engine()), bench.entries.append).ok
    assert bench.lines("a") == [
        "PYTHONUNBUFFERED 1",
        "FROM_DATAFLOW 1",
        "FROM_NODE 2",
        "BOTH node",
        "args ['one', 'two words']",
        f"cwd {os.path.realpath(bench.directory)}",
        f"cores [{core}]",
        "stdin ''",
        "leader True",
        f"python {sys.executable}",
    ]


def test_shell_nodes_only_if_allowed(bench: Bench) -> None:
    node = bench.node("a", None, path="shell", args=("echo $((40 + 2)) && exit 3",))
    (failure,) = bench.run(node).failures
    assert failure.kind == "spawn"
    assert "--allow-shell-nodes" in failure.message
    bench.run(node, options=LocalRunOptions(engine=best_engine(), allow_shell_nodes=True))
    assert "42" in bench.lines("a")


def test_a_restarted_node_knows_its_restart_count(bench: Bench) -> None:
    script = """
        from control_peer import Peer
        node = Peer()
        print("restart_count", node.config.restart_count, flush=True)
        if node.config.restart_count < 2:
            raise SystemExit(1)
        node.close()
    """
    result = bench.run(
        bench.node("a", script, outputs=("x",), restart=RestartOptions("on-failure", max_restarts=3)),
        bench.node("b", RECEIVER, inputs={"x": "a/x"}),
    )
    assert result.ok
    assert [line for line in bench.lines("a") if line.startswith("restart_count")] == [
        f"restart_count {count}" for count in range(3)
    ]
    assert bench.lines("b") == ["NodeRestartedFrame(node_id='a')"] * 2 + ["InputsClosed(inputs=['x'])"]
    assert any("restart 2 of 3" in line for line in bench.lines("a"))


def test_a_stopped_process_fails_its_health_check(bench: Bench) -> None:
    script = """
        import os
        from control_peer import Peer
        from dora.transport.board import ASLEEP, Board
        node = Peer()
        Board.open(node.config.board).set(node.config.node_slot, ASLEEP, 1)
        print("up", os.getpid(), flush=True)
        node.until_stop()
    """
    result = bench.run(
        bench.node("a", script, health_check_timeout=0.3),
        on_entry=when("up", lambda pid: os.kill(int(pid), signal.SIGSTOP)),
    )
    assert [failure.kind for failure in result.failures] == ["health_check"]


def test_a_node_that_waits_is_healthy(bench: Bench) -> None:
    script = """
        from control_peer import Peer, Ready
        from dora.transport.board import ASLEEP, Board
        class Sleeper(Peer):
            def send(self, message):
                if isinstance(message, Ready):  # before it is watched
                    Board.open(self.config.board).set(self.config.node_slot, ASLEEP, 1)
                super().send(message)
        Sleeper().until_stop()
    """
    result = bench.run(
        bench.node("a", script, health_check_timeout=0.5),
        options=LocalRunOptions(engine=best_engine(), stop_after=1.2),
    )
    assert result.ok


# ----------------------------------------------------------------------------- connections


def test_unknown_connections_are_closed_and_the_run_goes_on(bench: Bench) -> None:
    script = """
        import os, socket
        from control_peer import Peer
        from dora.wire.framing import encode_frame
        from dora.wire.node_config import decode_address
        from dora.wire.node_protocol import Ready
        address = decode_address(os.environ["DORA_NODE_CONFIG"])
        for data in (b"GET / HTTP/1.0\\r\\n\\r\\n", b"\\x05\\0\\0\\0hello", encode_frame(Ready())):
            stranger = socket.socket(socket.AF_UNIX)
            stranger.connect(address.socket)
            stranger.sendall(data)
            while stranger.recv(1000):
                pass
        Peer().close()
    """
    assert bench.run(bench.node("a", script)).ok


@pytest.mark.parametrize(("number", "named"), [(99, "99"), (1, "1"), (0, "unknown")])
def test_a_node_of_another_protocol_version_is_refused(bench: Bench, number: int, named: str) -> None:
    script = f"""
        import control_peer as peer
        peer.PROTOCOL_VERSION = {number}
        peer.Peer()
    """
    bench.run(bench.node("a", script))
    told = " ".join(bench.lines("a"))
    assert (
        f"node `a` uses dora {__version__} with protocol {named}, and this run is dora {__version__} with"
        in told
    )
    assert "install the same version in both environments" in told


def test_dynamic_nodes_join_leave_and_rejoin(bench: Bench) -> None:
    script = """
        import os
        from control_peer import Peer
        node = Peer()
        print("address", os.environ["DORA_NODE_CONFIG"], flush=True)
        while True:
            frame = node.receive()
            print(frame, flush=True)
            if frame is None or "Restarted" in str(frame):
                break
        node.until_stop()
    """
    seen: list[str] = []
    visitors: list[threading.Thread] = []

    def join(text: str) -> None:
        address = decode_address(text)
        address_of_visitor = Address(address.dataflow_id, "visitor", address.socket)

        def visit() -> None:
            first = Peer(address_of_visitor, dynamic=True)
            try:
                Peer(address_of_visitor, dynamic=True)
            except SystemExit as refusal:
                seen.append(str(refusal))
            first.close()
            wait_until(lambda: "InputsClosed(inputs=['g'])" in bench.lines("a"), "the closed input")
            second = Peer(address_of_visitor, dynamic=True)
            wait_until(lambda: "NodeRestartedFrame(node_id='visitor')" in bench.lines("a"), "the return")
            interrupt()
            seen.append(str(second.receive()))
            second.close()

        visitors.append(threading.Thread(target=visit, daemon=True))
        visitors[0].start()

    result = bench.run(
        bench.node("a", script, inputs={"g": "visitor/g", "t": "timer/"}),
        bench.node("visitor", None, path="dynamic", outputs=("g",)),
        on_entry=when("address", join),
    )
    assert result.ok
    visitors[0].join(TIMEOUT)
    assert "has joined already" in seen[0]
    assert seen[1] == "StopFrame()"


# ----------------------------------------------------------------------------- text


def test_captured_lines_and_log_entries_reach_inputs_in_order(bench: Bench) -> None:
    talker = """
        import json
        print("before the start", flush=True)
        from control_peer import Peer
        node = Peer()
        print("raw", flush=True)
        print(json.dumps({"level": "info", "message": "quiet"}), flush=True)
        print(json.dumps({"level": "error", "message": "loud"}), flush=True)
        node.close()
    """
    result = bench.run(
        bench.node(
            "a",
            talker,
            outputs=("lines", "logs"),
            log=LogOptions(send_stdout_as="lines", send_logs_as="logs", min_log_level="warn"),
        ),
        bench.node("b", RECEIVER, inputs={"lines": "a/lines", "logs": "a/logs"}),
    )
    assert result.ok
    printed = bench.lines("b")
    texts = [line for line in printed if "['lines']" in line and line.startswith("TextInput")]
    assert [line.split("text=")[1][1:12] for line in texts][:2] == ["before the ", "raw\\n')"]
    assert len(texts) == 4
    (logged,) = [line for line in printed if "['logs']" in line and line.startswith("TextInput")]
    assert "loud" in logged
    assert printed[-1].startswith("InputsClosed")
    assert bench.lines("a") == ["loud"]


def test_log_files(bench: Bench) -> None:
    bench.run(bench.node("a", "print('hello')\n"))
    path = Path(bench.directory) / "out" / bench.ids[0] / "log_a.jsonl"
    assert '"msg":"hello"' in path.read_text()


def test_unread_lines_are_counted(bench: Bench) -> None:
    talker = """
        import os
        from control_peer import Peer
        node = Peer()
        for _ in range(3000):
            print("x" * 1000)
        node.close()
        print("said everything", flush=True)
    """
    sleeper = """
        import signal, sys
        from control_peer import Peer
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        node = Peer()
        signal.pause()
    """
    result = bench.run(
        bench.node("a", talker, outputs=("lines",), log=LogOptions(send_stdout_as="lines")),
        bench.node("b", sleeper, inputs={"lines": "a/lines"}),
        on_entry=when("said everything", interrupt),
        options=LocalRunOptions(engine=best_engine(), grace=0.1),
    )
    (link,) = result.links
    assert link.sent == 3001
    assert link.received == 0
    assert 500 < link.dropped < 3001
    assert link.dropped + link.unread == 3001
