"""Dataflows over several machines, in network namespaces: links, starts, ends, cuts, deaths."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from certificates import certify
from cluster_system import Spread, spread_over
from hosts import network
from rounds import SECONDS
from waiting import wait_until

from dora._paths import DEFAULT_LINK_PORT

pytestmark = pytest.mark.processes

NODES = {
    "count.py": """
        import os, sys, time
        import pyarrow as pa
        from dora import Node

        node = Node()
        number, pause, size = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
        for index in range(number):
            node.send_output("out", pa.array([index] + [0] * size))
            time.sleep(pause)
        print("sent all", flush=True)
    """,
    "collect.py": """
        import sys, time
        from dora import Node

        got, last = [], time.monotonic()
        for event in Node():
            if event["type"] == "INPUT":
                got.append(event["value"][0].as_py())
                if time.monotonic() - last > 1.0:
                    print("so far", len(got), flush=True)
                    last = time.monotonic()
            else:
                print(event["type"], event.get("id") or "", event.get("error") or "", flush=True)
        assert got == sorted(set(got)), got
        print(f"got {len(got)}, the last is {got[-1] if got else None}", flush=True)
    """,
    "echo.py": """
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("out", event["value"])
    """,
    "fragile.py": """
        import sys, time
        import pyarrow as pa
        from dora import Node

        node = Node()
        for index in range(5):
            node.send_output("out", pa.array([100 * node.restart_count() + index]))
        time.sleep(0.2)
        if node.restart_count() < 2:
            sys.exit(3)
    """,
    "forever.py": """
        from dora import Node

        node = Node()
        print("is there", flush=True)
        for event in node:
            if event["type"] != "INPUT":
                print("got", event["type"], event.get("id") or "", flush=True)
    """,
}


def counting(number: int, pause: float, size: int, link: str, consumer: str = "collect.py") -> str:
    return f"""
        nodes:
          - id: count
            path: count.py
            args: "{number} {pause} {size}"
            deploy: {{machine: left}}
            outputs: [out]
          - id: collect
            path: {consumer}
            deploy: {{machine: right}}
            inputs: {{numbers: {{source: count/out, {link}}}}}
    """


@pytest.fixture(scope="module")
def system(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("spread")
    with network("left", "right") as hosts, spread_over(hosts, folder) as system:
        system.write(NODES)
        yield system


@pytest.mark.slow
def test_messages_and_ends_cross_in_order(system: Spread) -> None:
    system.write({"both.yml": counting(3000, 0.0, 100, "queue_size: 5, queue_policy: backpressure")})
    dataflow = system.start("both.yml")
    system.wait_for(dataflow, "Finished")
    logs = system.logs(dataflow)
    assert "got 3000, the last is 2999" in logs
    assert logs.index("INPUT_CLOSED numbers") < logs.index("STOP ALL_INPUTS_CLOSED")


@pytest.mark.slow
def test_requests_and_kept_messages_are_not_pushed_out_of_a_full_queue(system: Spread) -> None:
    system.write(
        {
            "ask.py": """
                import pyarrow as pa
                from dora import Node

                node = Node()
                for number in range(600):
                    metadata = {"request_id": "r"} if number % 14 == 0 else {"number": number}
                    if number % 14 == 7:
                        metadata = {"stop": True}
                    node.send_output("out", pa.array([number] * (20_000 if number % 2 else 1)), metadata)
                open("sent", "w").close()
            """,
            "late.py": """
                import os, time
                from dora import Node

                node = Node()
                deadline = time.monotonic() + 60
                while not os.path.exists("sent"):
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
                got = [event["value"][0].as_py() for event in node if event["type"] == "INPUT"]
                assert got == sorted(set(got)), got
                counts = node.statistics()["inputs"]["numbers"]
                print("missing", sorted({*range(0, 600, 7), 599} - {*got}))
                print("some dropped", counts["dropped"] > 100)
                print("counted", counts["received"] - len(got), counts["received"] + counts["dropped"])
            """,
            "requests.yml": counting(0, 0.0, 0, "queue_size: 3, keep: [stop]", "late.py").replace(
                "count.py", "ask.py"
            ),
        }
    )
    dataflow = system.start("requests.yml")
    system.wait_for(dataflow, "Finished")
    logs = system.logs(dataflow)
    assert "missing []" in logs
    assert "some dropped True" in logs
    assert "counted 0 600" in logs


@pytest.mark.slow
def test_large_messages_there_and_back(system: Spread) -> None:
    system.write(
        {
            "back.yml": """
                nodes:
                  - {id: count, path: count.py, args: "30 0 200000", outputs: [out],
                     deploy: {machine: left}}
                  - {id: echo, path: echo.py, outputs: [out], deploy: {machine: right},
                     inputs: {in: {source: count/out, queue_policy: backpressure}}}
                  - {id: collect, path: collect.py, deploy: {machine: left},
                     inputs: {there: {source: count/out, queue_size: 100},
                              back: {source: echo/out, queue_policy: backpressure}}}
            """
        }
    )
    system.write(
        {"collect_both.py": NODES["collect.py"].replace("assert got == sorted(set(got)), got", "")}
    )
    text = (system.folder / "back.yml").read_text().replace("collect.py", "collect_both.py")
    (system.folder / "back.yml").write_text(text)
    dataflow = system.start("back.yml")
    system.wait_for(dataflow, "Finished")
    assert "got 60" in system.logs(dataflow)


@pytest.mark.slow
def test_a_restarted_source_continues_and_a_stop_reaches_all_machines(system: Spread) -> None:
    system.write(
        {
            "restart.yml": """
                nodes:
                  - id: fragile
                    path: fragile.py
                    restart_policy: on-failure
                    deploy: {machine: left}
                    outputs: [out]
                  - id: collect
                    path: collect.py
                    deploy: {machine: right}
                    inputs: {numbers: {source: fragile/out, queue_size: 100}}
                  - id: stays
                    path: forever.py
                    deploy: {machine: right}
                    inputs: {tick: dora/timer/secs/1}
            """
        }
    )
    dataflow = system.start("restart.yml")
    logs = system.wait_for_log(dataflow, "got 15, the last is 204")
    assert logs.count("NODE_RESTARTED fragile") == 2
    assert "Running" in system.status(dataflow)
    head, *rows = system.dora("node", "list", "-d", dataflow).splitlines()
    assert "MACHINE" in head
    assert [row.split()[2] for row in rows] == ["left", "right", "right"]
    assert "Set `speed`" in system.dora("param", "set", "stays", "speed", "1", "-d", dataflow)
    system.dora("stop", dataflow)
    assert "got STOP MANUAL" in system.logs(dataflow)


def test_a_source_that_has_ended_and_is_started_again_goes_on(system: Spread) -> None:
    system.write(
        {
            "count_on.py": """
                from dora import Node

                received = 0
                for event in Node():
                    if event["type"] != "INPUT":
                        print("got", event["type"], event.get("id") or "", flush=True)
                    elif event["id"] == "numbers":
                        received += 1
                        print("received", received, flush=True)
            """,
            "again.yml": """
                nodes:
                  - id: count
                    path: count.py
                    args: "5 0 1"
                    deploy: {machine: left}
                    outputs: [out]
                  - id: listens
                    path: count_on.py
                    deploy: {machine: right}
                    inputs:
                      numbers: {source: count/out, queue_size: 100}
                      tick: dora/timer/secs/1
            """,
        }
    )
    dataflow = system.start("again.yml")
    system.wait_for_log(dataflow, "got INPUT_CLOSED numbers")
    system.dora("node", "restart", "count", "-d", dataflow)
    assert "got NODE_RESTARTED count" in system.wait_for_log(dataflow, "received 10")
    system.dora("stop", dataflow)


def test_a_stop_releases_a_sender_that_waits_for_another_machine(system: Spread) -> None:
    """It cleans up, and the receiver, which began to read only then, has lost nothing that was sent."""
    os.mkfifo(system.folder / "cleaned-up")
    system.write(
        {
            "pours.py": """
                import sys, threading, time
                from dora import Node

                node = Node()
                sent = 0

                def watch(thread_id):
                    while True:
                        frame = sys._current_frames()[thread_id]
                        while frame is not None:
                            # Before that it may wait for a moment, until the other machine has got one.
                            if frame.f_code.co_name == "wait_for_credit" and sent == 3:
                                print("is blocked", flush=True)
                                return
                            frame = frame.f_back
                        time.sleep(0.001)

                threading.Thread(target=watch, args=(threading.get_ident(),), daemon=True).start()
                for event in node:
                    if event["type"] == "INPUT":
                        node.send_output("out", b"data")
                        sent += 1
                    else:
                        print("cleaned up at", event["type"], flush=True)
                        open("cleaned-up", "w").close()
            """,
            "waits.py": """
                from dora import Node

                node = Node()
                open("cleaned-up").read()
                print("received", sum(event["type"] == "INPUT" for event in node), flush=True)
            """,
            "pours.yml": """
                nodes:
                  - id: pours
                    path: pours.py
                    deploy: {machine: left}
                    inputs: {tick: dora/timer/millis/1}
                    outputs: [out]
                  - id: waits
                    path: waits.py
                    deploy: {machine: right}
                    inputs: {in: {source: pours/out, queue_size: 3, queue_policy: backpressure}}
            """,
        }
    )
    dataflow = system.start("pours.yml")
    system.wait_for_log(dataflow, "is blocked")
    printed = system.dora("stop", dataflow)
    logs = system.logs(dataflow)
    assert "cleaned up at STOP" in logs, printed
    assert "received 3" in logs
    assert "SIGTERM" not in logs


def test_a_failure_is_reported_on_the_other_machine(system: Spread) -> None:
    system.write({"fails.yml": counting(100000, 0.001, 1, "queue_size: 10")})
    dataflow = system.start("fails.yml")
    system.wait_for_log(dataflow, "so far")
    pids = [pid for pid in system.hosts["left"].pids() if b"count.py" in _command(pid)]
    os.kill(pids[0], signal.SIGKILL)
    assert system.wait_for(dataflow, "Finished", "Failed") == "Failed"
    logs = system.logs(dataflow)
    assert logs.index("NODE_FAILED") < logs.index("INPUT_CLOSED numbers")
    assert "was killed by SIGKILL" in logs


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_impossible_placements_are_reported_before_the_start(system: Spread) -> None:
    system.write(
        {
            "nowhere.yml": """
                nodes:
                  - {id: a, path: forever.py, deploy: {machine: rihgt}}
                  - {id: b, path: forever.py, deploy: {labels: {gpu: true}}}
                  - {id: c, path: forever.py}
                  - {id: d, path: forever.py, deploy: {machine: left, working_dir: /not/there}}
            """
        }
    )
    printed = system.dora("start", "nowhere.yml", "--detach", status=1)
    assert "node `a` is for machine `rihgt`, which is not there" in printed
    assert "did you mean `right`?" in printed
    assert "node `b` is for a machine with gpu=true, which none has" in printed
    assert "node `c` names no machine, and there is no default one" in printed
    assert "the machines are: `left`, `right`" in printed
    printed = system.dora("run", "nowhere.yml", status=1)
    assert "node `a` has a `deploy`" in printed and "`dora up` and `dora start`" in printed


def test_a_folder_missing_on_a_machine_is_reported(system: Spread) -> None:
    system.write(
        {
            "folder.yml": """
                nodes:
                  - {id: a, path: forever.py, deploy: {machine: right}}
                  - {id: d, path: forever.py, deploy: {machine: left, working_dir: /not/there}}
            """
        }
    )
    printed = system.dora("start", "folder.yml", "--detach", status=1)
    assert "/not/there" in printed


def cut_until_it_is_noticed(system: Spread, dataflow: str, seconds: float = 0.0) -> None:
    """Pull the plug until somebody has said so, and for so many seconds at least."""
    system.hosts["right"].cut()
    begun = time.monotonic()
    try:
        system.wait_for_log(dataflow, "machine `right` has not answered since")
        while time.monotonic() - begun < seconds:
            time.sleep(0.1)
    finally:
        system.hosts["right"].restore()


def enough(system: Spread, dataflow: str) -> int:
    """Let the source end; return how many messages it has sent."""
    (system.folder / "enough").touch()
    try:
        system.wait_for(dataflow, "Finished")
    finally:
        (system.folder / "enough").unlink()
    found = re.search(r"sent (\d+) in all", system.wait_for_log(dataflow, "in all"))
    assert found is not None
    return int(found[1])


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, pytest.param(SECONDS, marks=pytest.mark.stress)])
def test_a_cut_loses_nothing_under_back_pressure(system: Spread, seconds: float) -> None:
    steady = """
        import os, time
        import pyarrow as pa
        from dora import Node

        node, number = Node(), 0
        while not os.path.exists("enough"):
            node.send_output("out", pa.array([number] + [0] * 100))
            number += 1
            time.sleep(0.001)
        print("sent", number, "in all", flush=True)
    """
    document = counting(0, 0.0, 0, "queue_size: 10, queue_policy: backpressure")
    system.write({"steady.py": steady, "cut.yml": document.replace("count.py", "steady.py")})
    dataflow = system.start("cut.yml")
    system.wait_for_log(dataflow, "so far")
    cut_until_it_is_noticed(system, dataflow, seconds)
    system.wait_for_log(dataflow, "machine `right` answers again, after")
    number = enough(system, dataflow)
    system.wait_for_log(dataflow, f"got {number}, the last is {number - 1}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "pause"),
    [(2_500, 0.25), (18_000, 0.005), (131_072, 0.03), pytest.param(524_288, 0.1, marks=pytest.mark.stress)],
)
def test_a_cut_blocks_no_sender_and_every_message_is_accounted_for(
    system: Spread, size: int, pause: float, figure: Callable[[str], None]
) -> None:
    system.write(
        {
            "impatient.py": """
                import os, sys, time
                import numpy as np
                from dora import Node

                node, number, longest = Node(), 0, 0.0
                size, pause = int(sys.argv[1]), float(sys.argv[2])
                while not os.path.exists("enough"):
                    values = np.full(size, number)  # of 8 bytes each
                    begin = time.monotonic()
                    node.send_output("out", values)
                    longest = max(longest, time.monotonic() - begin)
                    number += 1
                    time.sleep(pause)
                assert longest < 1.0, longest
                print("sent", number, "in all", flush=True)
            """,
            "tally.py": """
                from dora import Node

                node, got, last = Node(), 0, None
                for event in node:
                    if event["type"] == "INPUT":
                        got, last = got + 1, event["value"][0].as_py()
                        if got == 5:
                            print("so far", got, flush=True)
                counted = node.statistics()["inputs"]["numbers"]
                assert got == counted["received"], (got, counted)
                print("got or dropped", got + counted["dropped"], "and the last is", last, flush=True)
            """,
            "wait.yml": counting(0, 0.0, 0, "queue_size: 10", "tally.py")
            .replace("count.py", "impatient.py")
            .replace("0 0.0 0", f"{size} {pause}"),
        }
    )
    dataflow = system.start("wait.yml")
    system.wait_for_log(dataflow, "so far")
    cut_until_it_is_noticed(system, dataflow)
    restored = time.monotonic()
    system.wait_for_log(dataflow, "machine `right` answers again, after")
    figure(f"a cut, messages of {8 * size:,} B: back after {time.monotonic() - restored:.1f} s")
    number = enough(system, dataflow)
    system.wait_for_log(dataflow, f"got or dropped {number} and the last is {number - 1}")


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True])
def test_large_and_small_messages_keep_their_order(system: Spread, cut: bool) -> None:
    mixed = """
        import os, random, time
        import pyarrow as pa
        from dora import Node

        node, number = Node(), 0
        random.seed(1)
        while number < 1000 or not os.path.exists("enough"):
            size = random.choice([1, 1, 1, 1, 1, 1, 200, 20_000])
            node.send_output("out", pa.array([number] * size))
            number += 1
            time.sleep(random.choice([0.0, 0.0, 0.0003, 0.001]))
        print("sent", number, "in all", flush=True)
    """
    document = counting(0, 0.0, 0, "queue_size: 40, queue_policy: backpressure", "in_order.py")
    in_order = """
        from dora import Node

        expected = 0
        for event in Node():
            if event["type"] == "INPUT":
                assert event["value"][0].as_py() == expected
                expected += 1
                if expected == 500:
                    print("many so far", flush=True)
        print("in order:", expected)
    """
    system.write(
        {"mixed.py": mixed, "in_order.py": in_order, "mixed.yml": document.replace("count.py", "mixed.py")}
    )
    dataflow = system.start("mixed.yml")
    system.wait_for_log(dataflow, "many so far")
    if cut:
        cut_until_it_is_noticed(system, dataflow)
        system.wait_for_log(dataflow, "machine `right` answers again, after")
    number = enough(system, dataflow)
    assert f"in order: {number}\n" in system.wait_for_log(dataflow, "in order")


@pytest.mark.slow
def test_no_log_entry_is_lost_in_a_cut(system: Spread) -> None:
    system.write(
        {
            "talk.py": """
                import os, time
                from dora import Node
                with Node():
                    number = 0
                    while not os.path.exists("enough"):
                        print("line", number, flush=True)
                        number += 1
                        time.sleep(0.02)
                print("sent", number, "in all", flush=True)
            """,
            "talk.yml": "nodes: [{id: talk, path: talk.py, deploy: {machine: right}}]",
        }
    )
    silent = "machine `right`: does not answer"
    before = system.said("coordinator").count(silent)
    dataflow = system.start("talk.yml")
    system.wait_for_log(dataflow, "line 20")
    system.hosts["right"].cut()
    try:
        wait_until(
            lambda: system.said("coordinator").count(silent) > before, lambda: "the cut to be noticed"
        )
    finally:
        system.hosts["right"].restore()
    number = enough(system, dataflow)
    spoken = [line.rpartition("line ")[2] for line in system.logs(dataflow).splitlines() if "line " in line]
    assert spoken == [str(each) for each in range(number)]


@pytest.mark.slow
def test_credit_lost_in_a_cut_is_restored(system: Spread) -> None:
    system.write(
        {
            "slow.py": """
                import os, time
                from dora import Node

                open("taken", "w").close()
                for event in Node():
                    if event["type"] == "INPUT":
                        number = event["value"][0].as_py()
                        while number == 7 and not os.path.exists("further"):
                            open("held", "w").close()
                            time.sleep(0.01)
                        with open("taken", "a") as file:
                            file.write(f"{number}\\n")
            """,
            "credit.yml": counting(30, 0.0, 1, "queue_size: 6, queue_policy: backpressure", "slow.py"),
        }
    )

    def taken() -> int:
        return len((system.folder / "taken").read_text().splitlines())

    dataflow = system.start("credit.yml")
    wait_until((system.folder / "held").exists, "the eighth message")
    system.hosts["right"].cut()
    try:
        (system.folder / "further").touch()  # everything that has arrived is taken
        system.wait_for_log(dataflow, "machine `right` has not answered since")
        assert 7 < taken() < 20
    finally:
        system.hosts["right"].restore()
    system.wait_for(dataflow, "Finished")
    assert taken() == 30


@pytest.mark.slow
def test_foreign_connections_do_not_block_nodes(system: Spread) -> None:
    crowd = counting(1_000_000, 0.01, 1, "queue_size: 10", "begins.py")
    crowd = crowd.replace("outputs: [out]", "outputs: [out]\n            restart_policy: always")
    begins = """
        from dora import Node

        last = -1
        for event in Node():
            if event["type"] == "INPUT":
                number = event["value"][0].as_py()
                if number < last or last < 0:
                    print("messages of", "another" if last >= 0 else "the first", "process", flush=True)
                last = number
    """
    system.write({"crowd.yml": crowd, "begins.py": begins})
    dataflow = system.start("crowd.yml")
    system.wait_for_log(dataflow, "messages of the first process")
    right = system.hosts["right"]
    with ExitStack() as strangers:
        for said in (b"", dataflow.encode()):
            for _ in range(300):
                stranger = socket.create_connection((right.address, DEFAULT_LINK_PORT))
                strangers.enter_context(stranger).sendall(said)
        (source,) = (pid for pid in system.hosts["left"].pids() if b"count.py" in _command(pid))
        os.kill(source, signal.SIGKILL)
        system.wait_for_log(dataflow, "messages of another process")
        assert "has not answered" not in system.logs(dataflow)
    system.dora("stop", dataflow, "--force", status=None)


@pytest.mark.slow
def test_nodes_end_with_their_dead_daemon(system: Spread) -> None:
    system.write({"dies.yml": counting(1000000, 0.001, 1, "queue_size: 10")})
    dataflow = system.start("dies.yml")
    system.wait_for_log(dataflow, "so far")
    system.processes["left"].kill()
    assert system.wait_for(dataflow, "Finished", "Failed") == "Failed"
    logs = system.logs(dataflow)
    assert "machine `left` is lost: its daemon is gone" in logs
    assert logs.index("NODE_FAILED") < logs.index("INPUT_CLOSED numbers")
    assert "left" not in system.machines()
    wait_until(
        lambda: not [pid for pid in system.hosts["left"].pids() if b"count.py" in _command(pid)],
        lambda: "the nodes of the dead daemon to end",
    )
    system.start_daemon("left")
    system.wait_for_machines("left", "right")


@pytest.mark.slow
def test_certificates_keep_strangers_out(
    namespaces: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    with network("left", "right") as hosts:
        for host in hosts.values():
            certify(tmp_path, host.name, host.address)
        system = Spread(hosts, tmp_path, {})
        system.start_coordinator()
        for name, host in hosts.items():
            files = {"DORA_TLS_CA": "ca.pem", "DORA_TLS_CERT": f"{name}.pem", "DORA_TLS_KEY": f"{name}.key"}
            env = {variable: str(tmp_path / file) for variable, file in files.items()}
            system.background(host, name, "daemon", "--machine-id", name, env=env)
        system.wait_for_machines("left", "right")
        system.write(NODES)
        system.write({"tls.yml": counting(1000000, 0.002, 1, "queue_size: 10")})
        dataflow = system.start("tls.yml")
        system.wait_for_log(dataflow, "so far")
        intruder = INTRUDER.format(
            host=hosts["right"].address, port=DEFAULT_LINK_PORT, flow=dataflow, ca=tmp_path / "ca.pem"
        )
        assert "was not let in" in hosts["left"].run([sys.executable, "-c", intruder])
        system.dora("stop", dataflow, "--force", status=None)


INTRUDER = """
import socket, ssl
context = ssl.create_default_context(cafile="{ca}")  # and no certificate of a machine
try:
    with socket.create_connection(("{host}", {port}), 10) as plain:
        plain.sendall(b"{flow}")
        with context.wrap_socket(plain, server_hostname="{host}") as connection:
            connection.sendall(b"hello")
            print("got", connection.recv(100))
except (ssl.SSLError, ConnectionResetError) as error:  # the reset may overtake the alert
    print("was not let in:", error)
"""
