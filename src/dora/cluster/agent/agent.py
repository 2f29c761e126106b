"""The daemon of a machine: it runs the dataflows of a coordinator, each in a worker process.

With a process per dataflow, none can delay or break another, and each has a guardian like ``dora run``. The
daemon only starts workers and forwards commands. It repeats the end of a run until the coordinator has
recorded it. A lost coordinator stops nothing.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection

from dora._paths import NO_TLS, data_folder
from dora.cluster.agent.connection import ClockSync, CoordinatorConnection, DaemonRefused
from dora.cluster.agent.identity import Identity, LinkCertificate, daemon_lock, lock_path
from dora.cluster.agent.limits import UsageMeter
from dora.cluster.agent.link_port import LinkPort
from dora.cluster.agent.warm_templates import WarmTemplates
from dora.cluster.agent.worker_process import Observers, WorkerProcess
from dora.cluster.agent.worker_reports import LogOutbox
from dora.cluster.coordinator.placement import is_loopback
from dora.cluster.message_log import log_message
from dora.cluster.protocol import (
    ACTIVE,
    JUST_ENDED,
    MAX_MESSAGE,
    STILL_STARTING,
    AckEnd,
    AckLogs,
    Answered,
    Apply,
    Ask,
    Collect,
    Collectable,
    Collected,
    DaemonRejected,
    DescribeRun,
    DropRecords,
    Endpoints,
    HeartbeatAnswer,
    ListensAt,
    LogBatch,
    MachineLost,
    ObserverRefused,
    OpenObserver,
    ParametersSet,
    PeerReport,
    Prepare,
    ReleasePartition,
    RunDescription,
    RunReport,
    RunUsage,
    Shutdown,
    SignedCertificate,
    StartRun,
    StopRun,
    ToCoordinator,
    ToDaemon,
    Welcome,
    decode_to_coordinator,
    decode_to_daemon,
    encode,
    welcome_fault,
)
from dora.cluster.ssh.retention import release, retain, retained_for
from dora.daemon.run_directory import remove_stale
from dora.daemon.signals import SignalEchoes
from dora.errors import DoraError
from dora.transport.tokens import Token
from dora.wire.correlation import uuid7
from dora.wire.daemon_protocol import Rejected, answer_timeout
from dora.wire.daemon_protocol import Request as DaemonRequest

# Seconds in which a worker must have killed its nodes. One that hangs is killed then; its guardian kills
# them.
FORCE_AFTER = 5.0
# Seconds for the coordinator to acknowledge the last reports. Later they are lost with this process, and
# the coordinator records their dataflows as failed.
DRAIN_TIMEOUT = 1.0
_LISTEN_AGAIN = 1.0  # seconds between two attempts to listen for links at a new address

log = logging.getLogger("dora.daemon")
_warn_once = functools.cache(log.warning)  # metrics are collected again and again


class Agent:
    """Serves one coordinator, on one machine."""

    def __init__(
        self,
        addresses: Sequence[str],
        port: int,
        token: Token,
        identity: Identity,
        authority: str = "",
        run_options: Sequence[str] = (),
    ) -> None:
        """``addresses`` all lead to one coordinator, and are tried in turn. Raises `DoraError`.

        ``authority``: see `dora.transport.proof.proven_connection`. ``run_options`` go to each
        `dora.cluster.agent.worker`.
        """
        self._address = addresses[0], port
        self._run_options = run_options
        self._identity = identity
        self._interface = identity.address
        self._coordinator = CoordinatorConnection(addresses, port, token, authority)
        self._certificate = None
        if identity.tls is None and authority != NO_TLS:
            path = lock_path(*self._address, identity.machine).removesuffix(".lock")
            self._certificate = LinkCertificate(identity.machine, path)
        self._observers = Observers(token.value, identity.machine, authority)
        self._id = uuid7()
        self._runs: dict[str, WorkerProcess] = {}
        self._link_port = LinkPort(identity.link_port, self._gateway_of)
        self._next_move: asyncio.TimerHandle | None = None  # the next attempt of `_move_links`
        self._reports: dict[str, RunReport] = {}  # of active runs, and ends that are not acknowledged
        self._tasks: set[asyncio.Task[None]] = set()
        self._connection: ClientConnection | None = None
        self._outgoing: asyncio.Queue[ToCoordinator] = asyncio.Queue()
        # The lock keeps the threads of `release` apart, which may remove files of the same copy.
        self._releasing = asyncio.Lock()
        self._logs = LogOutbox()
        self._changed = asyncio.Event()  # a run has ended, or its end was recorded
        self._shutting_down = False
        self._echoes = SignalEchoes()
        self._meter = UsageMeter()
        self._clock_sync = ClockSync()
        self._templates = WarmTemplates()

    def install_signal_handlers(self) -> None:
        """Shut down cleanly on SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    def run(self) -> None:
        """Serve until the coordinator or a signal ends this; raises `DoraError`, also if it is rejected."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        self.install_signal_handlers()  # before others can see that there is a daemon
        with daemon_lock(*self._address, self._identity.machine):
            await self.serve()

    async def serve(self) -> None:
        """Serve as `run` does, in a running event loop."""
        connecting = asyncio.create_task(
            self._coordinator.keep_connected(self._serve_connection, lambda: self._shutting_down)
        )
        self._templates.ensure(sys.executable)
        try:
            while not connecting.done() and not (self._shutting_down and not self._runs):
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait({connecting, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            if connecting.done():
                connecting.result()
            await self._drain()
        finally:
            connecting.cancel()
            await self._end_all()

    def _on_signal(self, number: int) -> None:
        if self._echoes.is_echo(number):
            return
        if self._shutting_down:
            for run in self._runs.values():
                run.command(StopRun(run.dataflow_id, force=True))
        self._shut_down()

    def _shut_down(self) -> None:
        """Stop all dataflows; `serve` returns when they have ended."""
        if not self._shutting_down:
            self._shutting_down = True
            log.info("stopping %d dataflow(s)", len(self._runs))
            for run in self._runs.values():
                run.command(StopRun(run.dataflow_id))
            self._end_alone()
        self._changed.set()

    def _end_alone(self) -> None:
        """If this daemon ends without a connection, do not wait for reports of other machines."""
        if self._shutting_down and self._connection is None:
            for run in self._runs.values():
                run.lose_others(self._identity.machine, self._coordinator.no_connection)

    async def _drain(self) -> None:
        deadline = time.monotonic() + DRAIN_TIMEOUT
        while self._connection is not None and self._has_unacknowledged and time.monotonic() < deadline:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                break
        if self._connection is not None:
            await self._connection.close()

    @property
    def _has_unacknowledged(self) -> bool:
        return bool(self._reports) or not self._logs.is_empty

    async def _end_all(self) -> None:
        if self._next_move is not None:
            self._next_move.cancel()
        self._link_port.close()
        await self._observers.close()
        await self._templates.close()
        if self._certificate is not None:
            self._certificate.remove()
        for run in self._runs.values():
            if run.process.stdin is not None:
                run.process.stdin.close()  # kills its nodes
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FORCE_AFTER)  # the watches end with the workers
        for run in self._runs.values():
            run.kill()

    # ----------------------------------------------------------------------- coordinator

    async def _serve_connection(self, connection: ClientConnection) -> None:
        self._outgoing = asyncio.Queue()  # messages in the old queue are in the reports too
        # No `await` from here to the set `_connection`: so each report is in `Hello` or in the new queue.
        identity = self._identity
        retained = retained_for(identity.machine, self._coordinator.name)
        request = ""
        if self._certificate is not None and (
            self._coordinator.gives_certificates or not is_loopback(identity.address or "127.0.0.1")
        ):
            request = self._certificate.request()
        hello = identity.hello(self._id, tuple(self._reports.values()), retained, request)
        self._outgoing.put_nowait(hello)
        for run in self._runs.values():
            for parameters in run.parameters.values():
                self._outgoing.put_nowait(parameters)
        self._logs.send_again()
        local = str(connection.local_address[0])
        # On the coordinator's own machine the local address is loopback, which others cannot reach.
        address = identity.address or ("0.0.0.0" if is_loopback(local) else local)
        if address != self._interface:
            self._interface = address
            self._move_links()
        self._connection = connection
        self._send_logs()
        sender = asyncio.create_task(self._send_all(connection, self._outgoing))
        heartbeats = asyncio.create_task(self._clock_sync.send_heartbeats(self._outgoing))
        try:
            async for data in connection:
                message = decode_to_daemon(data)
                log_message(log, "the coordinator says", message)
                await self._take(message)
        finally:
            self._connection = None
            self._end_alone()
            sender.cancel()
            heartbeats.cancel()

    async def _send_all(self, connection: ClientConnection, outgoing: asyncio.Queue[ToCoordinator]) -> None:
        while True:
            message = await outgoing.get()
            log_message(log, "the coordinator is told", message)
            await connection.send(encode(message).decode())

    async def _take(self, message: ToDaemon) -> None:
        match message:
            case Welcome():
                if fault := welcome_fault(message):
                    raise DaemonRefused(fault)
                self._coordinator.on_welcome()
            case SignedCertificate():
                if self._certificate is not None:
                    self._certificate.take(message)
                    self._identity = msgspec.structs.replace(self._identity, tls=self._certificate.files)
                    if fault := self._certificate.write():  # the connection does not need it
                        log.error("no new certificate for links to other machines: %s", fault)
            case HeartbeatAnswer():
                self._clock_sync.take(message, self._runs.values())
            case DaemonRejected(reason=reason):
                raise DaemonRefused(reason)
            case StartRun():
                await self._start(message)
            case StopRun() | Endpoints() | PeerReport() | MachineLost() | ReleasePartition():
                if (run := self._runs.get(message.dataflow_id)) is not None:
                    run.command(message)
                    if isinstance(message, StopRun) and message.force:
                        asyncio.get_running_loop().call_later(FORCE_AFTER, run.kill)
            case Ask() | Prepare() | Apply():
                if (run := self._runs.get(message.dataflow_id)) is None:
                    self._outgoing.put_nowait(Answered(message.ticket, Rejected(JUST_ENDED)))
                elif isinstance(message, Ask):
                    # In the background: messages for other dataflows do not wait for one that hangs.
                    self._in_background(self._ask(run, message.ticket, message.request))
                elif isinstance(message, Prepare) and (fault := self._meet(run, message)):
                    self._outgoing.put_nowait(Answered(message.ticket, Rejected(fault)))
                else:
                    run.command(message)
            case AckEnd(dataflow_id=dataflow_id):
                if dataflow_id not in self._runs:  # else `_watch` reports once more, when it is gone
                    self._reports.pop(dataflow_id, None)
                    self._changed.set()
            case DropRecords(dataflow_ids=dataflow_ids):
                gone = [id for id in dataflow_ids if id not in self._runs]
                self._in_background(self._release(gone))
            case AckLogs(number=number):
                self._logs.confirm(number)
                self._send_logs()
                self._changed.set()
            case DescribeRun(dataflow_id=dataflow_id):
                if (run := self._runs.get(dataflow_id)) is not None:
                    self._outgoing.put_nowait(RunDescription(self._reports[dataflow_id], run.spec))
            case Collect(number=number, what=what):
                self._in_background(self._send_collected(number, what))
            case OpenObserver():
                self._in_background(self._open_observer(message))
            case Shutdown():
                self._shut_down()

    async def _ask(self, run: WorkerProcess, ticket: int, request: DaemonRequest) -> None:
        starting = self._reports[run.dataflow_id].status == "Starting" and not os.path.exists(run.socket)
        answered = Answered(
            ticket,
            Rejected(STILL_STARTING) if starting else await run.ask(request, answer_timeout(request)),
        )
        if (size := len(encode(answered))) > MAX_MESSAGE:  # the coordinator would end the connection
            reason = f"the answer has {size:,} bytes, and at most {MAX_MESSAGE:,} go over the coordinator"
            answered = Answered(ticket, Rejected(reason))
        self._outgoing.put_nowait(answered)

    async def _send_collected(self, number: int, what: Collectable) -> None:
        match what:
            case "usage":
                runs = {run.run_id: run for run in self._runs.values()}
                workers = {run.process.pid: run_id for run_id, run in runs.items()}
                measured = await asyncio.to_thread(self._meter.measure, workers)
                usage = [RunUsage(runs[id].dataflow_id, *used) for id, used in measured.items()]
                answer = Collected(number, what, usage=usage)
            case "metrics":
                from dora.observe.metrics import collect_all_metrics

                metrics = await asyncio.to_thread(collect_all_metrics, tuple(self._runs), _warn_once)
                answer = Collected(number, what, metrics=metrics)
            case "templates":
                templates = await asyncio.to_thread(self._templates.views)
                answer = Collected(number, what, templates=templates)
        self._outgoing.put_nowait(answer)

    async def _open_observer(self, message: OpenObserver) -> None:
        fault = JUST_ENDED
        if (run := self._runs.get(message.dataflow_id)) is not None:
            fault = await self._observers.start(
                self._coordinator.url, message.ticket, run.socket, run.interpreter
            )
        if fault:
            self._outgoing.put_nowait(ObserverRefused(message.ticket, fault))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ----------------------------------------------------------------------- runs

    async def _start(self, start: StartRun) -> None:
        dataflow_id = start.dataflow_id
        if dataflow_id in self._reports:
            return
        self._report(RunReport(dataflow_id, "Starting"))
        if self._shutting_down:
            self._report(RunReport(dataflow_id, "Failed", reason="the daemon is about to end"))
            return
        try:
            self._retain(start)  # before the process: copies that are not noted as used may be removed
        except DoraError as error:
            self._report(RunReport(dataflow_id, "Failed", reason=str(error)))
            return
        except OSError as error:
            reason = f"it cannot be noted in {data_folder()} that it runs: {error.strerror}"
            self._report(RunReport(dataflow_id, "Failed", reason=reason))
            return
        try:
            port = self._listen_for_links() if start.is_distributed else 0
        except DoraError as error:
            self._report(RunReport(dataflow_id, "Failed", reason=str(error)))
            return
        wanted = start.spec.interpreter
        interpreter = wanted if wanted and os.access(wanted, os.X_OK) else sys.executable
        if interpreter != wanted:
            log.debug("dataflow %s: there is no `%s` here; %s runs it", dataflow_id, wanted, interpreter)
        self._templates.ensure(interpreter)
        try:
            process = await asyncio.create_subprocess_exec(
                *(interpreter, "-P", "-m", "dora.cluster.agent.worker", *self._run_options),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the daemon; a worker ends a build by its group
                limit=MAX_MESSAGE,  # a longer line is invalid, and `_watch` kills the worker
            )
        except OSError as error:
            self._report(RunReport(dataflow_id, "Failed", reason=f"{interpreter} cannot be run: {error}"))
            return
        partition = msgspec.structs.replace(
            start.partition, interface=self._interface, port=port, tls=self._identity.tls
        )
        start = msgspec.structs.replace(start, partition=partition, coordinator=self._coordinator.where)
        run = self._runs[dataflow_id] = WorkerProcess(start, process, interpreter)
        run.command(start)
        self._clock_sync.tell(run)  # before the first message of another machine
        if self._shutting_down:  # a signal has arrived meanwhile
            run.command(StopRun(dataflow_id))
        log.info("dataflow %s: process %d runs it", dataflow_id, process.pid)
        self._in_background(self._watch(run))

    def _listen_for_links(self) -> int:
        """Listen at the link port, unless this machine has none; return it. Raises `DoraError`."""
        certificate = self._certificate
        if certificate is not None and (fault := certificate.write()) and not certificate.is_there:
            raise DoraError(f"machine `{self._identity.machine}`: {fault}")
        try:
            return self._link_port.open(self._interface)
        except DoraError as error:
            raise DoraError(f"machine `{self._identity.machine}`: {error}") from None

    def _meet(self, run: WorkerProcess, change: Prepare) -> str:
        """Be ready for the first link of a dataflow to another machine; return why that is not possible."""
        if not run.has_links and not {*change.proposal.machines.values()} <= {self._identity.machine}:
            try:
                port = self._listen_for_links()
            except DoraError as error:
                return str(error)
            run.has_links = True
            run.command(ListensAt(self._interface, port))  # before `Prepare`, which reports the port
        return ""

    def _move_links(self, reported: str = "") -> None:
        """Have the dataflows with links to other machines follow this one to another address.

        As long as it cannot listen there, it tries again: the address may not be up yet, or another program
        may have the port for a moment. ``reported``: why the last attempt failed.
        """
        if self._next_move is not None:
            self._next_move.cancel()
            self._next_move = None
        runs = [run for run in self._runs.values() if run.has_links]
        if not runs:
            return
        try:
            port, fault = self._listen_for_links(), ""
        except DoraError as error:
            port, fault = 0, str(error)
            loop = asyncio.get_running_loop()
            self._next_move = loop.call_later(_LISTEN_AGAIN, self._move_links, fault)
            if fault != reported:
                log.warning(
                    "%s. It is tried again; until then, only this machine can connect to others", fault
                )
        if not (reported and fault):  # otherwise the workers know it
            for run in runs:
                run.command(ListensAt(self._interface, port))

    def _gateway_of(self, dataflow_id: str) -> str:
        """Return the socket of a gateway for connections, "" if the dataflow does not run here."""
        run = self._runs.get(dataflow_id)
        return "" if run is None else run.links_socket

    def _retain(self, start: StartRun) -> None:
        """Write down which copies of folders a dataflow uses here; raises ``OSError``."""
        machine, spec = self._identity.machine, start.spec
        here = [node for node in spec.dataflow["nodes"] if spec.machines.get(node["id"]) == machine]
        named = [folder for node in here if (folder := (node.get("deploy") or {}).get("working_dir"))]
        if named or start.partition.collect_logs or start.is_distributed:
            retain(start.dataflow_id, machine, self._coordinator.name, named)

    async def _release(self, dataflow_ids: list[str]) -> None:
        async with self._releasing:  # one at a time
            await asyncio.to_thread(release, dataflow_ids, self._identity.machine)

    async def _watch(self, run: WorkerProcess) -> None:
        """Forward the reports of a worker until it ends."""
        assert run.process.stdout is not None
        try:
            async for line in run.process.stdout:
                message = decode_to_coordinator(line)
                if isinstance(message, LogBatch):
                    self._forward_logs(message)
                    continue
                if isinstance(message, ParametersSet):
                    run.set_parameters(message)
                if isinstance(message, (ParametersSet, Answered)):
                    if self._connection is not None:
                        self._outgoing.put_nowait(message)
                    continue
                assert isinstance(message, RunReport)
                run.follow(message)
                if message.status in ACTIVE:
                    self._report(message)
                else:
                    self._reports[run.dataflow_id] = message  # sent when the process is gone
        except (ValueError, AssertionError, msgspec.DecodeError) as error:
            log.error("dataflow %s: its worker sent an invalid report: %s", run.dataflow_id, error)
            run.kill()
        if run.process.stdin is not None:
            run.process.stdin.close()
        code = await run.process.wait()
        report = self._reports[run.dataflow_id]
        if code:
            await asyncio.to_thread(_remove_stale_runs)
        if report.status in ACTIVE:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
            report = RunReport(
                run.dataflow_id,
                "Failed",
                reason=f"the process that ran it {how}, and all nodes ended with it; the log of the daemon "
                "may say why",
                crashed=True,
            )
        del self._runs[run.dataflow_id]
        self._report(report)
        self._changed.set()

    def _forward_logs(self, entries: LogBatch) -> None:
        self._logs.add(entries)
        self._send_logs()

    def _send_logs(self) -> None:
        while self._connection is not None and (batch := self._logs.next()) is not None:
            self._outgoing.put_nowait(batch)

    def _report(self, report: RunReport) -> None:
        before = self._reports.get(report.dataflow_id)
        if before is None or (before.status, before.reason) != (report.status, report.reason):
            reason = f", {report.reason}" if report.reason else ""
            log.info("dataflow %s: %s%s", report.dataflow_id, report.status, reason)
        self._reports[report.dataflow_id] = report
        if self._connection is not None:
            self._outgoing.put_nowait(report)


def _remove_stale_runs() -> None:
    """Remove the files of runs that were killed together with their guardians."""
    try:
        remove_stale()
    except (DoraError, OSError) as error:
        log.warning("what a killed run left could not be removed: %s", error)
