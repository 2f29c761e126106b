"""The ``dora`` command: the table of all commands, error handling, and ``dora help``.

A command is imported when it is used. ``dora --help`` imports none: the table has one-line descriptions.
"""

from __future__ import annotations

import errno
import gc
import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from dora._version import INTERFACE, __implementation__
from dora.errors import DoraError, system_fault

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Start here": {
        "new": ("commands.new:new", "Create a folder with a new dataflow, node or operator."),
        "demo": ("commands.demo:demo", "Run an example: a camera, a detector and a plot."),
        "run": ("commands.run:run", "Build and run a dataflow until it ends."),
        "doctor": ("commands.doctor:doctor", "Check the installation and this machine."),
    },
    "Dataflow files": {
        "validate": ("commands.build:validate", "Check a dataflow file without running it."),
        "build": ("commands.build:build", "Build a dataflow: clones, Python environments, build commands."),
        "graph": ("commands.graph:graph", "Draw a dataflow as a web page or as a Mermaid flowchart."),
        "expand": ("commands.build:expand", "Print a dataflow file with its modules written out."),
        "schema": ("commands.build:schema", "Print the JSON schema of dataflow files, for editors."),
    },
    "Running dataflows": {
        "list": ("commands.list:list_dataflows", "List the dataflows that run, and those that have ended."),
        "stop": ("commands.start:stop", "Stop a dataflow and wait until it has ended."),
        "save": ("commands.save:save", "Save the last seconds of a running dataflow."),
        "logs": ("commands.logs:logs", "Show the logs of a dataflow."),
        "top": ("commands.top:top", "Watch nodes and links: load, rates, queues, losses."),
        "topic": ("commands.topic:topic", "Show the messages of a running dataflow, and publish."),
        "node": ("commands.node:node", "Inspect and change the nodes of running dataflows."),
        "param": ("commands.param:param", "Inspect and change the parameters of running nodes."),
        "foxglove": (
            "commands.foxglove:foxglove",
            "Show a running dataflow, or a recording, in Foxglove.",
        ),
        "trace": ("commands.trace:trace", "Show which messages led to which, and how long each step took."),
    },
    "Recordings": {
        "record": ("commands.record:record", "Record the messages of a dataflow into an MCAP file."),
        "info": ("commands.recordings:info", "Show what is in a recording, or in a bag of ROS 2."),
        "view": ("commands.view:view", "Look at recordings in the browser, at any moment."),
        "replay": ("commands.replay:replay", "Run a dataflow again with its recorded sources."),
        "debug": (
            "commands.alone:debug",
            "Run one node of a recording at this terminal, under a debugger.",
        ),
        "shrink": (
            "commands.alone:shrink",
            "Make a test of a node's failure, from a recording.",
        ),
        "diff": ("commands.recordings:diff", "Compare two recordings, message by message."),
        "export": (
            "commands.recordings:export",
            "Write a recording as Parquet files, or for Rerun or ROS 2.",
        ),
    },
    "In the background": {
        "up": ("commands.up:up", "Start the coordinator and the daemon in the background."),
        "down": ("commands.up:down", "Stop the coordinator and the daemon."),
        "status": ("commands.status:status", "Show whether the coordinator and the daemon are running."),
        "start": ("commands.start:start", "Build and start a dataflow on the coordinator."),
        "restart": ("commands.start:restart", "Stop a dataflow and start it again with the same options."),
        "clean": ("commands.list:clean", "Remove the records of ended dataflows."),
    },
    "Several machines": {
        "cluster": ("commands.cluster:cluster", "Run dora on several machines, over ssh, from one file."),
        "coordinator": ("commands.components:coordinator", "Run the coordinator in the foreground."),
        "daemon": ("commands.components:daemon", "Run the daemon of a machine in the foreground."),
    },
    "Shell": {
        "completion": (
            "completion:completion",
            "Print the script that completes dora's commands in a shell.",
        ),
        "help": ("main:help_command", "Show the help of dora or of one of its commands."),
    },
}
"""Title → name → location below `dora.cli`, and description (a test compares it with the docstring)."""

COMMANDS: dict[str, tuple[str, str]] = {
    name: entry for commands in GROUPS.values() for name, entry in commands.items()
}

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
_WIDTH = max(map(len, COMMANDS))
_EXAMPLES = """\b
Examples:
  dora demo                               run an example
  dora new my-robot                       begin a project
  dora run dataflow.yml --ui              run a dataflow, and watch it in the browser
  dora run dataflow.yml --on ros@robot    run it on another machine, over ssh
  dora topic echo camera/image            show the messages of an output
  dora record dataflow.yml                run and record
  dora replay recording.mcap              run again with the recorded sources

Run `dora COMMAND --help` for the options of a command.
"""

ALIASES = {"destroy": "down", "ps": "list", "check": "status"}
HIDDEN = {"system": "commands.status:system", "inspect": "commands.top:inspect"}
"""Groups that have another name in dora-rs."""


class Commands(click.Group):
    """The commands of the table, imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - likewise
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        place = HIDDEN.get(cmd_name) or COMMANDS.get(cmd_name, ("", ""))[0]
        if place:
            module, _, name = place.partition(":")
            command: click.Command = getattr(import_module(f"dora.cli.{module}"), name)
            return command
        from dora.cli.compat import refused_command

        return refused_command(cmd_name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        found = [
            CompletionItem(name, help=description)
            for name, (_, description) in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            from difflib import get_close_matches

            close = get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean `dora {close[0]}`?" if close else "`dora --help` lists the commands"
            raise click.UsageError(f"there is no command `{name}`; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, commands in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(_WIDTH), description) for name, (_, description) in commands.items()]
                )


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLES,
)
@click.version_option(f"{INTERFACE} ({__implementation__})", "-V", "--version", message="dora %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run dataflows: Python nodes wired together in YAML."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)
    directives = os.environ.get("RUST_LOG")
    if directives and ctx.invoked_subcommand not in ("coordinator", "daemon"):  # which have --quiet
        configure_diagnostics(directives)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 for success, 1 for failure, 2 for wrong usage."""
    from dora.cli.process import guard_streams

    guard_streams()
    gc.set_threshold(20_000)  # what a command makes at its start, it keeps: 700 finds nothing, for 4 ms
    status = run_command_line(arguments)
    gc.freeze()  # otherwise the interpreter collects garbage three times at its end
    sys.exit(status)


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status. Errors are printed to standard error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if fault := _not_utf8(given):
        _print_error(fault)
        return 2
    try:
        result: Any = cli.main(args=given, prog_name="dora", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        _print_error(_plain_message(error))
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"{error.ctx.get_usage()}\nTry `{error.ctx.command_path} --help`.", err=True)
        return error.exit_code
    except DoraError as error:
        problems = getattr(error, "problems", ())
        if any(problem.line for problem in problems):
            click.echo(str(error), err=True)  # each problem has its location and "error"
        else:
            _print_error(str(error))
        return 1
    except (KeyboardInterrupt, click.Abort):
        _print_error("interrupted")
        return 130
    except BrokenPipeError:
        # The reader of our output has ended; without this, the interpreter complains at its exit.
        from dora.cli.process import discard_output

        discard_output()
        return 1
    except Exception as error:
        from dora.cli.process import output_fault

        if reason := output_fault(error):
            _print_error(f"cannot write to standard output: {reason}")
            return 1
        if os.environ.get("DORA_DEBUG"):
            raise
        _print_error(
            _system_fault(error)
            or f"internal error: {type(error).__name__}: {error} (DORA_DEBUG=1 shows where)"
        )
        return 1


def _not_utf8(arguments: Sequence[str]) -> str:
    """Return an error message for an argument or a variable of dora that is not UTF-8; "" if all are.

    YAML, JSON, HTTP and the messages between processes cannot carry other texts.
    """
    variables = {name: value for name, value in os.environ.items() if name.startswith("DORA_")}
    for what, text in (
        *(("an argument", text) for text in arguments),
        *((f"the environment variable {name}", value) for name, value in variables.items()),
    ):
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                shown = os.fsencode(text)[:60].decode(errors="backslashreplace")
                return f"{what} is not UTF-8, which dora requires of all texts and file names: {shown}"
    return ""


def _system_fault(error: Exception) -> str:
    """Return an error message for a fault of the system that any command may meet; "" for other errors."""
    # Written out: to import `NO_FREE_FILE` takes a file.
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open; allow more with `ulimit -n`, or run fewer nodes"
    if isinstance(error, FileNotFoundError):
        try:
            os.getcwd()
        except FileNotFoundError:
            return "the current folder no longer exists; change to another one"
    if isinstance(error, OSError) and (error.filename or error.errno in _DISK_ERRORS):
        return system_fault(error)
    return ""


def _plain_message(error: click.ClickException) -> str:
    """Return a message of click in our form: lower case, no full stop, numbers in plain words."""
    message = error.format_message().strip()
    message = re.sub("is not a valid integer( range)?", "is not a whole number", message)
    message = re.sub("is not a valid float( range)?", "is not a number", message)
    message = re.sub("is not a valid boolean.*", "is neither true nor false", message)
    return message[:1].lower() + message[1:].removesuffix(".")


def _print_error(message: str) -> None:
    click.echo(f"error: {message}", err=True)


def configure_diagnostics(directives: str) -> None:
    """Log to standard error as ``RUST_LOG`` says; print a warning for each directive that is not valid."""
    from dora.daemon.logs.diagnostics import VARIABLE, configure

    for fault in configure(directives):
        click.echo(f"warning: {VARIABLE}: {fault}", err=True)


def _commands(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    from click.shell_completion import CompletionItem

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
