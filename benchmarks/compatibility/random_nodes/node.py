"""The node of random dataflows: sends, forwards and leaves as its plan says, and logs every event."""

import asyncio
import os
import sys
import time
from pathlib import Path

from plan import NAME, PLAN, Log, forward, payload

from dora import Node

DONE = Path(os.environ["RECORDS"], "done")
PATIENCE_S = 20.0


def main():
    node = Node()
    log = Log(node.restart_count())
    shared = {key: os.environ.get(key) for key in ("SHARED", "NUMBER", "FLAG")}
    log.write("start", restart=node.is_restart(), arguments=sys.argv[1:], shared=shared)
    if "sends" in PLAN:
        send(node, log)
    else:
        receive(node, log)
    log.write("end")
    if "after" not in PLAN:
        leave(node.restart_count())


def send(node, log):
    for number in range(PLAN.get("lines", 0)):
        print(f"line {number}", flush=True)
    rounds = max(entry["count"] for entry in PLAN["sends"])
    until = time.monotonic() + PATIENCE_S
    number = 0
    while number < rounds or (PLAN["pace"] == "until" and not DONE.exists() and time.monotonic() < until):
        if PLAN["pace"] == "tick":
            log.event(node.next())
        elif PLAN["pace"] in ("pause", "until"):
            time.sleep(0.01)
        for entry in PLAN["sends"]:
            if number < entry["count"] or PLAN["pace"] == "until":
                path = f"{NAME}/{entry['output']}"
                metadata = {**entry["metadata"], "path": path, "number": number}
                node.send_output(entry["output"], payload(entry["payload"], number), metadata)
                log.write("sent", path=path, number=number)
        number += 1


def receive(node, log):
    after, seen = PLAN.get("after"), 0
    for event in events(node, PLAN["receive"]):
        log.event(event)
        if event["type"] != "INPUT" or event["id"] == "tick":
            continue
        forward(event, node.send_output, log)
        seen += 1
        if seen == after:
            log.write("end")
            if node.restart_count() == PLAN.get("last"):
                DONE.touch()
            leave(node.restart_count())
            return


def events(node, how):
    if how == "iterate":
        yield from node
    elif how == "next":
        yield from iter(node.next, None)
    elif how == "timeout":
        while (event := node.next(timeout=PATIENCE_S)) is not None:
            yield event
    elif how == "async":
        with asyncio.Runner() as runner:
            while (event := runner.run(asynchronous(node))) is not None:
                yield event
    else:
        yield from polled(node, how)


async def asynchronous(node):
    return await node.recv_async()


def polled(node, how):
    """Poll until STOP; what is in the queues then comes after it."""
    stopped = False
    while True:
        if how == "poll":
            event = node.try_recv()
            found = [] if event is None else [event]
        else:
            try:
                found = node.drain()
            except RuntimeError:  # the stream is closed
                return
        yield from found
        stopped |= any(event["type"] == "STOP" for event in found)
        if not found:
            if stopped:
                return
            time.sleep(0.005)


def leave(incarnation):
    if incarnation == PLAN.get("recovers"):
        return
    how = PLAN.get("leave", "")
    if how == "raise":
        raise ValueError("as planned")
    if how.startswith("exit"):
        sys.exit(int(how.split()[1]))
    if how.startswith("os._exit"):
        os._exit(int(how.split()[1]))


main()
