"""``dora run``: build and run one dataflow in the foreground, on this machine or over ssh on another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dora._paths import DEFAULT_LINK_PORT
from dora.cli.argument_values import ParameterValue
from dora.cli.command_run import CommandRun, command_run_options
from dora.cli.options import all_of, dataflow_argument, debug_option, lock_of, lock_options
from dora.cli.run_options import RunCommand

if TYPE_CHECKING:
    from dora.cluster.ssh.file import Machine


def _parse_robot(text: str) -> Machine:
    from dora.cluster.ssh.file import parse_machine

    return parse_machine(text)


_over_ssh = all_of(
    click.option(
        "--on",
        "robot",
        type=ParameterValue("machine", _parse_robot),
        metavar="[USER@]HOST",
        help="Run on another machine, over ssh, with a copy of the folder of FILE. Nothing has to be "
        "installed there but Python. Nodes with `deploy: {machine: local}` run here.",
    ),
    click.option(
        "--detach",
        is_flag=True,
        help="With --on: return when all nodes are ready, and leave the dataflow running there.",
    ),
    click.option(
        "--link-port",
        type=click.IntRange(0, 65535),
        default=None,
        metavar="PORT",
        help="With --on: TCP port at which this machine reaches the other one, for links with nodes that "
        f"run here; 0: none, it connects to this one [{DEFAULT_LINK_PORT}, or any if that is taken].",
    ),
)


@click.command(cls=RunCommand)
@dataflow_argument
@_over_ssh
@command_run_options()
@debug_option
@lock_options
def run(
    path: str,
    robot: Machine | None,
    detach: bool,
    link_port: int | None,
    command_run: CommandRun,
    locked: bool,
    write_lockfile: bool,
    lockfile: str,
) -> int:
    """Build and run a dataflow until it ends.

    FILE is a dataflow file or its URL [dataflow.yml]. Ctrl-C stops the dataflow, a second Ctrl-C kills it.
    The exit status is 1 if a node failed, and with --strict also if something else went wrong.
    """
    lock = lock_of(locked, write_lockfile, lockfile)
    if robot is not None:
        from dora.cli.run_over_ssh import run_over_ssh

        return run_over_ssh(robot, path, command_run, lock, detach=detach, link_port=link_port)
    if detach:
        raise click.UsageError("--detach goes with --on; `dora up` and `dora start` leave a dataflow here")
    if link_port is not None:
        raise click.UsageError(
            "--link-port goes with --on; other machines join with `dora daemon --link-port`"
        )
    return command_run.run_file(path, lock)
