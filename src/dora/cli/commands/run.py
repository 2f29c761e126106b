"""``dora run``: build and run one dataflow in the foreground."""

from __future__ import annotations

import click

from dora.cli.command_run import CommandRun, run_options
from dora.cli.dataflow_file import dataflow_argument
from dora.cli.options import RunCommand, debug_option, lock_of, lock_options
from dora.cli.reports import report_outcome
from dora.cli.run_reporter import reporter_for
from dora.daemon.load_dataflow import check_one_machine, load_for_run


@click.command(cls=RunCommand)
@dataflow_argument
@run_options()
@debug_option
@lock_options
def run(path: str, command_run: CommandRun, locked: bool, write_lockfile: bool, lockfile: str) -> int:
    """Build and run a dataflow until it ends.

    FILE is a dataflow file or its URL [dataflow.yml]. Ctrl-C stops the dataflow, a second Ctrl-C kills it.
    The exit status is 1 if a node failed, and with --strict also if something else went wrong.
    """
    lock = lock_of(locked, write_lockfile, lockfile)
    dataflow = load_for_run(
        path, command_run.env, exit_when_nodes_finish=command_run.exit_when_nodes_finish, uv=command_run.uv
    )
    check_one_machine(dataflow)
    reporter = reporter_for(command_run.progress)
    outcome = command_run.run(dataflow, reporter, on_daemon=reporter.watch, lock=lock)
    return report_outcome(outcome, reporter)
