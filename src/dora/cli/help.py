"""``dora help``: the help texts, for those who do not write ``--help``."""

from __future__ import annotations

import click


@click.command("help")
@click.argument("command", required=False)
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
