"""``dora debug`` and ``dora shrink``: run one node of a recording alone, at this terminal or for a test."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from dora.cli.argument_values import InputFile, ParameterValue, parse_duration
from dora.cli.completion import dataflow_files
from dora.cli.options import DURATION, all_of
from dora.cli.tables import counted
from dora.errors import DoraError, cannot_write

if TYPE_CHECKING:
    from dora.recording.alone.recorded_node import RecordedNode
    from dora.recording.alone.run import NodeProgram
    from dora.recording.alone.shrink import Reproduced, Small
    from dora.recording.mcap.recording import Recording

FAILURE = "failure"
_PORT = 5678  # debugpy's own
_LAUNCH = os.path.join(".vscode", "launch.json")
_TRIES = 10
_SECONDS = 60.0
_FOLDER = "tests"

_node_of_recording = all_of(
    click.argument("recording", metavar="RECORDING", type=InputFile()),
    click.argument("node_id", metavar="NODE"),
)
_dataflow_option = click.option(
    "--dataflow",
    metavar="FILE",
    shell_complete=dataflow_files,
    help="Take the node from this dataflow file instead of the recorded dataflow.",
)


def _warn_of_changes(found: Reproduced) -> None:
    from dora.recording.alone.shrink import changed_sources

    for changed in changed_sources(found.node, found.report.files):
        click.echo(f"warning: {changed} changed since the recording", err=True)


# ------------------------------------------------------------------------------ dora debug


def _moment(text: str) -> float | str:
    """Return ``failure``, or seconds. Raises ``ValueError``."""
    return FAILURE if text.strip().lower() == FAILURE else parse_duration(text)


@click.command()
@_node_of_recording
@click.option(
    "--at",
    type=ParameterValue("moment", _moment),
    metavar="MOMENT",
    help="Stop at the first event from this time of the recording on, for example 12.3s, or with `failure` "
    "at the event with which the node fails.",
)
@click.option(
    "--vscode",
    is_flag=True,
    help=f"Wait for VS Code instead of pdb, and write {_LAUNCH} for it.",
)
@click.option(
    "--listen",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help=f"Wait on this port for PyCharm, VS Code or another debugger that speaks to debugpy [{_PORT} with "
    "--vscode].",
)
@_dataflow_option
def debug(
    recording: str,
    node_id: str,
    at: float | str | None,
    vscode: bool,
    listen: int | None,
    dataflow: str | None,
) -> int:
    """Run one node of a recording at this terminal, under a debugger.

    The node runs alone, with its present code. It gets the events that it took then, in their order and
    with their times. Its messages are shown beside the recorded ones, and are not sent. The exit status
    is 1 if it fails.

    Where it stops, the commands of pdb work, and: `next event`, `back` (run again, to the event before),
    `what followed` (show what is recorded after this event), `event` (show the event again).
    """
    from dora.cli.reports import warn_of_trouble
    from dora.recording.alone.debugger import Debugger
    from dora.recording.opening import open_recording

    wait = _editor(vscode, listen)
    with open_recording(recording) as opened:
        warn_of_trouble(opened)
        node, program, step = _find(opened, node_id, at, dataflow)
        return Debugger(node, program, click.echo, wait).run(step)


def _find(
    opened: Recording, node_id: str, at: float | str | None, dataflow: str | None
) -> tuple[RecordedNode, NodeProgram, int]:
    """Return the node, its program, and the number of the event to stop at (0: at none)."""
    from dora.recording.alone.recorded_node import recorded_node
    from dora.recording.alone.run import NodeProgram
    from dora.recording.alone.shrink import reproduce

    if at == FAILURE:
        found = reproduce(opened, node_id, file=dataflow)
        _warn_of_changes(found)
        click.echo(f"{node_id} fails at event {found.report.step:,}: {found.failure}", err=True)
        return found.node, found.program, found.report.step
    node = recorded_node(opened, node_id, file=dataflow)
    program = NodeProgram(node)
    if not isinstance(at, float):
        return node, program, 0
    last = node.seconds(node.steps[-1].entry.time_ns) if node.steps else 0.0
    if at > last:
        raise DoraError(
            f"node `{node_id}` took its last event at {last:.3f} s of {opened.path}; give --at less"
        )
    return node, program, node.step_at(at)


# ------------------------------------------------------------------------------ debuggers of editors


def _editor(vscode: bool, listen: int | None) -> Callable[[], Callable[[FrameType | None], None]] | None:
    """Return a function that waits for the debugger of an editor, None for pdb."""
    if not vscode and listen is None:
        return None
    try:
        import debugpy  # noqa: F401 - the process of the node uses it
    except ImportError:
        raise DoraError(
            "for the debugger of an editor, debugpy is needed; install it with: "
            "pip install 'dora-dataflow[debugger]'"
        ) from None
    port = listen or _PORT
    if vscode:
        write_launch_file(port)

    def wait() -> Callable[[FrameType | None], None]:
        import debugpy

        try:
            debugpy.listen(("127.0.0.1", port))
        except RuntimeError as error:
            raise DoraError(
                f"debugpy cannot listen on port {port} ({error}); choose another one with --listen"
            ) from None
        click.echo(f"waiting for a debugger on 127.0.0.1:{port}", err=True)
        debugpy.wait_for_client()
        return _stop_in

    return wait


def _stop_in(frame: FrameType | None) -> None:
    """Have the connected debugger stop in a frame of the program; None: in the next function of it."""
    import pydevd  # type: ignore[import-not-found]  # debugpy has it

    from dora.recording.alone.run import is_of_program

    if frame is not None:
        pydevd.settrace(
            suspend=True, trace_only_current_thread=True, patch_multiprocessing=False, stop_at_frame=frame
        )
        return

    def called(entered: FrameType, what: str, _: object) -> None:
        if what == "call" and is_of_program(entered):
            sys.setprofile(None)
            _stop_in(entered)

    sys.setprofile(called)


def write_launch_file(port: int, path: str = _LAUNCH) -> None:
    """Add how to attach to this port to the launch file of VS Code; raises `DoraError`."""
    entry: dict[str, Any] = {
        "name": "dora debug",
        "type": "debugpy",
        "request": "attach",
        "connect": {"host": "127.0.0.1", "port": port},
    }
    content: dict[str, Any] = {"version": "0.2.0", "configurations": []}
    try:
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        others = [one for one in content["configurations"] if one.get("name") != entry["name"]]
        content["configurations"] = [*others, entry]
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=4)
            file.write("\n")
    except OSError as error:
        raise cannot_write(path, error) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise DoraError(
            f"{path} is no plain JSON (it may have comments); add this to its `configurations`: "
            f"{json.dumps(entry)}"
        ) from None


# ------------------------------------------------------------------------------ dora shrink


@click.command()
@_node_of_recording
@click.option(
    "-o", "--output", "folder", metavar="DIR", default=_FOLDER, help=f"Folder of the test [{_FOLDER}]."
)
@click.option(
    "--expect",
    metavar="EXPRESSION",
    help="Shrink to a wrong output instead of a failure: what should be true of each message, for example "
    "'output.bbox[0] < 640'.",
)
@click.option(
    "--tries",
    type=click.IntRange(1, 1000),
    default=_TRIES,
    help=f"How often the node runs with all events before a failure counts as one that does not come again "
    f"[{_TRIES}].",
)
@click.option(
    "--time",
    "seconds",
    type=DURATION,
    default=_SECONDS,
    metavar="DURATION",
    help=f"How long to search; then the smallest recording so far is written [{_SECONDS:.0f}s].",
)
@_dataflow_option
@click.option("--force", is_flag=True, help="Overwrite an existing test.")
def shrink(
    recording: str,
    node_id: str,
    folder: str,
    expect: str | None,
    tries: int,
    seconds: float,
    dataflow: str | None,
    force: bool,
) -> int:
    """Make a test of a node's failure, from a recording.

    The node runs by itself, again and again, with ever fewer of its recorded events, as long as it fails
    in the same way: with the same exception, from the same line. Then values of arrays become 0 where that
    changes nothing. The rest becomes a small recording and a test for pytest of ten lines, which fails
    until the node is repaired.

    An expression of --expect has the numbers, texts, indices, comparisons and arithmetic of Python, `and`,
    `or`, `not`, the newest values of outputs as `output.NAME` or `output['NAME']`, `metadata`, and the
    functions abs, all, any, isfinite, isnan, len, max, min, round, sqrt and sum.
    """
    from dora.cli.reports import warn_of_trouble
    from dora.recording.alone.expectation import Expectation
    from dora.recording.alone.shrink import reproduce, shrink
    from dora.recording.alone.write import files_for, write_test
    from dora.recording.opening import open_recording

    began = time.monotonic()
    expectation = None if expect is None else Expectation(expect)
    with open_recording(recording) as opened:
        warn_of_trouble(opened)
        found = reproduce(opened, node_id, file=dataflow, expectation=expectation, attempts=tries)
        verb = "fails" if expectation is None else "sends something wrong"
        click.echo(f"{node_id} {verb} at event {found.report.step:,}: {found.failure}", err=True)
        _warn_of_changes(found)
        progress = _Progress()
        small = shrink(found, seconds=seconds, progress=progress)
        progress.end()
        files = files_for(small, folder, expectation)
        write_test(small, files, expectation, force=force)
    _report(found, small, time.monotonic() - began, seconds)
    for path in (files.test, files.recording):
        click.echo(path)
    click.echo(f"\nRun it: python -m pytest {files.test}", err=True)
    return 0


def _report(found: Reproduced, small: Small, took: float, seconds: float) -> None:
    left = f"{len(small.steps):,} of {counted(len(found.node.steps), 'event')}"
    click.echo(f"left: {left}, with {counted(small.messages, 'message')}", err=True)
    click.echo(f"({small.tries:,} tries, {took:.1f} s)", err=True)
    if not small.minimal:
        click.echo(
            f"warning: {seconds:g} s were over, so more may be left than it takes; --time gives it longer",
            err=True,
        )
    if small.fails == 0:
        raise DoraError(
            "what is left does not fail again: the failure does not follow from the events alone"
        )
    if small.fails < 10:
        click.echo(
            f"warning: with what is left, the node fails in {small.fails} of 10 runs: something else than "
            "its events decides it, for example random numbers without a seed, or threads",
            err=True,
        )


class _Progress:
    """A line about the search on a terminal, ten times a second at most."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._on_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def __call__(self, left: int, tries: int) -> None:
        now = time.monotonic()
        if self._on_terminal and now - self._shown > 0.1:
            self._shown = now
            sys.stderr.write(f"\r\x1b[K{left:,} events left, {tries:,} tries")
            sys.stderr.flush()

    def end(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
