"""The process of one dataflow, as the daemon of a machine sees it."""

from __future__ import annotations

import asyncio

from dora.cluster.agent.identity import run_id, socket_of
from dora.cluster.protocol import (
    DataflowChanged,
    MachineLost,
    ParametersSet,
    StartRun,
    ToDaemon,
    encode,
)


class WorkerProcess:
    """The worker process of one dataflow."""

    def __init__(self, start: StartRun, process: asyncio.subprocess.Process, interpreter: str) -> None:
        self.dataflow_id = start.dataflow_id
        self.socket = socket_of(start)
        self.run_id = run_id(start) or start.dataflow_id
        self.interpreter = interpreter
        self.spec = start.spec
        self.redefined: DataflowChanged | None = None  # the last change, None if there was none
        self.parameters: dict[str, ParametersSet] = {}  # node → parameters set since the last change
        self.process = process

    def redefine(self, message: DataflowChanged) -> None:
        """Follow a changed dataflow. On one machine the message contains the present parameters."""
        nodes = {node["id"] for node in message.dataflow["nodes"]} if message.revision else set()
        self.parameters = {key: value for key, value in self.parameters.items() if key in nodes}
        self.redefined = message
        self.spec = self.spec.after(message)
        for values in self.parameters.values():
            self.set_parameters(values)

    def set_parameters(self, message: ParametersSet) -> None:
        self.parameters[message.node] = message
        self.spec = self.spec.with_parameters(message.node, message.parameters)

    def command(self, message: ToDaemon) -> None:
        assert self.process.stdin is not None
        if not self.process.stdin.is_closing():
            self.process.stdin.write(encode(message) + b"\n")

    def lose_others(self, machine: str, reason: str) -> None:
        """End without the reports of all machines but this one, which will not come."""
        for other in sorted({*self.spec.machines.values()} - {machine}):
            self.command(MachineLost(self.dataflow_id, other, reason))

    def kill(self) -> None:
        """Kill the process if it still runs; its guardian kills the nodes."""
        if self.process.returncode is None:
            self.process.kill()
