"""Try each way to receive: with a time-out, without waiting, all at once, asynchronously, after the end."""

import asyncio
import time

import pyarrow as pa
from notes import attempt, note, plain

from dora import Node

node = Node()


def wait():
    deadline = time.monotonic() + 10
    while node.is_empty() and time.monotonic() < deadline:
        time.sleep(0.01)


def kinds(events):
    return [event["type"] for event in events]


note("is_empty at first", node.is_empty())
note("try_recv at first", node.try_recv())
note("drain at first", node.drain())
event = node.next(timeout=0)
note("next(0) names", sorted(event))
note("next(0)", {key: plain(event[key]) for key in ("type", "kind")})
event = node.next(0.05)
note("next(0.05)", event["type"])
note("next(0.05): error begins", event["error"][:26])
node.send_output("go", pa.array([]))
wait()
note("is_empty then", node.is_empty())
event = node.next(timeout=5)
note("next", event["type"])
note("value", event["value"])
event = node.next()
note("value of the second", event["value"])
wait()
event = node.try_recv()
note("try_recv", event["type"])
note("value of the third", event["value"])
node.send_output("go", pa.array([]))
wait()
time.sleep(0.3)
note("drain", kinds(node.drain()))
node.send_output("go", pa.array([]))


async def receive():
    found = [(await node.recv_async())["type"] for _ in range(3)]
    late = await node.recv_async(timeout=0.05)
    return [*found, late["type"]]


note("recv_async", asyncio.run(receive()))
attempt("recv_async outside of a loop", lambda: type(node.recv_async()).__name__ != "")
attempt("send by keywords", node.send_output, output_id="go", data=pa.array([]), metadata={})
attempt("send without data", node.send_output, "go")
attempt("iter", lambda: iter(node) is node)
attempt("len", len, node)
attempt("truth", bool, node)
attempt("an attribute that does not exist", getattr, node, "absent")
