"""``dora help``: the help texts, for those who do not write ``--help``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def _commands(
    ctx: click.Context,
    param: click.Parameter,  # noqa: ARG001 - click's signature
    incomplete: str,
) -> list[CompletionItem[str]]:
    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    names = root.list_commands(ctx)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command("help")
@click.argument("command", required=False, shell_complete=_commands)
@click.pass_context
def help_command(ctx: click.Context, command: str | None) -> None:
    """Show the help of dora or of one of its commands."""
    root = ctx.find_root()
    if command is None:
        click.echo(root.get_help())
        return
    assert isinstance(root.command, click.Group)
    name, found, _ = root.command.resolve_command(root, [command])
    if found is None:
        return
    if found.hidden:
        found.invoke(click.Context(found, info_name=name, parent=root))
        return
    click.echo(found.get_help(click.Context(found, info_name=name, parent=root)))
