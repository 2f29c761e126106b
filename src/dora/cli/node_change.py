"""``dora node add``, ``remove``, ``replace``, ``connect``, ``disconnect``, ``restart`` and ``stop``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dora.cli.dataflows import dataflow_option, find_run
from dora.cli.run_options import DURATION
from dora.dataflow.model import QueuePolicy

if TYPE_CHECKING:
    from dora.daemon.runs import DaemonClient
    from dora.logs.entry import LogEntry
    from dora.wire.wishes import Operation, OperationResult

_Function = TypeVar("_Function", bound=Callable[..., Any])

_grace: Callable[[_Function], _Function] = click.option(
    "--grace",
    type=DURATION,
    metavar="DURATION",
    help="How long the node may take to end before SIGTERM; half as long again before SIGKILL [5s].",
)
_from_yaml: Callable[[_Function], _Function] = click.option(
    "--from-yaml",
    "file",
    type=click.Path(dir_okay=False),
    required=True,
    metavar="FILE",
    help="The YAML of one node, as it would stand in the list of a dataflow.",
)
_strict_types: Callable[[_Function], _Function] = click.option(
    "--strict-types", is_flag=True, help="Refuse if the types of the new links do not fit together."
)


def _carry_out(dataflow: str | None, wish: Operation) -> tuple[OperationResult, str]:
    """Do what is wished of the dataflow that is meant; return the outcome and its UUID.

    One that runs on this machine alone is asked itself, any other by its coordinator.
    """
    from dora.cli.dataflows import NoneRuns
    from dora.cli.whole import coordinator, known_to_coordinator
    from dora.inspection.look import inspect

    try:
        run = find_run(dataflow)
    except NoneRuns:
        if (view := known_to_coordinator(dataflow)) is None:
            raise
        outcome, dataflow_id = coordinator().change(view.uuid, wish), view.uuid
    else:
        with run:
            dataflow_id = run.description.dataflow_id
            there = inspect(run)
            if there.machine:
                outcome = coordinator(there.coordinator).change(dataflow_id, wish)
            else:
                outcome = _alone(run, wish)
    for warning in outcome.warnings:
        click.echo(str(warning), err=True)
    return outcome, dataflow_id


def _alone(run: DaemonClient, wish: Operation) -> OperationResult:
    from dora.cli.whole import coordinator
    from dora.logs.formats import renderer
    from dora.machine.change import NeedsCoordinator, carry_out

    render = renderer("compact")

    def show(entry: LogEntry) -> None:
        click.echo(render(entry), err=True)

    try:
        return carry_out(run, wish, os.environ, show)
    except NeedsCoordinator:
        description = run.description
        if not description.coordinator:
            raise
        return coordinator(description.coordinator).change(description.dataflow_id, wish)


def _named_in(text: str) -> dict[str, str]:
    """Return what the environment says of the ``$NAME`` in a text."""
    names = set(re.findall(r"\$\{?(\w+)", text))
    return {name: os.environ[name] for name in names if name in os.environ}


def _read(file: str) -> str:
    from dora.dataflow.files import Unreadable, read_text
    from dora.errors import DoraError

    try:
        return read_text(file, file)
    except Unreadable as error:
        raise DoraError(f"{error}{f'; {error.hint}' if error.hint else ''}") from None


@click.command("add")
@_from_yaml
@_strict_types
@dataflow_option
def add(file: str, strict_types: bool, dataflow: str | None) -> None:
    """Add a node to a running dataflow.

    It is built if it has to be, and gets the inputs that the file says; its outputs can be connected then.
    """
    from dora.wire.wishes import AddOperation

    text = _read(file)
    outcome, dataflow_id = _carry_out(dataflow, AddOperation(text, file, strict_types, _named_in(text)))
    click.echo(f"Node `{outcome.node}` added to dataflow {dataflow_id}")


@click.command("remove")
@click.argument("name", metavar="NODE")
@_grace
@dataflow_option
def remove(name: str, grace: float | None, dataflow: str | None) -> None:
    """Stop a node and take it out of its dataflow, with its links.

    Those that it feeds get INPUT_CLOSED after its last message, and go on.
    """
    from dora.wire.wishes import RemoveOperation

    _, dataflow_id = _carry_out(dataflow, RemoveOperation(name, grace))
    click.echo(f"Node `{name}` removed from dataflow {dataflow_id}")


@click.command("replace")
@click.argument("name", metavar="NODE")
@_from_yaml
@_grace
@_strict_types
@dataflow_option
def replace(name: str, file: str, grace: float | None, strict_types: bool, dataflow: str | None) -> None:
    """Let another program take the place of a node, with the same id and links.

    The new one is started first, and takes over once it has come to its `Node()`; if it does not get
    there, the old one goes on.
    """
    from dora.wire.wishes import ReplaceOperation

    text = _read(file)
    wish = ReplaceOperation(name, text, file, strict_types, grace, _named_in(text))
    _, dataflow_id = _carry_out(dataflow, wish)
    click.echo(f"Node `{name}` replaced in dataflow {dataflow_id}")


@click.command("connect")
@click.argument("source", metavar="NODE/OUTPUT")
@click.argument("target", metavar="NODE/INPUT")
@click.option(
    "--queue-size", type=click.IntRange(1, 10_000_000), metavar="N", help="As in the dataflow file [10]."
)
@click.option(
    "--queue-policy",
    type=click.Choice(["drop_oldest", "backpressure"]),
    help="As in the dataflow file [drop_oldest].",
)
@_strict_types
@dataflow_option
def connect(
    source: str,
    target: str,
    queue_size: int | None,
    queue_policy: QueuePolicy | None,
    strict_types: bool,
    dataflow: str | None,
) -> None:
    """Feed an input of a running node with an output of another one.

    The input is a new one. It begins with the next message that is sent.
    """
    from dora.wire.wishes import ConnectOperation

    _carry_out(dataflow, ConnectOperation(source, target, queue_size, queue_policy, strict_types))
    click.echo(f"{source} -> {target}")


@click.command("disconnect")
@click.argument("source", metavar="NODE/OUTPUT")
@click.argument("target", metavar="NODE/INPUT")
@dataflow_option
def disconnect(source: str, target: str, dataflow: str | None) -> None:
    """Take a link away: the input closes after what was sent so far.

    The node gets INPUT_CLOSED and goes on, also without any input.
    """
    from dora.wire.wishes import DisconnectOperation

    _carry_out(dataflow, DisconnectOperation(source, target))
    click.echo(f"{source} -x- {target}")


@click.command("restart")
@click.argument("name", metavar="NODE")
@_grace
@dataflow_option
def restart(name: str, grace: float | None, dataflow: str | None) -> None:
    """End the process of a node and start another one; the other nodes go on.

    Whatever the node's `restart_policy` says; also for a node that has ended.
    """
    from dora.cli.whole import FOR_EVER, find_running
    from dora.wire.requests import RestartNode

    with find_running(dataflow) as whole:
        whole.ask(name, RestartNode(name, grace), patience=FOR_EVER)
    click.echo(f"Node `{name}` restart initiated")


@click.command("stop")
@click.argument("name", metavar="NODE")
@_grace
@dataflow_option
def stop(name: str, grace: float | None, dataflow: str | None) -> None:
    """Stop a node for good; the other nodes go on.

    Those that it feeds get INPUT_CLOSED, as after any end.
    """
    from dora.cli.whole import FOR_EVER, find_running
    from dora.wire.requests import Done, StopNode

    with find_running(dataflow) as whole:
        answer = whole.ask(name, StopNode(name, grace), patience=FOR_EVER)
    assert isinstance(answer, Done)
    click.echo(f"Node `{name}` {'stopped' if answer.running else 'had ended already'}")


COMMANDS = (add, remove, replace, connect, disconnect, restart, stop)
