"""Decisions of the coordinator on names, starts and missing reports.

Pure: from records to answers. A `Refusal` has the HTTP status of the response.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import (
    ACTIVE,
    Limits,
    RunSpec,
)
from dora.cluster.refusal import Refusal
from dora.dataflow.describe import document_fault
from dora.dataflow.layout import text_outputs
from dora.dataflow.model import Dataflow, NodeOutput
from dora.dataflow.names import node_id_fault
from dora.dataflow.problems import did_you_mean
from dora.errors import DoraError
from dora.wire.decoders import DecodeError, from_plain

MAX_NAME = 200


def find(views: Sequence[DataflowView], wanted: str, *, only_active: bool = False) -> DataflowView:
    """Return the dataflow with this UUID, beginning of one, or name; raises `Refusal`.

    Of several with one name, it is the one that runs, or else the latest. ``views`` are in the order of
    their start.
    """
    candidates = [view for view in views if view.status in ACTIVE] if only_active else list(views)
    named = [view for view in candidates if view.name == wanted]
    if named:
        return next((view for view in named if view.status in ACTIVE), named[-1])
    beginning = wanted.lower()
    found = [view for view in candidates if view.uuid.startswith(beginning)] if beginning else []
    if len(found) == 1:
        return found[0]
    if found:
        raise Refusal(409, f"`{wanted}` fits more than one dataflow:\n{listed(found)}")
    kind = "running dataflow" if only_active else "dataflow"
    hint = did_you_mean(wanted, sorted({view.name for view in candidates}))
    raise Refusal(404, f"no {kind} with name or UUID `{wanted}`" + (f"; {hint}" if hint else ""))


def find_by_file_or_node(views: Sequence[DataflowView], file: str, node: str) -> DataflowView | None:
    """Return the running dataflow of a file, or with a node, or else the latest one of the file.

    ``file`` is an absolute path. None: there is none; raises `Refusal` if several are running.
    """
    of_file = [view for view in views if view.file == file]
    running = [view for view in views if view.status in ACTIVE and (view in of_file or node in view.nodes)]
    if len(running) > 1:
        raise Refusal(409, f"`{node}` fits more than one dataflow:\n{listed(running)}")
    return next(iter(running or of_file[-1:]), None)


def listed(views: Sequence[DataflowView]) -> str:
    """Return dataflows as lines that name them."""
    return "\n".join(f"  - [{view.name}] {view.uuid}" for view in views)


def check_name(views: Sequence[DataflowView], name: str) -> None:
    """Raise `Refusal` if a name is invalid, or a dataflow of this name runs."""
    if "/" in name or not name.isprintable() or len(name) > MAX_NAME:
        raise Refusal(400, f"a name has at most {MAX_NAME} characters, and no `/` or line break among them")
    if any(view.name == name and view.status in ACTIVE for view in views):
        raise Refusal(409, f"there is already a running dataflow with name `{name}`")


def free_name(views: Sequence[DataflowView], wanted: str) -> str:
    """Return a name that no running dataflow has: the one wanted, or with a number behind it.

    Characters that are not allowed are left out.

    >>> free_name([DataflowView(uuid="1", name="arm", status="Running", nodes=[])], "arm")
    'arm-2'
    """
    taken = {view.name for view in views if view.status in ACTIVE}
    # Ten characters stay free for the number.
    wanted = "".join(letter for letter in wanted if letter.isprintable())[: MAX_NAME - 10] or "dataflow"
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name


def loss_reason(was_with: str, daemon_id: str) -> str:
    """Return why an active dataflow is lost that the daemon of its machine does not report.

    When a daemon dies, its nodes end; a daemon that lives reports all its runs.
    """
    if was_with != daemon_id:
        return "its daemon ended, and all nodes with it"
    return "its daemon was to start it, and does not know it"


def file_of(spec: RunSpec) -> str | None:
    """Return the dataflow file of a spec."""
    file = spec.dataflow.get("file") if isinstance(spec.dataflow, dict) else None
    return file if isinstance(file, str) else None


def dataflow_of(spec: RunSpec) -> Dataflow:
    """Return the dataflow of a spec; raises `Refusal` if it is invalid."""
    try:
        dataflow = from_plain(spec.dataflow, Dataflow)
    except DecodeError as error:
        raise Refusal(400, f"`dataflow` is not a dataflow: {error}") from None
    if fault := _fault(dataflow):
        raise Refusal(400, f"`dataflow` is not a dataflow: {fault}")
    return dataflow


def _fault(dataflow: Dataflow) -> str:
    """Return why a well-formed dataflow is invalid; "" if it is valid.

    Commands send a dataflow that was checked with its file; other clients may send anything.
    """
    if not dataflow.working_dir.startswith("/") or "\0" in dataflow.working_dir:
        return "its `working_dir` is no absolute path"
    outputs = {node.id: {*node.outputs, *text_outputs(node)} for node in dataflow.nodes}
    if len(outputs) < len(dataflow.nodes):
        return "two nodes have the same id"
    for node in dataflow.nodes:
        if fault := node_id_fault(node.id):
            return f"the id of node `{node.id}` {fault}"
        for item in node.inputs:
            source = item.source
            if isinstance(source, NodeOutput) and source.output not in outputs.get(source.node, ()):
                return (
                    f"there is no output `{source}`, which the input `{item.id}` of node `{node.id}` names"
                )
    inputs = {f"{node.id}/{item.id}" for node in dataflow.nodes for item in node.inputs}
    for path in dataflow.paths:
        if path.source.output not in outputs.get(path.source.node, ()) or path.sink not in inputs:
            return f"there is no path from `{path.source}` to `{path.sink}`"
    return document_fault(dataflow)


def first_view(dataflow_id: str, spec: RunSpec, now: float) -> DataflowView:
    """Return the first record of a dataflow; raises `Refusal` if the dataflow is invalid."""
    dataflow = dataflow_of(spec)
    return DataflowView(
        uuid=dataflow_id,
        name=spec.name,
        status="Starting",
        nodes=[node.id for node in dataflow.nodes],
        file=dataflow.file,
        log_directory=f"{dataflow.working_dir}/out/{dataflow_id}",
        created=now,
    )


# Limits for the start of a dataflow: environment variables of the coordinator.

BUILD_LIMIT: Final = "DORA_BUILD_RESULT_TIMEOUT_SECS"
SPAWN_LIMIT: Final = "DORA_SPAWN_RESULT_TIMEOUT_SECS"


def limits_from(environ: Mapping[str, str]) -> Limits:
    """Return the limits in the environment, or the defaults; raises `DoraError`."""
    usual = Limits()
    return Limits(
        build=_seconds(environ, BUILD_LIMIT, usual.build), spawn=_seconds(environ, SPAWN_LIMIT, usual.spawn)
    )


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name, "").strip()
    try:
        seconds = float(text or default)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds < float("inf"):
        raise DoraError(f"{name} is `{text}`; it has to be a number of seconds, {default:g} by default")
    return seconds


def unreachable_after(environ: Mapping[str, str]) -> float | None:
    """Return ``DORA_UNREACHABLE_AFTER``: seconds until a silent machine counts as lost; None: never."""
    try:
        return max(float(environ.get("DORA_UNREACHABLE_AFTER", "")), 0.0)
    except ValueError:
        return None  # it is not set: `dora coordinator` refuses to start with a value that is no number
