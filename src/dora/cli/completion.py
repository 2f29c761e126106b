"""``dora completion``: the completion script of a shell, and the values that it offers.

Click makes the script and parses the unfinished command line; the functions here return values. Every
command with a dataflow file imports this module, so it imports little.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from dora.errors import DoraError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    Items = list[CompletionItem[str]]

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_DORA_COMPLETE"  # set by the script; the name is click's


@click.command()
@click.argument("shell", metavar="[SHELL]", required=False, type=click.Choice(SHELLS))
def completion(shell: str | None) -> None:
    """Print the script that completes dora's commands in a shell.

    SHELL is bash, zsh or fish [as in $SHELL]. For completion in every new shell, add this line to
    ~/.bashrc: eval "$(dora completion bash)". For zsh, add the same with zsh to ~/.zshrc. For fish, run:
    dora completion fish > ~/.config/fish/completions/dora.fish
    """
    from click.shell_completion import get_completion_class

    from dora.cli.main import cli

    name = shell or os.path.basename(os.environ.get("SHELL", ""))
    if name not in SHELLS:
        known = f"$SHELL is `{name}`" if name else "$SHELL is not set"
        raise DoraError(f"{known}; name the shell: `dora completion bash`, or zsh, or fish")
    maker = get_completion_class(name)
    assert maker is not None
    click.echo(maker(cli, {}, "dora", VARIABLE).source())


def dataflow_files(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Offer the YAML files that begin with the unfinished word, and folders."""
    from click.shell_completion import CompletionItem

    folder, beginning = os.path.split(incomplete)
    try:
        names = sorted(os.listdir(os.path.expanduser(folder) or "."))
    except OSError:
        names = []
    files = [
        CompletionItem(os.path.join(folder, name))
        for name in names
        if name.startswith(beginning) and name.endswith((".yml", ".yaml"))
    ]
    # Bash discards the items before one of type "dir", so that comes first.
    return [CompletionItem(incomplete, type="dir"), *files]


def node_levels(ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Offer ``node=level`` for the nodes of the dataflow file that the command line names."""
    from click.shell_completion import CompletionItem

    from dora.dataflow.model import LOG_LEVELS

    done, comma, _ = incomplete.rpartition(",")
    pairs = [f"{done}{comma}{node}={level}" for node in _node_ids(ctx) for level in LOG_LEVELS]
    return [CompletionItem(pair) for pair in pairs if pair.startswith(incomplete)]


def _node_ids(ctx: click.Context) -> list[str]:
    from dora.dataflow import load

    # While an option lacks its value, click leaves the arguments unparsed.
    for path in (ctx.params.get("path"), *ctx.args):
        if isinstance(path, str) and path.endswith((".yml", ".yaml")):
            try:
                return [node.id for node in load(path).nodes]
            except DoraError:
                return []  # the command itself reports the error
    return []
