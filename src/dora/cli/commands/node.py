"""``dora node``: inspect and change the nodes of running dataflows."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from dora.cli.coordinator import coordinator_client
from dora.cli.options import DURATION, CommandGroup
from dora.cli.running_options import dataflow_option, running_inputs, running_nodes, running_topics
from dora.cli.select import NoRunningDataflow, find_run
from dora.cli.tables import format_option, print_table, without
from dora.daemon.logs.formats import renderer
from dora.dataflow.rules import input_rules_in_yaml, output_rules_in_yaml
from dora.errors import DoraError
from dora.observe.formatting import fields, megabytes
from dora.wire.counters import NODE_COUNTERS, NodeCounter, shown_counters
from dora.wire.input_rules import INPUT_RULES, MAX_QUEUE_SIZE, InputOptions, InputRule
from dora.wire.operations import (
    AddOperation,
    ConnectOperation,
    DisconnectOperation,
    RemoveOperation,
    ReplaceOperation,
)

if TYPE_CHECKING:
    from dora.daemon.client import DaemonClient
    from dora.daemon.logs.entry import LogEntry
    from dora.observe.load import Load
    from dora.observe.snapshot import NodeSnapshot
    from dora.wire.daemon_protocol import Inspection, NodeView
    from dora.wire.operations import OperationResult, TopologyOperation


MEASURED_OVER = 0.3  # seconds that the command takes: rates and loads are differences


_grace = click.option(
    "--grace",
    type=DURATION,
    metavar="DURATION",
    help="Time for the node to end before SIGTERM; SIGKILL follows after half of it [5s].",
)
_from_yaml = click.option(
    "--from-yaml",
    "file",
    type=click.Path(dir_okay=False),
    required=True,
    metavar="FILE",
    help="YAML file with one node, like an item of `nodes` in a dataflow.",
)
_strict_types = click.option(
    "--strict-types", is_flag=True, help="Refuse if the types of the new links do not fit together."
)


def _input_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the rules of an input as options."""
    for rule in reversed(INPUT_RULES):
        if rule.name in InputOptions.__struct_fields__:
            command = _input_option(rule)(command)
    return command


def _input_option(rule: InputRule) -> Callable[[Callable[..., None]], Callable[..., None]]:
    default = rule.choices[0] if rule.choices else rule.default
    text = rule.description.replace("`", "") + ("" if default is None else f" [{default}]")
    name = f"--{rule.name.replace('_', '-')}"
    match rule.kind:
        case "integer":
            kind = click.IntRange(1, MAX_QUEUE_SIZE)
            return click.option(name, type=kind, metavar="N", help=text)
        case "seconds":
            return click.option(name, type=click.FloatRange(min=0), metavar="SECONDS", help=text)
        case "choice":
            return click.option(name, type=click.Choice(rule.choices), help=text)
        case "keys":
            return click.option(
                name, metavar="KEY", multiple=True, help=f"{text} May be given several times."
            )
        case _:
            return click.option(name, metavar=rule.kind.upper(), help=text)


@click.group(cls=CommandGroup)
def node() -> None:
    """Inspect and change the nodes of running dataflows."""


def _apply(dataflow: str | None, operation: TopologyOperation) -> tuple[OperationResult, str]:
    """Change the dataflow that is meant; return the result and its UUID.

    If it was started on a coordinator, the coordinator gets the operation.
    """
    from dora.cli.running import find_on_coordinator

    try:
        run = find_run(dataflow)
    except NoRunningDataflow:
        if (view := find_on_coordinator(dataflow)) is None:
            raise
        result, dataflow_id = coordinator_client().ask(view.uuid, operation), view.uuid
    else:
        with run:
            dataflow_id = run.description.dataflow_id
            if coordinator := run.description.coordinator:
                result = coordinator_client(coordinator).ask(dataflow_id, operation)
            else:
                result = _apply_locally(run, operation)
    for warning in result.warnings:
        click.echo(str(warning), err=True)
    return result, dataflow_id


def _apply_locally(run: DaemonClient, operation: TopologyOperation) -> OperationResult:
    from dora.daemon.apply_operation import apply_operation

    render = renderer("compact")

    def show(entry: LogEntry) -> None:
        click.echo(render(entry), err=True)

    return apply_operation(run, operation, os.environ, show)


def _variables_in(text: str) -> dict[str, str]:
    """Return the values of the environment variables that a text contains as ``$NAME``."""
    names = set(re.findall(r"\$\{?(\w+)", text))
    return {name: os.environ[name] for name in names if name in os.environ}


def _read(file: str) -> str:
    from dora.dataflow.yaml.files import Unreadable, read_text

    try:
        return read_text(file, file)
    except Unreadable as error:
        raise DoraError(f"{error}{f'; {error.hint}' if error.hint else ''}") from None


@node.command("add")
@_from_yaml
@_strict_types
@dataflow_option
def add(file: str, strict_types: bool, dataflow: str | None) -> None:
    """Add a node to a running dataflow.

    The node is built if necessary. It gets the inputs in the file; connect its outputs with `dora node
    connect`. On several machines it runs where its `deploy` says. The command ends when the node is
    started; `dora node list` and `dora logs` show how it goes on.
    """
    text = _read(file)
    result, dataflow_id = _apply(dataflow, AddOperation(text, file, strict_types, _variables_in(text)))
    click.echo(f"Node `{result.node}` added to dataflow {dataflow_id}")


@node.command("remove")
@click.argument("name", metavar="NODE", shell_complete=running_nodes)
@_grace
@dataflow_option
def remove(name: str, grace: float | None, dataflow: str | None) -> None:
    """Stop a node and remove it from its dataflow, with its links.

    Its receivers get INPUT_CLOSED after its last message and continue.
    """
    _, dataflow_id = _apply(dataflow, RemoveOperation(name, grace))
    click.echo(f"Node `{name}` removed from dataflow {dataflow_id}")


@node.command("replace")
@click.argument("name", metavar="NODE", shell_complete=running_nodes)
@_from_yaml
@_grace
@_strict_types
@dataflow_option
def replace(name: str, file: str, grace: float | None, strict_types: bool, dataflow: str | None) -> None:
    """Replace the program of a node; its id and links stay the same.

    The new program is started first and takes over once it has created its `Node()`. If it fails before,
    the old one continues. `id`, `inputs` and `outputs` that the file leaves out stay as they are.
    """
    text = _read(file)
    operation = ReplaceOperation(name, text, file, strict_types, grace, _variables_in(text))
    _, dataflow_id = _apply(dataflow, operation)
    click.echo(f"Node `{name}` replaced in dataflow {dataflow_id}")


@node.command("connect")
@click.argument("source", metavar="NODE/OUTPUT", shell_complete=running_topics)
@click.argument("target", metavar="NODE/INPUT", shell_complete=running_inputs)
@_input_options
@_strict_types
@dataflow_option
def connect(source: str, target: str, strict_types: bool, dataflow: str | None, **rules: Any) -> None:
    """Connect an output of a running node to a new input of another one.

    The input starts with the next message that is sent, or with the latched ones. An input in a
    dataflow file has the same options.
    """
    _apply(dataflow, ConnectOperation(source, target, strict_types, **rules))
    click.echo(f"{source} -> {target}")


@node.command("disconnect")
@click.argument("source", metavar="NODE/OUTPUT", shell_complete=running_topics)
@click.argument("target", metavar="NODE/INPUT", shell_complete=running_inputs)
@dataflow_option
def disconnect(source: str, target: str, dataflow: str | None) -> None:
    """Remove a link; the input closes after the messages sent so far.

    The receiver gets INPUT_CLOSED and continues, even without any input.
    """
    _apply(dataflow, DisconnectOperation(source, target))
    click.echo(f"{source} -x- {target}")


@node.command("restart")
@click.argument("name", metavar="NODE", shell_complete=running_nodes)
@_grace
@dataflow_option
def restart(name: str, grace: float | None, dataflow: str | None) -> None:
    """Restart the process of a node; the other nodes continue.

    Works with any `restart_policy`, and for a node that has ended.
    """
    from dora.cli.running import find_running

    with find_running(dataflow, name) as running:
        running.restart_node(name, grace)
    click.echo(f"Node `{name}` restart initiated")


@node.command("stop")
@click.argument("name", metavar="NODE", shell_complete=running_nodes)
@_grace
@dataflow_option
def stop(name: str, grace: float | None, dataflow: str | None) -> None:
    """Stop a node without a restart; the other nodes continue.

    Its receivers get INPUT_CLOSED.
    """
    from dora.cli.running import find_running

    with find_running(dataflow, name) as running:
        stopped = running.stop_node(name, grace)
    click.echo(f"Node `{name}` {'stopped' if stopped else 'had ended already'}")


@node.command("list")
@dataflow_option
@format_option("one object a line, of texts")
@click.option("-q", "--quiet", is_flag=True, help="Print only the ids.")
def list_nodes(dataflow: str | None, style: str, quiet: bool) -> None:
    """List the nodes of all running dataflows, or of one.

    The status is Running, Stopped after the end of a node, or Failed; before that Not started, Starting and
    Ready, and Restarting before a restart. With hot reload, it can be: Failed, waits for new code.
    A dynamic node that has not joined is Not connected.
    """
    from dora.cli.running import find_all_running
    from dora.cli.snapshots import snapshots_of

    dataflows = find_all_running(dataflow)
    if quiet:
        for running in dataflows:
            with running:
                click.echo("\n".join(item.id for item in running.inspection.nodes))
        return
    with snapshots_of(dataflows, MEASURED_OVER) as snapshots:
        snapshots.watch(MEASURED_OVER)
        measured = [item for _, snapshot in snapshots.refresh() for item in snapshot.nodes]
    counters = NODE_COUNTERS if style == "json" else shown_counters([item.node.counts for item in measured])
    names = ["node", "status", "machine", "pid", "cpu", "memory", *(item.name for item in counters)]
    needless = [] if any(item.node.machine for item in measured) else ["machine"]
    needless += [] if dataflow is None else ["dataflow"]
    table = [*names, "dataflow"], [_row(item, counters) for item in measured]
    head, rows = without(table, *needless)
    if style == "json":
        for row in rows:
            click.echo(json.dumps(dict(zip(head, row, strict=True))))
    else:
        print_table([name.upper() for name in head], rows)


def _row(item: NodeSnapshot, counters: Iterable[NodeCounter]) -> list[str]:
    return [
        item.node.id,
        item.node.status,
        item.node.machine or "-",
        "-" if item.node.pid is None else str(item.node.pid),
        "-" if item.load is None else f"{item.load.cpu_percent:.1f}%",
        "-" if item.load is None else megabytes(item.load.memory),
        *(str(item.node.counts.get(counter.name, 0)) for counter in counters),
        item.dataflow,
    ]


@node.command("info")
@click.argument("name", metavar="NODE", shell_complete=running_nodes)
@dataflow_option
@format_option("one object")
def info(name: str, dataflow: str | None, style: str) -> None:
    """Show a node: its program, its inputs, its receivers, its use of the machine."""
    from dora.cli.running import find_running
    from dora.cli.snapshots import snapshots_of
    from dora.dataflow.problems import no_node

    running = find_running(dataflow, name)
    known = [view.id for view in running.inspection.nodes]
    if name not in known:
        running.close()
        raise DoraError(no_node(name, known))
    with snapshots_of([running], MEASURED_OVER, node=name) as snapshots:
        snapshots.watch(MEASURED_OVER)
        refreshed = snapshots.refresh()
    if not refreshed:
        raise DoraError("the dataflow has just ended")
    overview, snapshot = refreshed[0]
    measured = next(item for item in snapshot.nodes if item.node.id == name)
    if style == "json":
        found = _info_json(overview.inspection, overview.name, measured)
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        found = _describe(overview.inspection, overview.name, measured.node, measured.load)
        click.echo(fields([(_title(key), _text(value)) for key, value in found.items()]))


def _consumers(inspection: Inspection) -> dict[str, list[str]]:
    """Return the inputs that each output feeds."""
    consumers: dict[str, list[str]] = {}
    for link in inspection.links:
        consumers.setdefault(link.producer, []).append(link.consumer)
    return consumers


def _info_json(inspection: Inspection, dataflow: str, item: NodeSnapshot) -> dict[str, Any]:
    """Return what dora-rs prints as JSON, and the id of the dataflow and the machine."""
    view, load, consumers = item.node, item.load, _consumers(inspection)
    texts = {"name": view.name, "description": view.description, "machine": view.machine}
    return {
        "node_id": view.id,
        "node": view.id,
        "dataflow": dataflow,
        "dataflow_id": inspection.dataflow_id,
        **{name: text for name, text in texts.items() if text},
        "path": view.path or "operators",
        "outputs": [
            {
                "id": output.id,
                "subscribers": consumers.get(f"{view.id}/{output.id}", []),
                **output_rules_in_yaml(output),
            }
            for output in view.outputs
        ],
        "inputs": [
            {"id": item.id, "source": item.source, **input_rules_in_yaml(item)}
            for item in sorted(view.inputs, key=lambda item: item.id)
        ],
        "restart_policy": view.restart_policy.title().replace("-", ""),
        "max_restarts": view.max_restarts,
        "metrics": {
            "status": view.status,
            "pid": view.pid,
            "cpu": None if load is None else f"{load.cpu_percent:.1f}%",
            "memory": None if load is None else megabytes(load.memory),
            **{counter.json_key: view.counts.get(counter.name, 0) for counter in NODE_COUNTERS},
            "pending_messages": item.waiting,
        },
    }


def _describe(inspection: Inspection, dataflow: str, view: NodeView, load: Load | None) -> dict[str, Any]:
    consumers = _consumers(inspection)
    counts = {counter.name: view.counts.get(counter.name, 0) for counter in shown_counters([view.counts])}
    metrics: dict[str, Any] = {"status": view.status, "pid": view.pid, **counts}
    if load is not None:
        metrics["cpu"] = f"{load.cpu_percent:.1f}%"
        metrics["memory"] = megabytes(load.memory)
    return {
        "node": view.id,
        "dataflow": f"{dataflow} ({inspection.dataflow_id})",
        "name": view.name,
        "description": view.description,
        "path": view.path or "operators",
        "restart_policy": view.restart_policy,
        **({"machine": view.machine} if view.machine else {}),
        "inputs": [f"{item.id}: {item.source}{_rules(input_rules_in_yaml(item))}" for item in view.inputs],
        "outputs": [
            f"{output.id} -> {', '.join(consumers.get(f'{view.id}/{output.id}', ())) or 'nobody'}"
            f"{_rules(output_rules_in_yaml(output))}"
            for output in view.outputs
        ],
        "runtime_metrics": metrics,
    }


def _title(key: str) -> str:
    return key.replace("_", " ").title()


def _rules(given: dict[str, Any]) -> str:
    """Return the rules of an input or output as YAML has them, for the end of a line; "" for none."""
    words = (
        f"{name}: {item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)}"
        for name, item in given.items()
    )
    return f" ({', '.join(words)})" if given else ""


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(value) or "none"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {'-' if item is None else item}" for key, item in value.items()) or "none"
    return "-" if value is None else str(value)
