"""A sender that waits for a receiver hears of a stop, and cleans up before its grace period is over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from flow import Flow, link
from waiting import TIMEOUT

import dora
from dora.daemon.logs.entry import LogEntry
from dora.wire.counters import UNSENT

pytestmark = pytest.mark.processes

WATCHING = """
    import sys
    import threading
    import time

    def say_when_blocked(thread_id):
        threading.Thread(target=_watch, args=(thread_id,), daemon=True).start()

    def _watch(thread_id):
        while True:
            frame = sys._current_frames().get(thread_id)
            while frame is not None:
                if frame.f_code.co_name == "wait_for_credit":
                    print("blocked", flush=True)
                    return
                frame = frame.f_back
            time.sleep(0.001)

    def clean_up():
        print("cleaned up", flush=True)
        open("ended", "w").close()
"""

BEGIN = """
    import asyncio
    import threading
    from dora import Node
    from watching import clean_up, say_when_blocked

    node = Node()
    me = threading.get_ident()
"""

PROGRAMS = {
    "a loop": BEGIN
    + """
    say_when_blocked(me)
    for event in node:
        if event["type"] == "STOP":
            clean_up()
        else:
            node.send_output("out", b"data")
    """,
    "a loop without events": BEGIN
    + """
    say_when_blocked(me)
    for _ in range(1000):
        node.send_output("out", b"data")
    assert any(event["type"] == "STOP" for event in node)
    clean_up()
    """,
    "a thread": BEGIN
    + """
    done = threading.Event()

    def send():
        say_when_blocked(threading.get_ident())
        while not done.is_set():
            node.send_output("out", b"data")

    thread = threading.Thread(target=send)
    thread.start()
    for event in node:
        if event["type"] == "STOP":
            done.set()
            thread.join()
            clean_up()
    """,
    "asyncio": BEGIN
    + """
    async def main():
        async for event in node:
            if event["type"] == "STOP":
                clean_up()
            else:
                node.send_output("out", b"data")

    say_when_blocked(me)
    asyncio.run(main())
    """,
}

OPERATOR = """
    import threading
    from dora import DoraStatus
    from watching import clean_up, say_when_blocked

    class Operator:
        def __init__(self):
            say_when_blocked(threading.get_ident())

        def on_event(self, dora_event, send_output):
            if dora_event["type"] == "STOP":
                clean_up()
            elif dora_event["type"] == "INPUT":
                send_output("out", b"data")
            return DoraStatus.CONTINUE
"""

# It does not receive before the sender has cleaned up.
RECEIVER = """
    from dora import Node

    node = Node()
    open("ended").read()
    print("received", sum(event["type"] == "INPUT" for event in node), flush=True)
"""

KINDS = [*PROGRAMS, "an operator"]
TICK = {"tick": "dora/timer/millis/1"}


def make_flow(flow: Flow, kind: str) -> str:
    """Write a dataflow with such a sender; return the name of its output."""
    os.mkfifo(flow.directory / "ended")
    flow.file("watching.py", WATCHING)
    if kind == "an operator":
        flow.file("sending.py", OPERATOR)
        operator = {"id": "op", "python": "sending.py", "inputs": TICK, "outputs": ["out"]}
        flow.node("sender", operators=[operator])
        output = "sender/op/out"
    else:
        flow.node("sender", PROGRAMS[kind], inputs=TICK, outputs=["out"])
        output = "sender/out"
    options = {"source": output, "queue_size": 3, "queue_policy": "backpressure"}
    flow.node("receiver", RECEIVER, inputs={"in": options})
    return output


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("kind", KINDS)
def test_a_waiting_sender_receives_the_stop_and_cleans_up(flow: Flow, kind: str) -> None:
    output = make_flow(flow, kind)
    command = [sys.executable, "-m", "dora", "run", flow.write(), "--log-format", "compact"]
    command += ["--grace-duration", f"{TIMEOUT}s"]  # SIGTERM comes too late for this test
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, **streams) as run:  # type: ignore[call-overload]
        lines = []
        for line in run.stdout:
            lines.append(line)
            if line.endswith("sender: blocked\n"):
                stopped_at = time.monotonic()
                run.send_signal(signal.SIGINT)
        assert run.wait(TIMEOUT) == 0, lines
    text = "".join(lines)
    assert time.monotonic() - stopped_at < TIMEOUT, text
    assert "sender: cleaned up\n" in text, text
    received = re.search(r"receiver: received (\d)", text)
    unread = re.search(r"(\d) unread when the dataflow was stopped", text)
    assert received is not None, text
    assert unread is None, text
    assert int(received[1]) == 3, text
    (told,) = [line for line in lines if "not sent: a queue was full" in line]
    assert told.startswith(f"{output} -> receiver/in: "), told
    assert "asked to stop" in told


def test_a_stop_releases_a_waiting_sender_and_counts_unsent_messages(flow: Flow) -> None:
    output = make_flow(flow, "a loop without events")

    def stop_when_blocked(entry: LogEntry) -> None:
        flow.entries.append(entry)
        if (entry.node_id, entry.message) == ("sender", "blocked"):
            os.kill(os.getpid(), signal.SIGINT)

    result = dora.run(flow.write(), on_log=stop_when_blocked, grace=TIMEOUT)
    assert flow.printed("sender")[-1] == "cleaned up"
    assert flow.printed("receiver") == ["received 3"]
    report = link(result, f"{output} -> receiver/in")
    assert (report.received, report.dropped, report.sent + report.count(UNSENT)) == (3, 0, 1000)
    assert report.count(UNSENT) > 0
