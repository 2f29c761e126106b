"""``dora param``: inspect and change the parameters of nodes while their dataflow runs."""

from __future__ import annotations

import json
from typing import Any

import click

from dora.cli.options import CommandGroup
from dora.cli.running_options import dataflow_option, running_nodes
from dora.cli.tables import format_option
from dora.errors import DoraError
from dora.wire.daemon_protocol import DeleteParameter, GetParameters, Parameters, SetParameter


def parse_value(text: str) -> Any:
    """Parse a value: JSON if the text is JSON, else the text itself.

    Raises ``ValueError`` for a text that begins like a list, mapping or string of JSON and is not valid,
    and for one that is nested too deep.

    >>> [parse_value(text) for text in ("0.5", "true", '"0.5"', "fast", "[1, 2]", "-3")]
    [0.5, True, '0.5', 'fast', [1, 2], -3]
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    except ValueError as error:
        if text.lstrip()[:1] in ("{", "[", '"'):
            raise ValueError(f"looks like JSON, but is not valid: {error}") from None
        return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@click.group(cls=CommandGroup)
def param() -> None:
    """Inspect and change the parameters of running nodes."""


@param.command("list")
@click.argument("node", shell_complete=running_nodes)
@dataflow_option
@format_option("one object")
def list_parameters(node: str, dataflow: str | None, style: str) -> None:
    """List the parameters of a node."""
    values = _parameters(node, dataflow)
    if style == "json":
        click.echo(_json(values))
    elif not values:
        click.echo(f"Node {node} has no parameters.")
    else:
        click.echo(f"Parameters for node {node}:")
        for key, value in values.items():
            click.echo(f"  {key} = {_json(value)}")


@param.command("get")
@click.argument("node", shell_complete=running_nodes)
@click.argument("key")
@dataflow_option
def get_parameter(node: str, key: str, dataflow: str | None) -> None:
    """Print the value of a parameter, as JSON."""
    values = _parameters(node, dataflow)
    if key not in values:
        known = ", ".join(values) or "none"
        raise DoraError(f"node `{node}` has no parameter `{key}` (its parameters: {known})")
    click.echo(_json(values[key]))


# A value may begin with a minus sign.
@param.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("node", shell_complete=running_nodes)
@click.argument("key")
@click.argument("value")
@dataflow_option
def set_parameter(node: str, key: str, value: str, dataflow: str | None) -> None:
    """Set a parameter; VALUE is JSON, or else a plain text.

    The node gets a PARAM_UPDATE event. A node that is not running gets the value when it starts.
    """
    from dora.cli.running import find_running
    from dora.dataflow.names import key_fault, value_fault

    try:
        parsed = parse_value(value)
    except ValueError as error:
        raise click.UsageError(f"the value {error}") from None
    for what, fault in (("key", key_fault(key)), ("value", value_fault(parsed))):
        if fault:
            raise click.UsageError(f"the {what} {fault}")
    with find_running(dataflow, node) as running:
        answer = running.ask(SetParameter(node, key, parsed))
    click.echo(f"Set `{key}` = {_json(parsed)} on node `{node}`{_hint(answer.was_running)}")


@param.command("delete")
@click.argument("node", shell_complete=running_nodes)
@click.argument("key")
@dataflow_option
def delete_parameter(node: str, key: str, dataflow: str | None) -> None:
    """Delete a parameter; the node gets a PARAM_DELETED event."""
    from dora.cli.running import find_running

    with find_running(dataflow, node) as running:
        answer = running.ask(DeleteParameter(node, key))
    click.echo(f"Deleted `{key}` from node `{node}`{_hint(answer.was_running)}")


def _hint(running: bool) -> str:
    return "" if running else ", which is not running at the moment"


def _parameters(node: str, dataflow: str | None) -> dict[str, Any]:
    from dora.cli.running import find_running

    with find_running(dataflow, node) as running:
        answer: Parameters = running.ask(GetParameters(node))
    return answer.values


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
