"""Change a running dataflow: what the commands `dora node add` and the like do, and the coordinator's API.

Whoever changes asks the dataflow's daemon for what runs, checks what is to come, does for a new node what
it needs before it can run, and asks again; the daemon decides. Another change that came meanwhile is no
reason to give up: it begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from dora.building.options import BuildOptions
from dora.building.prepare import build_programs, check_programs
from dora.daemon.runs import DaemonClient
from dora.dataflow.change import Change, with_built
from dora.dataflow.loader import missing_files
from dora.dataflow.model import Dataflow
from dora.dataflow.wished import make_change
from dora.errors import DataflowError, DoraError
from dora.logs.entry import LogEntry
from dora.wire.decoders import from_plain
from dora.wire.requests import (
    ChangeDataflow,
    Conflict,
    Done,
    GetModel,
    Model,
    RemoveNode,
    ReplaceNode,
    RestartNode,
    StopNode,
)
from dora.wire.wishes import (
    AddOperation,
    Operation,
    OperationResult,
    RemoveOperation,
    ReplaceOperation,
    RestartOperation,
    StopOperation,
)

_ATTEMPTS: Final = 20


def carry_out(
    run: DaemonClient,
    wish: Operation,
    environ: Mapping[str, str],
    on_log: Callable[[LogEntry], None],
    *,
    ordered: bool = False,
    placed: bool = False,
) -> OperationResult:
    """Do what is wished, and return once it is done; raises `DoraError`.

    ``environ`` is what ``$NAME`` in a YAML text refers to; ``on_log`` gets what builds print. ``ordered``:
    the coordinator wishes it, of a dataflow on several machines. ``placed``: it has chosen this machine;
    else there is a `NeedsCoordinator` if a node asks for one.
    """
    run.set_patience(None)
    match wish:
        case StopOperation(node=node, grace=grace):
            return _end(run, StopNode(node, grace))
        case RestartOperation(node=node, grace=grace):
            return _end(run, RestartNode(node, grace))
        case RemoveOperation(node=node, grace=grace):
            return _end(run, RemoveNode(node, grace, ordered))
    for _ in range(_ATTEMPTS):
        model = run.ask(GetModel())
        assert isinstance(model, Model)
        running = from_plain(model.dataflow, Dataflow)
        change, added, removed = make_change(wish, running, environ)
        if not placed and isinstance(wish, (AddOperation, ReplaceOperation)):
            _check_place(change)
        dataflow = _prepare(change, on_log, uv=model.uv)
        request: Any
        if isinstance(wish, ReplaceOperation):
            request = ReplaceNode(model.revision, msgspec.to_builtins(dataflow), wish.node, wish.grace)
        else:
            request = ChangeDataflow(model.revision, msgspec.to_builtins(dataflow), added, removed)
        if not isinstance(run.ask(request), Conflict):
            return OperationResult(change.node_id, warnings=change.warnings)
    raise DoraError("the dataflow is being changed by somebody else again and again")


def _end(run: DaemonClient, request: StopNode | RestartNode | RemoveNode) -> OperationResult:
    answer = run.ask(request)
    assert isinstance(answer, Done)
    return OperationResult(request.node_id, answer.running)


class NeedsCoordinator(DoraError):
    """A node says on which machine it is to run, which only the coordinator can see to."""


def _check_place(change: Change) -> None:
    node = change.dataflow.node(change.node_id)
    if node.deploy.machine is not None or node.deploy.labels:
        raise NeedsCoordinator(
            f"node `{node.id}` says in its `deploy` on which machine it is to run, and only a coordinator "
            "knows machines; start the dataflow with `dora up` and `dora start`"
        )


def _prepare(change: Change, on_log: Callable[[LogEntry], None], *, uv: bool) -> Dataflow:
    """Look whether what is to be run is there, or can be built; return the dataflow to come."""
    if not change.programs:
        return change.dataflow
    only = msgspec.structs.replace(
        change.dataflow, nodes=(change.dataflow.node(change.node_id),), programs=change.programs
    )
    if missing := missing_files(only):
        raise DataflowError(problems=tuple(missing))
    built = build_programs(only, on_log, BuildOptions(uv=uv)).dataflow
    check_programs(built, uv=uv)
    return with_built(change.dataflow, built.node(change.node_id))
