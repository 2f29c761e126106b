"""Processes that the daemon of a machine starts: the worker of a dataflow, and observers of it."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

import msgspec

from dora._ownership import connect_own
from dora._paths import links_socket_of
from dora.cluster.agent.identity import run_id, socket_of
from dora.cluster.protocol import (
    JUST_ENDED,
    Apply,
    MachineLost,
    ParametersSet,
    RunReport,
    StartRun,
    ToDaemon,
    encode,
)
from dora.errors import DoraError
from dora.wire.daemon_protocol import Answer, DataflowEnded, Rejected, Request, decode_answer
from dora.wire.decoders import DecodeError
from dora.wire.framing import FrameBuffer, FrameError, encode_frame
from dora.wire.operations import ProposedChange

# At a time: each is a Python process beside the nodes. Requests that act start none, so none is refused for
# it.
MAX_OBSERVERS: Final = 32

log = logging.getLogger("dora.daemon")


class WorkerProcess:
    """The worker process of one dataflow."""

    def __init__(self, start: StartRun, process: asyncio.subprocess.Process, interpreter: str) -> None:
        self.dataflow_id = start.dataflow_id
        self.socket = socket_of(start)
        self.links_socket = links_socket_of(os.path.dirname(self.socket))
        self.run_id = run_id(start) or start.dataflow_id
        self.interpreter = interpreter
        self.spec = start.spec
        self.parameters: dict[str, ParametersSet] = {}  # node → parameters set since the start
        self.has_links = start.is_distributed  # with other machines, or is about to
        self.process = process
        self._change: ProposedChange | None = None  # the last one that the worker was sent

    def follow(self, report: RunReport) -> None:
        """Change the spec if the worker reports that it has applied the change that it was sent."""
        change = self._change
        if change is None or not report.revision == change.revision > self.spec.revision:
            return
        self.spec = self.spec.after(change)
        nodes = {node["id"] for node in change.dataflow["nodes"]}
        self.parameters = {key: value for key, value in self.parameters.items() if key in nodes}
        for values in self.parameters.values():
            self.set_parameters(values)

    def set_parameters(self, message: ParametersSet) -> None:
        self.parameters[message.node] = message
        self.spec = self.spec.with_parameters(message.node, message.parameters)

    def command(self, message: ToDaemon) -> None:
        if isinstance(message, Apply):
            self._change = message.proposal
        assert self.process.stdin is not None
        if not self.process.stdin.is_closing():
            # Without `drain`: a worker that hangs does not hold up the other dataflows.
            self.process.stdin.write(encode(message) + b"\n")

    async def ask(self, request: Request, timeout: float | None = None) -> Answer:
        """Return the answer of the dataflow; `Rejected` if there is none within ``timeout`` seconds."""
        try:
            # Without waiting: a dataflow that hangs does not hold up this loop.
            connection = connect_own(self.socket, 0.0)
        except OSError:
            return Rejected(JUST_ENDED)
        except DoraError as error:
            return Rejected(str(error))
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        try:
            async with asyncio.timeout(timeout):
                writer.write(encode_frame(request))
                frames = FrameBuffer()
                while data := await reader.read(1 << 16):
                    frames.feed(data)
                    for answer in map(decode_answer, frames):
                        if not isinstance(answer, DataflowEnded):
                            return answer
        except TimeoutError:
            return Rejected(f"the dataflow has not answered within {timeout:g} s")
        except (FrameError, DecodeError):
            return Rejected("the dataflow is of another version of dora than its daemon")
        except OSError:
            pass  # the process of the dataflow was killed
        finally:
            writer.close()
        return Rejected(JUST_ENDED)

    def lose_others(self, machine: str, reason: str) -> None:
        """End without the reports of all machines but this one, which will not come."""
        for other in sorted({*self.spec.machines.values()} - {machine}):
            self.command(MachineLost(self.dataflow_id, other, reason))

    def kill(self) -> None:
        """Kill the process if it still runs; its guardian kills the nodes."""
        if self.process.returncode is None:
            self.process.kill()


class Observers:
    """Starts observers for clients on other machines; see `dora.observe.remote`.

    Each connects to the coordinator by itself. It ends with its standard input, and so with the daemon,
    however the daemon ends. ``machine`` is the id of this machine. ``authority`` of the
    coordinator: see `dora.transport.proof.proven_connection`.
    """

    def __init__(self, token: str, machine: str, authority: str = "") -> None:
        self._token = token
        self._machine = machine
        self._authority = authority
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = 0  # observers whose process is not there yet

    async def start(self, coordinator: str, ticket: str, socket: str, interpreter: str) -> str:
        """Start an observer for the coordinator at this URL; return why it failed, or ""."""
        from dora.observe.remote.protocol import StartMessage

        if self._starting + len(self._tasks) >= MAX_OBSERVERS:
            return (
                f"there are {MAX_OBSERVERS} observers of machine `{self._machine}` already; end one of them"
            )
        self._starting += 1
        try:
            process = await asyncio.create_subprocess_exec(
                *(interpreter, "-P", "-m", "dora.observe.remote.server"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return f"{interpreter} cannot be run on machine `{self._machine}`: {error}"
        finally:
            self._starting -= 1
        assert process.stdin is not None
        url = f"{coordinator}/api/observers/{ticket}"
        order = StartMessage(url, self._token, socket, self._machine, self._authority)
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        task = asyncio.create_task(self._watch(process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return ""

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        try:
            code = await process.wait()
            if code:
                log.warning("an observer ended with status %d", code)
        finally:
            if process.stdin is not None:
                process.stdin.close()  # ends it with this process

    async def close(self) -> None:
        """End all observers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
