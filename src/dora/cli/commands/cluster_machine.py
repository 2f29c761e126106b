"""Hidden commands of ``dora cluster``, which dora runs over ssh on other machines."""

from __future__ import annotations

import click
import msgspec


@click.command(hidden=True)
@click.argument("name")
def receive(name: str) -> None:
    """Receive a copy from standard input; `dora cluster start` runs this on other machines."""
    import sys

    from dora.cluster.ssh.receive import StreamWithTimeout
    from dora.cluster.ssh.receive import receive as receive_copy

    receive_copy(name, StreamWithTimeout(sys.stdin.buffer), sys.stdout.buffer)


@click.command(hidden=True)
@click.option("--remove", is_flag=True, help="Remove the unused ones.")
def local_copies(remove: bool) -> None:
    """List the copies on this machine; `dora cluster copies` runs this on other machines."""
    from dora.cluster.ssh.retention import copies, remove_if_unused

    for copy in copies():
        if not remove or remove_if_unused(copy.folder, wholly=True):
            click.echo(msgspec.json.encode(copy))


@click.command(hidden=True)
@click.argument("new")
@click.argument("name")
def publish_environment(new: str, name: str) -> None:
    """Take an environment into use; `dora run --on` runs this in it when it is complete."""
    from dora.cluster.ssh.kept_environments import publish

    publish(new, name)


@click.command(hidden=True)
@click.argument("mark", default="")
def session(mark: str) -> int:
    """Run what standard input says until it ends; `dora run --on` runs this."""
    from dora.cli.session import serve

    return serve(mark)


ON_MACHINES = (receive, local_copies, publish_environment, session)
