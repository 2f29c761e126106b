"""What a machine does when the coordinator changes a dataflow on several machines: prepare, and become.

The coordinator says what the whole dataflow shall be, as it would be started. Here some nodes are not quite
as it knows them: they have been built, and stand in another folder. So what comes is put together from
both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from dora.building.options import BuildOptions
from dora.building.prepare import build_programs, check_programs
from dora.coordinator.protocol import Apply, ProposedChange
from dora.daemon.runs import DaemonClient
from dora.dataflow.loader import missing_files
from dora.dataflow.model import Dataflow, NodeSpec, OperatorSpec, Program
from dora.errors import ConnectError, DataflowError, DoraError
from dora.logs.entry import LogEntry
from dora.machine.part import LocalPartition, check_folder, hears_others
from dora.machine.reports import Reports
from dora.wire.decoders import from_plain
from dora.wire.requests import (
    ApplyChange,
    CheckChange,
    Conflict,
    GetModel,
    Model,
    Places,
    ReplaceNode,
    SentCounts,
)
from dora.wire.wishes import OperationResult


class PartitionChanges:
    """The changes of one part. Safe to use from several threads; one thing is done at a time."""

    def __init__(self, part: LocalPartition, reports: Reports, on_log: Callable[[LogEntry], None]) -> None:
        self._part = part
        self._reports = reports
        self._on_log = on_log
        self._lock = threading.Lock()
        self._built: dict[str, NodeSpec] = {}  # of the change that has been prepared

    def prepare(self, run: DaemonClient, amendment: ProposedChange) -> dict[str, dict[str, int]]:
        """Do what has to be done before the change, and return what the nodes here have sent.

        Raises `DoraError` if the change cannot be made; it can then be forgotten, as nothing has changed.
        """
        run.set_patience(None)
        with self._lock:
            self._built.clear()  # of a change that came to nothing
            wanted, local = self._local(run, amendment)
            fresh = self._fresh(amendment, wanted)
            machines, machine = amendment.machines, self._part.machine
            hearing = [node.id for node in wanted.nodes if hears_others(node, machines, machine)]
            self._part.choose_ports(
                hearing, anew=[node.id for node in fresh if node.id != amendment.replaced]
            )
            places = Places(machines, amendment.births, self._part.remote({}))
            answer = run.ask(CheckChange(amendment.revision, msgspec.to_builtins(local), places))
            if isinstance(answer, Conflict):
                raise DoraError("the dataflow has changed meanwhile; try again")
            assert isinstance(answer, SentCounts)
            return answer.counts

    def become(self, run: DaemonClient, order: Apply) -> OperationResult:
        """Take over a change; raises `DoraError`, which a change of a node's program leaves undone.

        Any other is taken over all the same: what has failed is the node that was added, or the link.
        """
        run.set_patience(None)
        amendment, part = order.amendment, self._part
        done = OperationResult(amendment.replaced)
        with self._lock:
            if amendment.revision <= part.revision:
                return done
            _, local = self._local(run, amendment)
            places = Places(amendment.machines, amendment.births, part.remote(order.endpoints))
            dataflow = msgspec.to_builtins(local)
            if amendment.replaced and amendment.machines.get(amendment.replaced) == part.machine:
                base = amendment.revision - 1
                request = ReplaceNode(base, dataflow, amendment.replaced, amendment.grace, places)
                if isinstance(run.ask(request), Conflict):
                    raise DoraError("the dataflow has changed meanwhile; try again")
                self._note(amendment)
                return done
            try:
                run.ask(
                    ApplyChange(
                        amendment.revision, dataflow, places, order.sent, amendment.added, amendment.removed
                    )
                )
            except ConnectError:
                raise
            except DoraError:
                self._note(amendment)
                raise
            self._note(amendment)
            return done

    def _note(self, amendment: ProposedChange) -> None:
        self._part.revision, self._part.births = amendment.revision, amendment.births
        self._built.clear()
        self._reports.became(amendment)

    def _fresh(self, amendment: ProposedChange, wanted: Dataflow) -> list[NodeSpec]:
        """Return the nodes whose program is started here by the change."""
        births, machine = self._part.births, self._part.machine
        return [
            node
            for node in wanted.nodes
            if amendment.machines.get(node.id) == machine
            and (
                node.id == amendment.replaced or amendment.births.get(node.id, 0) != births.get(node.id, 0)
            )
        ]

    def _local(self, run: DaemonClient, amendment: ProposedChange) -> tuple[Dataflow, Dataflow]:
        """Return the dataflow to come as the coordinator knows it, and as this machine runs it."""
        model = run.ask(GetModel())
        assert isinstance(model, Model)
        running = from_plain(model.dataflow, Dataflow)
        wanted = from_plain(amendment.dataflow, Dataflow)
        built: dict[str, NodeSpec] = {}
        for node in self._fresh(amendment, wanted):
            if node.id not in self._built:
                self._built[node.id] = self._build(running, wanted, node, amendment.programs, model.uv)
            built[node.id] = self._built[node.id]
        here = {node_id for node_id, machine in amendment.machines.items() if machine == self._part.machine}
        return wanted, localised(wanted, running, here, built)

    def _build(
        self, running: Dataflow, wanted: Dataflow, node: NodeSpec, programs: Any, uv: bool
    ) -> NodeSpec:
        """Look whether what a node runs is there, or can be built; return it as it is then."""
        check_folder(wanted, node, self._part.machine)
        only = msgspec.structs.replace(
            running,
            nodes=(node,),
            programs=from_plain(programs, tuple[Program, ...]),
        )
        looked = msgspec.structs.replace(only, working_dir=running.directory_of(node))
        if missing := missing_files(looked, copied=(node.id,)):
            raise DataflowError(problems=tuple(missing))
        built = build_programs(only, self._on_log, BuildOptions(uv=uv)).dataflow
        check_programs(built, uv=uv)
        return built.node(node.id)


def localised(
    wanted: Dataflow, running: Dataflow, here: Collection[str], built: Mapping[str, NodeSpec]
) -> Dataflow:
    """Return a dataflow as a machine runs it: what is ``here`` and runs keeps its program.

    ``built`` are the nodes that come new, as they are after their build.
    """
    known = {node.id: node for node in running.nodes if node.id in here}

    def local(node: NodeSpec) -> NodeSpec:
        if (fresh := built.get(node.id)) is not None:
            return fresh
        if (former := known.get(node.id)) is None:
            return node
        operators = {operator.id: operator for operator in node.operators}
        return msgspec.structs.replace(
            former,
            inputs=node.inputs,
            operators=tuple(_rewired(operator, operators[operator.id]) for operator in former.operators),
        )

    return msgspec.structs.replace(
        running,
        nodes=tuple(local(node) for node in wanted.nodes),
        descriptor=wanted.descriptor,
        types=wanted.types,
    )


def _rewired(operator: OperatorSpec, wanted: OperatorSpec) -> OperatorSpec:
    return msgspec.structs.replace(operator, inputs=wanted.inputs)
