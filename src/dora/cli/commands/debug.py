"""``dora debug``: run one node of a recording at this terminal, and stop at an event."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from dora.cli.argument_values import InputFile, ParameterValue, parse_duration
from dora.cli.completion import dataflow_files
from dora.errors import DoraError, cannot_write

if TYPE_CHECKING:
    from dora.recording.alone.recorded_node import RecordedNode
    from dora.recording.alone.run import NodeProgram
    from dora.recording.mcap.recording import Recording

FAILURE = "failure"
_PORT = 5678  # debugpy's own
_LAUNCH = os.path.join(".vscode", "launch.json")


def _moment(text: str) -> float | str:
    """Return ``failure``, or seconds. Raises ``ValueError``."""
    return FAILURE if text.strip().lower() == FAILURE else parse_duration(text)


@click.command()
@click.argument("recording", metavar="RECORDING", type=InputFile())
@click.argument("node_id", metavar="NODE")
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
@click.option(
    "--dataflow",
    metavar="FILE",
    shell_complete=dataflow_files,
    help="Take the node from this dataflow file instead of the recorded dataflow.",
)
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
    from dora.recording.alone.debugger import Debugger
    from dora.recording.mcap.info import trouble
    from dora.recording.opening import open_recording

    wait = _editor(vscode, listen)
    with open_recording(recording) as opened:
        if text := trouble(opened):
            click.echo(f"warning: {recording}: {text}", err=True)
        node, program, step = _find(opened, node_id, at, dataflow)
        return Debugger(node, program, click.echo, wait).run(step)


def _find(
    opened: Recording, node_id: str, at: float | str | None, dataflow: str | None
) -> tuple[RecordedNode, NodeProgram, int]:
    """Return the node, its program, and the number of the event to stop at (0: at none)."""
    from dora.recording.alone.recorded_node import recorded_node
    from dora.recording.alone.run import NodeProgram
    from dora.recording.alone.shrink import changed_sources, reproduce

    if at == FAILURE:
        found = reproduce(opened, node_id, file=dataflow)
        for changed in changed_sources(found.node, found.report.files):
            click.echo(f"warning: {changed} changed since the recording", err=True)
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
