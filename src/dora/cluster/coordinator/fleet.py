"""The machines: who is connected, what their daemons report of the dataflows, and who is lost.

What a daemon says counts. One whose connection ended has `LOST_AFTER` to come back: its process has most
likely ended, and all its nodes with it. One that has just fallen silent may be behind a cut, with nodes
that go on; it is given up after `UNREACHABLE_AFTER`. A dataflow on several machines is one record; what
each of them reports is put together in `DistributedRun`, and what one has to know of the other is passed
on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable

from dora._paths import link_endpoint
from dora._version import __version__
from dora.cluster.coordinator.distributed_run import DistributedRun
from dora.cluster.coordinator.log_store import gathered_in
from dora.cluster.coordinator.placement import address_of, is_loopback
from dora.cluster.coordinator.policy import Refusal, lost
from dora.cluster.coordinator.store import Store
from dora.cluster.protocol import (
    ACTIVE,
    DEFAULT_MACHINE,
    NOBODY,
    AckEnd,
    Apply,
    DaemonRejected,
    DataflowChanged,
    DataflowView,
    DescribeRun,
    DropRecords,
    Endpoints,
    Hello,
    Limits,
    MachineLost,
    MachineView,
    Partition,
    PeerReport,
    ProposedChange,
    ReleasePartition,
    RunReport,
    RunSpec,
    StartRun,
    StopRun,
    ToDaemon,
    Welcome,
    version_fault,
)
from dora.daemon.supervisor.status import PeerStatus
from dora.dataflow.names import machine_id_fault

LOST_AFTER = 5.0  # seconds that a daemon may take to come back before its dataflows count as lost
FIRST_REPORT = 10.0  # the same, after the start of the coordinator
UNREACHABLE_AFTER = 180.0  # the same, for a machine that has fallen silent
REWRITE_AFTER = 2.0  # seconds between attempts to write to a full disk

log = logging.getLogger("dora.coordinator")


class DaemonLink:
    """The connection of a daemon; ``send`` never waits.

    ``seen`` is where the coordinator sees the machine, ``server`` where that reached the coordinator.
    """

    def __init__(self, hello: Hello, send: Callable[[ToDaemon], None], seen: str, server: str) -> None:
        self.machine = hello.machine
        self.daemon_id = hello.daemon_id
        self.labels = hello.labels
        self.address = hello.address or seen
        self.tls = hello.tls
        self.send = send
        self.seen = seen
        self.server = server

    @property
    def is_here(self) -> bool:
        """Whether it runs on the machine of the coordinator."""
        return is_loopback(self.seen) or self.seen == self.server


class Fleet:
    """All machines of one coordinator. ``on_change`` is called after every change that others wait for."""

    def __init__(self, store: Store, on_change: Callable[[], None], limits: Limits | None = None) -> None:
        self._store = store
        self._limits = limits or Limits()
        self._on_change = on_change
        self.links: dict[str, DaemonLink] = {}  # machine → its connection
        self._last: dict[str, DaemonLink] = {}  # the same, of those that are away too
        self._away: dict[str, float] = {}  # machine → since when
        self._verdicts: dict[str, asyncio.TimerHandle] = {}
        self._views: list[MachineView] | None = None
        self._shares: dict[str, DistributedRun] = {}
        for dataflow_id, daemons in store.active().items():
            self.add(dataflow_id, daemons, store.spec(dataflow_id))
        self._former: dict[str, set[str]] = {}  # dataflow → machines that have left it
        self._rewrite: asyncio.TimerHandle | None = None  # the next attempt to write to a full disk
        machines = {machine for shares in self._shares.values() for machine in shares.daemons}
        for machine in machines | {DEFAULT_MACHINE}:
            self._judge_after(machine, FIRST_REPORT if machine == DEFAULT_MACHINE else _patience())

    def views(self) -> list[MachineView]:
        """Return the machines that are connected or waited for, in the order of their ids."""
        if self._views is None:  # made anew after a change only: a thousand of them take milliseconds
            self._views = [
                MachineView(
                    id=machine,
                    labels=link.labels,
                    address=link.address,
                    daemon_id=link.daemon_id,
                    away_since=self._away.get(machine),
                )
                for machine, link in sorted(self._last.items())
                if machine in self.links or machine in self._away
            ]
        return list(self._views)

    # ----------------------------------------------------------------------- coming and going

    def join(
        self, hello: Hello, send: Callable[[ToDaemon], None], seen: str = "127.0.0.1", server: str = ""
    ) -> DaemonLink | None:
        """Take in a daemon and its report; None (and an answer to it) if it cannot take part."""
        machine = hello.machine
        fault = version_fault("daemon", hello.version, __version__)
        present = self.links.get(machine)
        if not fault and machine_id_fault(machine):
            fault = f"the machine id `{machine[:60]}` {machine_id_fault(machine)}"
        if not fault and present is not None and present.daemon_id != hello.daemon_id:
            fault = "another daemon is connected to this coordinator already"
            if machine != DEFAULT_MACHINE:
                fault = f"another daemon has connected as machine `{machine}`"
        if fault:
            log.warning("refused the daemon with process id %d: %s", hello.pid, fault)
            send(DaemonRejected(fault))
            return None
        if (verdict := self._verdicts.pop(machine, None)) is not None:
            verdict.cancel()
        link = self.links[machine] = self._last[machine] = DaemonLink(hello, send, seen, server)
        since = self._away.pop(machine, None)
        self._views = None
        after = f" again, after {time.time() - since:.1f} s" if since is not None else ""
        log.info("machine `%s`: its daemon (process id %d) is connected%s", machine, hello.pid, after)
        send(Welcome(__version__))
        for report in hello.runs:
            if report.status in ACTIVE and self._store.find(report.dataflow_id) is None:
                send(DescribeRun(report.dataflow_id))  # the store is a new one
            else:
                self.record(link, report)
        reported = {report.dataflow_id for report in hello.runs}
        if gone := tuple(id for id in hello.kept if id not in reported and self._store.find(id) is None):
            send(DropRecords(gone))
        for shares in list(self._shares.values()):
            if shares.dataflow_id in reported:
                self._catch_up(shares, link)
            elif shares.is_waited_for(machine):
                was_with = shares.daemons[machine]
                self._lose(shares, machine, lost(shares.dataflow_id, was_with, hello.daemon_id).reason)
            else:
                shares.ending.discard(machine)
        self._on_change()
        return link

    def leave(self, link: DaemonLink, silent: bool = False) -> None:
        """The connection of a daemon ended, or it has fallen silent; it has some time to come back."""
        if self.links.get(link.machine) is not link:
            return
        del self.links[link.machine]
        self._away[link.machine] = time.time()
        self._views = None
        how = "does not answer" if silent else "its daemon is gone"
        log.warning("machine `%s`: %s", link.machine, how)
        self._judge_after(link.machine, _patience() if silent else LOST_AFTER)
        self._on_change()

    def _judge_after(self, machine: str, seconds: float) -> None:
        self._verdicts[machine] = asyncio.get_running_loop().call_later(seconds, self._give_up, machine)

    def _give_up(self, machine: str) -> None:
        self._verdicts.pop(machine, None)
        if machine in self.links:
            return
        self._away.pop(machine, None)
        self._views = None
        for shares in list(self._shares.values()):
            if shares.is_waited_for(machine):
                self._lose(shares, machine, "its daemon is gone, and all nodes with it")
        self._on_change()

    # ----------------------------------------------------------------------- dataflows

    def start(self, dataflow_id: str, spec: RunSpec) -> None:
        """Let the machines start a dataflow that is in the store."""
        shares = self._shares[dataflow_id]
        gathered = self.gathers(shares.daemons)
        for machine in shares.daemons:
            share = None
            if shares.spans or gathered:
                share = Partition(machine=machine, secret=shares.secret, gathered=gathered)
            self.links[machine].send(StartRun(dataflow_id, spec, share, limits=self._limits))

    def add(self, dataflow_id: str, daemons: dict[str, str], spec: RunSpec) -> None:
        """Note that a dataflow belongs to these daemons, by machine; ``spec`` is its record."""
        shares = self._shares[dataflow_id] = DistributedRun(dataflow_id, daemons)
        shares.become(spec.machines.values(), spec.revision, daemons)

    def gathers(self, machines: Iterable[str]) -> bool:
        """Tell whether the logs of a dataflow on these machines have to be gathered here."""
        return not all(map(self.is_here, machines))

    def is_here(self, machine: str) -> bool:
        """Tell whether a machine that was connected is that of the coordinator."""
        return machine in self._last and self._last[machine].is_here

    def stop(self, dataflow_id: str, grace: float | None, force: bool) -> list[str]:
        """Let the machines stop a dataflow; one that is away hears it when it is back.

        If all are away that run a part of it, nothing is done, and they are returned.
        """
        shares = self._shares[dataflow_id]
        waited_for = [machine for machine in shares.daemons if shares.is_waited_for(machine)]
        if not any(machine in self.links for machine in waited_for):
            return waited_for
        shares.stop = StopRun(dataflow_id, grace, force)
        for machine in waited_for:
            self._say(machine, shares.stop)
        return []

    def forget(self, view: DataflowView) -> None:
        """Let the machines of a dataflow whose record goes forget it; one that is away when it is back."""
        for machine in {*view.machines, *self._former.pop(view.uuid, ())}:
            self._say(machine, DropRecords((view.uuid,)))

    def record(self, link: DaemonLink, report: RunReport) -> None:
        """Take in what a daemon reports of a dataflow."""
        machine = link.machine
        shares = self._shares.get(report.dataflow_id)
        if shares is None:
            view = self._store.find(report.dataflow_id)
            is_all = view is not None and view.machines == [machine]
            if view is None or not (is_all or report.status in ACTIVE):
                link.send(AckEnd(report.dataflow_id))
                return
            if not is_all:
                link.send(StopRun(report.dataflow_id, force=True))  # the others have gone on without it
                return
            # The daemon's word counts, also about a run that was given up before the daemon came back.
            self.add(report.dataflow_id, {machine: link.daemon_id}, self._store.spec(report.dataflow_id))
            shares = self._shares[report.dataflow_id]
        if machine in shares.joining:
            self._prepares(shares, machine, report)
            return
        if machine in shares.lost or machine not in shares.daemons:
            self._is_none_any_more(shares, machine, report)
            return
        shares.daemons[machine] = link.daemon_id
        if report.status != shares.reports[machine].status or report.reason:
            reason = f", {report.reason}" if report.reason else ""
            told = f"{report.status} on machine `{machine}`{reason}"
            log.info("dataflow %s: %s", report.dataflow_id, told)
        has_changed = report.revision > shares.reports[machine].revision
        peer_status = shares.take(machine, report)
        if shares.is_idle(machine):
            self._let_go(shares, machine, report)
        else:
            self._pass_on(shares, machine, report, peer_status)
        if has_changed:  # what it heard before was perhaps about nodes that are new to it
            self._tell_losses(shares, machine)
        self._meet_if_prepared(shares)
        self._store_whole(shares)
        self._on_change()

    def _pass_on(
        self, shares: DistributedRun, machine: str, report: RunReport, peer_status: PeerStatus | None
    ) -> None:
        for other in shares.others(machine):
            if peer_status is not None:
                self._say(other, PeerReport(report.dataflow_id, machine, peer_status))
            if report.status not in ACTIVE and report.result is None:
                self._say(
                    other, MachineLost(report.dataflow_id, machine, report.reason or "its part has ended")
                )

    def _meet_if_prepared(self, shares: DistributedRun) -> None:
        if shares.spans and not shares.met and shares.prepared():
            shares.met = True
            for target in shares.daemons:
                self._meet(shares, target)
                self._tell_change(shares, target)

    def _lose(self, shares: DistributedRun, machine: str, reason: str) -> None:
        log.warning("dataflow %s: machine `%s` is lost: %s", shares.dataflow_id, machine, reason)
        if shares.is_idle(machine):  # it had nothing to lose
            self._has_left(shares, machine, RunReport(shares.dataflow_id, "finished"))
            return
        shares.lose(machine, reason)
        for other in shares.others(machine):
            self._say(other, MachineLost(shares.dataflow_id, machine, reason))
        self._store_whole(shares)

    def _catch_up(self, shares: DistributedRun, link: DaemonLink) -> None:
        """Tell a machine what it may have missed."""
        if shares.stop is not None:
            link.send(shares.stop)
        if shares.met:
            self._meet(shares, link.machine)
            self._tell_change(shares, link.machine)
        for other, report in shares.reports.items():
            if other != link.machine and report.peer_status is not None:
                link.send(PeerReport(shares.dataflow_id, other, report.peer_status))
        self._tell_losses(shares, link.machine)

    def _tell_losses(self, shares: DistributedRun, machine: str) -> None:
        for other, reason in shares.lost.items():
            if other != machine:
                self._say(machine, MachineLost(shares.dataflow_id, other, reason))

    # ----------------------------------------------------------------------- machines that come and go

    def parts(self, dataflow_id: str) -> list[str]:
        """Return the machines with a part of a dataflow that has not ended, but for those without nodes."""
        if (shares := self._shares.get(dataflow_id)) is None:
            return []
        return [name for name in shares.daemons if shares.is_waited_for(name) and not shares.is_idle(name)]

    def has_part(self, dataflow_id: str, machine: str) -> bool:
        """Tell whether a machine has a part of a dataflow that has not ended, or prepares to."""
        shares = self._shares.get(dataflow_id)
        return shares is not None and (machine in shares.joining or shares.is_waited_for(machine))

    def spans(self, dataflow_id: str) -> bool:
        """Tell whether the coordinator decides what a dataflow becomes; see `DistributedRun.spans`."""
        return dataflow_id in self._shares and self._shares[dataflow_id].spans

    def has_lost(self, dataflow_id: str, machine: str) -> bool:
        """Tell whether a machine has nodes of a dataflow by the record, and its part has ended."""
        shares = self._shares.get(dataflow_id)
        return shares is not None and machine in shares.placed and not shares.is_waited_for(machine)

    def is_free(self, dataflow_id: str, machine: str) -> bool:
        """Tell whether a machine has no part of a dataflow, nor what is left of one."""
        shares = self._shares.get(dataflow_id)
        return shares is not None and machine not in shares.daemons and machine not in shares.ending

    def bring_in(self, dataflow_id: str, machine: str) -> None:
        """Let a free machine start a part without nodes of a running dataflow.

        It takes part once a record places nodes there, and can have them when `has_arrived`.
        """
        shares, link = self._shares[dataflow_id], self.links[machine]
        share = self.share_of(dataflow_id, machine)
        shares.joining[machine] = RunReport(dataflow_id, "starting")
        link.send(StartRun(dataflow_id, self._store.spec(dataflow_id), share, limits=self._limits))
        self._catch_up(shares, link)

    def share_of(self, dataflow_id: str, machine: str) -> Partition:
        """Return what a machine has to know to take part in a running dataflow; raises `Refusal`."""
        view, shares = self._store.find(dataflow_id), self._shares.get(dataflow_id)
        if view is None or shares is None:
            raise Refusal(409, "the dataflow has ended meanwhile")
        gathers, away = view.log_directory == gathered_in(dataflow_id), self.gathers([machine])
        return Partition(
            machine=machine, secret=shares.secret, gathered=gathers or away, apart=away and not gathers
        )

    def has_arrived(self, dataflow_id: str, machine: str) -> bool:
        """Tell whether the part of a machine that was brought in runs, or has ended."""
        shares = self._shares.get(dataflow_id)
        return shares is None or shares.joining[machine].status != "starting"

    def why_not_there(self, dataflow_id: str, machine: str) -> str:
        """Return why the part of a machine that was brought in has ended; "" if it has not."""
        shares = self._shares.get(dataflow_id)
        if shares is None or (report := shares.joining[machine]).status in ACTIVE:
            return ""
        return report.reason or "its part has ended"

    def send_away(self, dataflow_id: str, machine: str) -> None:
        """Let a machine go that was brought in, unless it takes part by now."""
        shares = self._shares.get(dataflow_id)
        report = shares.joining.pop(machine, None) if shares is not None else None
        if shares is not None and report is not None and report.status in ACTIVE:
            shares.ending.add(machine)
            self._say(machine, ReleasePartition(dataflow_id))

    def daemons_of(self, message: DataflowChanged) -> dict[str, str]:
        """Return the daemons of a dataflow, by machine, as they are once it is what this says."""
        if (shares := self._shares.get(message.dataflow_id)) is None:
            view = self._store.find(message.dataflow_id)
            return dict.fromkeys(view.machines if view is not None else (), "")
        return shares.with_those_of(message.machines.values(), lambda name: self._last[name].daemon_id)

    def redefined(self, message: DataflowChanged, daemons: dict[str, str]) -> None:
        """Note what a dataflow is by its record, with what `daemons_of` has returned."""
        if (shares := self._shares.get(message.dataflow_id)) is not None:
            for machine in shares.become(message.machines.values(), message.revision, daemons):
                self._is_former(shares, machine)

    def _prepares(self, shares: DistributedRun, machine: str, report: RunReport) -> None:
        shares.joining[machine] = report
        if report.status not in ACTIVE:
            self._say(machine, AckEnd(shares.dataflow_id))
        self._on_change()

    def _is_none_any_more(self, shares: DistributedRun, machine: str, report: RunReport) -> None:
        """End a part that was lost before, or let the daemon forget it."""
        if report.status in ACTIVE:
            shares.ending.add(machine)
            self._say(machine, StopRun(report.dataflow_id, force=True))
            return
        shares.ending.discard(machine)
        if machine not in shares.daemons:
            self._say(machine, AckEnd(report.dataflow_id))
        self._on_change()

    def _let_go(self, shares: DistributedRun, machine: str, report: RunReport) -> None:
        """Let a machine without nodes go, once its part knows that it has none."""
        if report.status not in ACTIVE:
            self._has_left(shares, machine, report)
        elif report.revision >= shares.revision:
            self._say(machine, ReleasePartition(shares.dataflow_id))

    def _has_left(self, shares: DistributedRun, machine: str, report: RunReport) -> None:
        shares.reports[machine] = report
        shares.leave(machine)
        self._is_former(shares, machine)
        self._meet_if_prepared(shares)
        shares.stored = None  # with its machines
        self._store_whole(shares)
        self._on_change()

    def _is_former(self, shares: DistributedRun, machine: str) -> None:
        log.info("dataflow %s: machine `%s` takes part no more", shares.dataflow_id, machine)
        self._former.setdefault(shares.dataflow_id, set()).add(machine)
        self._say(machine, AckEnd(shares.dataflow_id))

    # ----------------------------------------------------------------------- what dataflows are

    def becoming(
        self,
        dataflow_id: str,
        machine: str,
        ticket: int,
        amendment: ProposedChange,
        sent: dict[str, dict[str, int]],
    ) -> Apply:
        """Return what lets a machine take over a change."""
        shares = self._shares.get(dataflow_id)
        endpoints = {} if shares is None else self._endpoints(shares, machine)
        return Apply(dataflow_id, ticket, amendment, endpoints, sent)

    def catch_all_up(self, dataflow_id: str) -> None:
        """Tell all machines what a dataflow is according to its record, if they do not know."""
        if (shares := self._shares.get(dataflow_id)) is not None:
            for machine in shares.daemons:
                self._tell_change(shares, machine)

    def _tell_change(self, shares: DistributedRun, machine: str) -> None:
        if not shares.spans or not shares.is_waited_for(machine):
            return
        spec = self._store.spec(shares.dataflow_id)
        if shares.reports[machine].revision < spec.revision:
            amendment = ProposedChange(
                revision=spec.revision,
                dataflow=spec.dataflow,
                machines=spec.machines,
                generations=spec.generations,
            )
            self._say(machine, self.becoming(shares.dataflow_id, machine, NOBODY, amendment, {}))

    def _meet(self, shares: DistributedRun, target: str) -> None:
        self._say(target, Endpoints(shares.dataflow_id, self._endpoints(shares, target)))

    def _endpoints(self, shares: DistributedRun, target: str) -> dict[str, str]:
        """Return where a machine reaches the nodes of the others that listen."""
        endpoints = {}
        asking = self._last.get(target)
        for other, report in shares.reports.items():
            link = self._last.get(other)
            if other != target and link is not None and asking is not None:
                address = address_of(link.address, asking.seen, asking.server)
                for node_id, port in (report.ports or {}).items():
                    endpoints[node_id] = link_endpoint(address, port, tls=link.tls)
        return endpoints

    def _say(self, machine: str, message: ToDaemon) -> None:
        if (link := self.links.get(machine)) is not None:
            link.send(message)

    # ----------------------------------------------------------------------- the store

    def _store_whole(self, shares: DistributedRun) -> None:
        whole = shares.whole()
        if whole == shares.stored:
            return
        shares.stored = whole
        if whole.status not in ACTIVE:
            del self._shares[shares.dataflow_id]
        self._written(self._store.update(whole, shares.daemons))

    def _written(self, dataflow_ids: list[str]) -> None:
        """Let daemons forget the ends that are recorded; try to write the others again and again."""
        for dataflow_id in dataflow_ids:
            view = self._store.find(dataflow_id)
            if dataflow_id not in self._shares and view is not None:
                for machine in view.machines or [DEFAULT_MACHINE]:
                    self._say(machine, AckEnd(dataflow_id))
        if self._store.fault and self._rewrite is None:
            log.error(
                "the store %s cannot be written: %s; trying again", self._store.path, self._store.fault
            )
            self._rewrite = asyncio.get_running_loop().call_later(REWRITE_AFTER, self._write_again)

    def _write_again(self) -> None:
        self._written(self._store.flush())
        if self._store.fault:
            self._rewrite = asyncio.get_running_loop().call_later(REWRITE_AFTER, self._write_again)
        else:
            self._rewrite = None
            log.info("the store can be written again")

    def close(self) -> None:
        for verdict in self._verdicts.values():
            verdict.cancel()
        if self._rewrite is not None:
            self._rewrite.cancel()


def _patience() -> float:
    """Return ``DORA_UNREACHABLE_AFTER``: seconds that a silent machine is waited for."""
    try:
        return max(float(os.environ.get("DORA_UNREACHABLE_AFTER", "")), 0.0)
    except ValueError:
        return UNREACHABLE_AFTER
