"""A dataflow that runs in the background of a test, which changes it meanwhile."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from flow import Flow
from waiting import TIMEOUT

from dora.daemon.apply_operation import apply_operation
from dora.daemon.client import DaemonClient, running
from dora.daemon.supervisor.result import DataflowResult
from dora.errors import DoraError
from dora.observe.tap_session import inspect
from dora.wire.daemon_protocol import NodeView
from dora.wire.operations import (
    AddOperation,
    ConnectOperation,
    DisconnectOperation,
    OperationResult,
    RemoveOperation,
    ReplaceOperation,
    RestartOperation,
    StopOperation,
    TopologyOperation,
)

# Sends 1, 2, 3, …, without ever looking at what comes in, unless it is asked to stop. Queues of the length
# that the tests give hold what is sent in several seconds, in which a busy machine may not let a node run.
SOURCE = """
    from dora import Node
    node = Node()
    number = 0
    while True:
        event = node.next(timeout=0.005)
        if event["type"] == "STOP":
            break
        number += 1
        node.send_output("out", str(number).encode())
    print("sent", number)
"""
# Tells at its end what came on each input: runs of numbers without a gap, with the closings between.
SINK = """
    import json
    from dora import Node
    node = Node()
    runs = {}
    for event in node:
        if event["type"] == "INPUT":
            name, number = event["id"], int(bytes(event["data"]).split(b" ")[0])
            mine = runs.setdefault(name, [])
            if not mine or mine[-1] == "closed" or number != mine[-1][1] + 1:
                begins = not mine or mine[-1] == "closed"
                mine.append([number, number])
                if begins:
                    print("receives", name, flush=True)
            else:
                mine[-1][1] = number
        elif event["type"] == "INPUT_CLOSED":
            runs.setdefault(event["id"], []).append("closed")
            print("closed", event["id"], flush=True)
        else:
            print(event["type"], event.get("id"), flush=True)
    print("end", json.dumps(runs), flush=True)
"""
RELAY = """
    from dora import Node
    node = Node()
    print("relays as process", node.restart_count(), flush=True)
    for event in node:
        if event["type"] == "INPUT":
            node.send_output("out", event["value"])
"""


class Live:
    """``with Live(flow) as live`` runs the dataflow; at the end of the block all its nodes are stopped."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.result: DataflowResult | None = None
        self._trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        try:
            self.result = self.flow.run(stop_after=4 * TIMEOUT)
        except BaseException as error:  # noqa: BLE001 - raised again in the test
            self._trouble = error

    def __enter__(self) -> Live:
        self._thread.start()
        self.until(lambda: self._is_running(), "the start of all nodes")
        return self

    def _is_running(self) -> bool:
        for run in running():
            with run:
                return all(view.status in ("Running", "Not connected") for view in inspect(run).nodes)
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node_id in [view.id for view in self.nodes()]:
            try:
                self.stop(node_id)
            except DoraError:
                break  # that was the last one
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive(), "the dataflow does not end"
        if self._trouble is not None and kind is None:
            raise self._trouble

    def run(self) -> DaemonClient:
        found = list(running())
        if not found:
            raise DoraError("the dataflow has ended")
        return found[0]

    def nodes(self) -> list[NodeView]:
        found = list(running())
        for run in found:
            with run:
                return inspect(run).nodes
        return []

    def node(self, node_id: str) -> NodeView:
        return next(view for view in self.nodes() if view.id == node_id)

    def apply(self, operation: TopologyOperation) -> OperationResult:
        with self.run() as run:
            return apply_operation(run, operation, os.environ, self.flow.entries.append)

    def add(self, node_id: str, script: str, **fields: Any) -> None:
        """Add a node with a script."""
        self.flow.file(f"{node_id}.py", script)
        self.apply(AddOperation(json.dumps({"id": node_id, "path": f"{node_id}.py", **fields})))

    def replace(self, node_id: str, script: str, **fields: Any) -> None:
        name = self.flow.file(f"{node_id}-{time.monotonic_ns()}.py", script)
        self.apply(ReplaceOperation(node_id, json.dumps({"path": name, **fields})))

    def connect(self, source: str, target: str, **options: Any) -> None:
        self.apply(ConnectOperation(source, target, **options))

    def disconnect(self, source: str, target: str) -> None:
        self.apply(DisconnectOperation(source, target))

    def remove(self, node_id: str, grace: float | None = None) -> OperationResult:
        return self.apply(RemoveOperation(node_id, grace))

    def restart(self, node_id: str, grace: float | None = None) -> OperationResult:
        return self._ask(RestartOperation(node_id, grace))

    def stop(self, node_id: str, grace: float | None = None) -> OperationResult:
        return self._ask(StopOperation(node_id, grace))

    def _ask(self, request: RestartOperation | StopOperation) -> OperationResult:
        with self.run() as run:
            run.set_patience(None)
            answer = run.ask(request)
        assert isinstance(answer, OperationResult)
        return answer

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            if self._trouble is not None:
                raise self._trouble
            assert time.monotonic() < deadline, f"no {what} in time"
            time.sleep(0.005)

    def until_printed(self, node_id: str, line: str, times: int = 1) -> None:
        self.until(
            lambda: self.flow.printed(node_id).count(line) >= times,
            f"{line!r} of `{node_id}`, {times} times",
        )


def received(flow: Flow, node_id: str) -> dict[str, list[Any]]:
    """Return what a `SINK` told at its end: runs of numbers, by input."""
    (line,) = [line for line in flow.printed(node_id) if line.startswith("end ")]
    runs: dict[str, list[Any]] = json.loads(line.removeprefix("end "))
    return runs
