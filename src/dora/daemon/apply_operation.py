"""Changes a running dataflow from outside its daemon: propose, check, build, apply.

`apply_operation` carries out `dora node add` and its siblings for a dataflow without a coordinator, whose
supervisor commits. If a coordinator has started it, the coordinator proposes and commits, and the workers
check, build and apply with the parts of this module (`dora.cluster.coordinator.changes`,
`dora.cluster.agent.changes`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from dora.daemon.build.build import build
from dora.daemon.client import DaemonClient
from dora.daemon.logs.entry import LogEntry
from dora.daemon.options import BuildOptions
from dora.dataflow.edit import Change, make_change, proposal_of
from dora.dataflow.loader import missing_files
from dora.dataflow.model import Dataflow, NodeSpec, OperatorSpec, Program
from dora.errors import DataflowError, DoraError
from dora.wire.daemon_protocol import (
    ApplyChange,
    CheckChange,
    Conflict,
    GetModel,
    Model,
    NodeRemoved,
)
from dora.wire.decoders import from_plain
from dora.wire.operations import AddOperation, OperationResult, ReplaceOperation, TopologyOperation

# After each `Conflict` somebody else has made a change, so the next attempt needs no pause. The limit
# ends a command that comes too late each time.
_ATTEMPTS: Final = 20


def apply_operation(
    run: DaemonClient,
    operation: TopologyOperation,
    environ: Mapping[str, str],
    on_log: Callable[[LogEntry], None],
) -> OperationResult:
    """Carry out an operation on a running dataflow, and return once it is done; raises `DoraError`.

    If another change comes first, it begins again. ``environ`` gives the values of ``$NAME`` in a YAML
    text; ``on_log`` gets the output of builds.
    """
    run.set_patience(None)  # the answer comes when a node has ended, or its next program has taken over
    brings_node = isinstance(operation, (AddOperation, ReplaceOperation))
    for _ in range(_ATTEMPTS):
        model, running = running_dataflow(run)
        change = make_change(operation, running, environ)
        if brings_node:
            _check_place(change)
        proposal = proposal_of(change, operation, model.revision + 1, model.generations)
        if isinstance(run.ask(CheckChange(proposal)), Conflict):
            continue
        if brings_node:
            # Built after the check: a change that is not possible is refused before a long build.
            node = change.dataflow.node(change.node_id)
            built = build_node(running, node, change.programs, on_log, uv=model.uv)
            dataflow = localized(
                change.dataflow, running, [known.id for known in running.nodes], {node.id: built}
            )
            proposal = msgspec.structs.replace(proposal, dataflow=msgspec.to_builtins(dataflow))
        answer = run.ask(ApplyChange(proposal))
        if not isinstance(answer, Conflict):
            was_running = not isinstance(answer, NodeRemoved) or answer.was_running
            return OperationResult(change.node_id, was_running, change.warnings)
    raise DoraError("the dataflow is being changed by somebody else again and again")


def _check_place(change: Change) -> None:
    node = change.dataflow.node(change.node_id)
    if node.deploy.machine is not None or node.deploy.labels:
        raise DoraError(
            f"node `{node.id}` says in its `deploy` on which machine it is to run, and only a coordinator "
            "knows machines; start the dataflow with `dora up` and `dora start`"
        )


def running_dataflow(run: DaemonClient) -> tuple[Model, Dataflow]:
    """Return the running dataflow, with its revision; raises `DoraError`."""
    model = run.ask(GetModel())
    assert isinstance(model, Model)
    return model, from_plain(model.dataflow, Dataflow)


def build_node(
    running: Dataflow,
    node: NodeSpec,
    programs: tuple[Program, ...],
    on_log: Callable[[LogEntry], None],
    *,
    uv: bool,
) -> NodeSpec:
    """Build a node that comes new, and check that its program exists; return the node as built.

    Raises `DoraError`.
    """
    only = msgspec.structs.replace(running, nodes=(node,), programs=programs)
    placed = msgspec.structs.replace(only, working_dir=running.directory_of(node))
    if missing := missing_files(placed, copied=(node.id,)):
        raise DataflowError(problems=tuple(missing))
    return build(only, on_log, BuildOptions(uv=uv), session=False).dataflow.node(node.id)


def localized(
    wanted: Dataflow, running: Dataflow, here: Collection[str], built: Mapping[str, NodeSpec]
) -> Dataflow:
    """Return a dataflow as a machine runs it: running nodes that are ``here`` keep their programs.

    ``built`` are the new nodes, as built.
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
            output_rules=node.output_rules,
            operators=tuple(
                _with_inputs(operator, operators[operator.id]) for operator in former.operators
            ),
        )

    return msgspec.structs.replace(
        running,
        nodes=tuple(local(node) for node in wanted.nodes),
        descriptor=wanted.descriptor,
        types=wanted.types,
    )


def _with_inputs(operator: OperatorSpec, wanted: OperatorSpec) -> OperatorSpec:
    return msgspec.structs.replace(operator, inputs=wanted.inputs)
