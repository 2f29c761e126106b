"""Calls in virtual time: what waits for an answer waits on the clock of the test."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from dora import CallTimedOut, Node
from dora.testing import run_dataflow

PAIR = """
nodes:
  - id: server
    path: server.py
    inputs: {request: client/request}
    outputs: [response]
  - id: client
    path: client.py
    inputs: {response: server/response}
    outputs: [request, log]
"""


def slow_server(node: Node) -> None:
    @node.serve("request", "response")
    def double(request: Any) -> pa.Array:
        time.sleep(30)
        return pa.array([request["value"][0].as_py() * 2])

    for _ in node:
        pass


def test_a_slow_answer_arrives_and_a_late_one_times_out() -> None:
    def client(node: Node) -> None:
        reply = node.call("request", pa.array([21]), timeout=60).wait()
        node.send_output("log", reply["value"])
        try:
            node.call("request", pa.array([0]), timeout=10).wait()
        except CallTimedOut as error:
            node.send_output("log", pa.array([str(error)]))

    begun = time.perf_counter()
    flow = run_dataflow(PAIR, nodes={"server": slow_server, "client": client})
    assert [(sent.time, sent.value.to_pylist()) for sent in flow.outputs["client/log"]] == [
        (30.0, [42]),
        (40.0, ["the call on `request` had no answer within 10 s"]),
    ]
    assert time.perf_counter() - begun < 40


def test_an_awaited_answer() -> None:
    async def client(node: Node) -> None:
        reply = await node.call("request", pa.array([4]), timeout=60)
        node.send_output("log", reply["value"])

    flow = run_dataflow(PAIR, nodes={"server": slow_server, "client": client})
    assert [sent.value.to_pylist() for sent in flow.outputs["client/log"]] == [[8]]
