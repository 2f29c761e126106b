"""``dora replay``: run a dataflow again, with the recorded messages of some of its nodes."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

import click
import msgspec

from dora._shared_folders import open_file
from dora.cli.argument_values import NAMES, InputFile, ParameterValue, shortened
from dora.cli.command_run import CommandRun, command_run_options
from dora.cli.completion import dataflow_files
from dora.cli.options import DURATION, allow_incomplete_option, check_bag_options, images_option
from dora.cli.reports import report_outcome, report_saved, report_truncation, warn_of_trouble
from dora.cli.run_options import RunCommand
from dora.cli.run_reporter import reporter_for
from dora.errors import DataflowError, DoraError, cannot_write
from dora.node.replay.clock import WITHOUT_LIMIT, ReplayClock
from dora.recording.mcap.recording import RecordedMessage
from dora.wire.decode import PayloadError, decode_arrow

if TYPE_CHECKING:
    from dora.daemon.daemon import Daemon
    from dora.dataflow.model import Dataflow
    from dora.recording.mcap.recording import Recording
    from dora.recording.recorder.options import RecordingOptions
    from dora.recording.replay.replay import Replay


def _topic(text: str) -> tuple[str, str]:
    output, equals, topic = text.partition("=")
    if not equals or "/" not in output.strip("/") or not topic.strip("/"):
        raise ValueError(
            f"`{shortened(text)}` is not NODE/OUTPUT=TOPIC: write for example camera/image=/image_raw"
        )
    return output, topic


@click.command(cls=RunCommand)
@click.argument("recording", metavar="RECORDING", type=InputFile())
@click.argument("path", metavar="[FILE]", required=False, shell_complete=dataflow_files)
@click.option(
    "--replace",
    type=NAMES,
    metavar="NODE,...",
    help="Replace these nodes by the recording, and run all others [those without inputs from nodes].",
)
@click.option(
    "--speed", type=float, default=1.0, help="Speed as a factor; 0 is as fast as the nodes can [1.0]."
)
@click.option("--loop", is_flag=True, help="Repeat until Ctrl-C. Not in recorded order.")
@click.option(
    "--from",
    "begin",
    type=DURATION,
    default=0.0,
    metavar="DURATION",
    help="Start at this time of the recording [0].",
)
@click.option(
    "--to", "end", type=DURATION, metavar="DURATION", help="Stop at this time of the recording [the end]."
)
@click.option(
    "--step",
    is_flag=True,
    help="Send one message at each press of Enter; a number sends that many, c all others, q stops.",
)
@click.option(
    "--free",
    is_flag=True,
    help="Deliver inputs as they come and run timers, instead of following the recorded order.",
)
@click.option(
    "--patience",
    type=DURATION,
    default=30.0,
    metavar="DURATION",
    help="How long a node may wait for a recorded message that does not come; then it is stopped [30s].",
)
@images_option
@click.option(
    "--topic",
    "topics",
    type=ParameterValue("topic", _topic),
    multiple=True,
    metavar="NODE/OUTPUT=TOPIC",
    help="Send this topic of a bag of ROS 2 as this output [the topic with the output's name]. Repeatable.",
)
@click.option("-o", "--output", metavar="RECORDING", help="Record all outputs of the replay.")
@click.option("--force", is_flag=True, help="Overwrite an existing file of -o or --output-yaml.")
@click.option(
    "--output-yaml",
    metavar="PATH",
    help="Write the dataflow with its players to a file instead of running it.",
)
@allow_incomplete_option
@command_run_options(
    exit_when_nodes_finish="the nodes of a replay finish when the recording has ended",
    black_box="what a replay does can be had again; record it with -o",
)
def replay(
    recording: str,
    path: str | None,
    replace: list[str] | None,
    speed: float,
    loop: bool,
    begin: float,
    end: float | None,
    step: bool,
    free: bool,
    patience: float,
    images: bool,
    topics: tuple[tuple[str, str], ...],
    output: str | None,
    force: bool,
    output_yaml: str | None,
    allow_incomplete: bool,
    command_run: CommandRun,
) -> int:
    """Run a dataflow again with its recorded sources.

    Cameras and other nodes without inputs from nodes are replaced by the recording. The others run with
    their present code; FILE is a dataflow to run instead of the recorded one. They get all events, timers
    included, in recorded order and with recorded times: a node whose outputs depend only on its events
    sends the same again, at any speed. With -o, the replay is recorded, so that `dora diff` can show what
    has changed. A truncated recording is replayed as far as it can be read; the exit status is 1 then,
    except with --allow-incomplete.

    RECORDING may be a bag of ROS 2, a folder or a file. It replaces the nodes of FILE whose outputs have
    the names of its topics: the output `camera/image_raw` is the topic `/camera/image_raw`.
    """
    from dora.recording.opening import open_recording
    from dora.recording.replay.replay import Replay, ReplayRequest

    if not (0 <= speed < math.inf):
        raise click.UsageError("--speed has to be a number, at least 0")
    if output_yaml and (step or output):
        raise click.UsageError(
            "--output-yaml runs nothing, so there is nothing to step through or to record"
        )
    if output and os.path.realpath(output) == os.path.realpath(recording):
        raise DoraError(f"{output} is the recording that is replayed; choose another file")
    with open_recording(recording, images=images, topics=dict(topics)) as opened:
        check_bag_options(opened, images, topics)
        free = free or opened.ros2 is not None  # a bag has no order of events
        warn_of_trouble(opened)
        request = ReplayRequest(
            dataflow=path,
            replace=replace,
            speed=0.0 if step else speed,
            loop=loop,
            begin=begin,
            end=end,
            free=free,
            step=step,
            patience=patience,
            recorded=output is not None,
            images=images,
            topics=dict(topics),
            env=command_run.options.env,
        )
        prepared = Replay(opened, request)
        if prepared.ordered and command_run.options.hot_reload:
            raise click.UsageError(
                "--hot-reload goes with --free or --loop; in recorded order, new code would lack the "
                "events before it"
            )
        if output_yaml:
            return _write_yaml(prepared, output_yaml, force)
        _print_roles(opened, prepared, free or loop)
        settings = _settings(output, force, prepared) if output else None
        status, cut = _run(prepared, command_run, step=step, settings=settings)
        return report_truncation(recording, cut, allow_incomplete) or status


def _settings(output: str, force: bool, prepared: Replay) -> RecordingOptions:
    from dora.recording.recorder.options import RecordingOptions

    return RecordingOptions(path=output, topics=prepared.topics(), force=force)


def _run(
    prepared: Replay,
    command_run: CommandRun,
    *,
    step: bool,
    settings: RecordingOptions | None,
) -> tuple[int, str]:
    """Run a replay; return the exit status, and where reading the recording stopped ("": at its end)."""
    from dora.recording.mcap.process_folder import process_folder
    from dora.recording.recorder.options import QUEUE_SIZE
    from dora.recording.replay.replay import EndDetection

    reporter = reporter_for("off" if step else command_run.progress)
    with process_folder("replay") as folder:
        dataflow = _prepare(prepared, folder)
        recorder = None
        if settings is not None:
            from dora.recording.recorder.process import BackgroundRecorder

            recorder = BackgroundRecorder()
        try:

            def begin(daemon: Daemon) -> None:
                if recorder is not None and settings is not None:
                    recorder.begin_with(daemon, settings, reporter.say)
                if step:
                    _start_single_step(prepared, folder, daemon)
                if not prepared.ordered:
                    EndDetection(daemon, prepared.roles.replaced, prepared.patience)
                reporter.goal = prepared.message_count()
                reporter.watch(daemon, prepared.roles.replaced)

            outcome = command_run.run(
                dataflow,
                reporter,
                on_daemon=begin,
                session=False,
                warn=False,
                tap_queue=0 if settings is None else QUEUE_SIZE,
            )
            saved = recorder.wait() if recorder is not None else None
            cut = prepared.cut(folder)
        except BaseException:
            if recorder is not None:
                recorder.abandon()
            raise
    # The recording decides which messages are delivered, so the counts of losses mean nothing.
    if prepared.ordered:
        outcome = msgspec.structs.replace(outcome, result=msgspec.structs.replace(outcome.result, links=()))
    status = report_outcome(outcome, reporter)
    return (status if recorder is None else report_saved(saved, recorder.error) or status), cut


def _start_single_step(prepared: Replay, folder: str, daemon: Daemon) -> None:
    from dora.node.replay.inbox import CLOCK_FILE

    clock = ReplayClock.open(os.path.join(folder, CLOCK_FILE), writable=True)
    stepper = SingleStep(
        prepared.messages(), clock, show=_print, stop=lambda: daemon.stop("stopped at the terminal")
    )
    stepper.start(sys.stdin)


def _prepare(prepared: Replay, folder: str) -> Dataflow:
    from dora.daemon.build.build import missing

    dataflow = prepared.prepare(folder)
    if prepared.ordered and (unordered := prepared.unordered(folder)):
        _print(
            f"not in recorded order, because the recording lacks the event order of: {', '.join(unordered)}"
        )
    if problems := missing(dataflow):
        raise DataflowError(problems=tuple(problems))
    return dataflow


def _print(text: str) -> None:
    click.echo(text, err=True)


def _print_roles(recording: Recording, prepared: Replay, as_requested: bool) -> None:
    roles = prepared.roles
    parts = [f"from the recording: {', '.join(roles.replaced)}"]
    if roles.live:
        parts.append(f"running again: {', '.join(roles.live)}")
    if roles.left_out:
        parts.append(f"left out: {', '.join(roles.left_out)}")
    click.echo("; ".join(parts), err=True)
    if not prepared.ordered and not as_requested:
        click.echo(
            f"warning: {recording.path} lacks the order of events; nodes get inputs as they come",
            err=True,
        )


def _write_yaml(prepared: Replay, path: str, force: bool) -> int:
    try:
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
        with open(open_file(path, flags), "w", encoding="utf-8") as file:
            file.write(prepared.yaml())
    except FileExistsError:
        raise DoraError(
            f"{path} exists already; choose another file, or overwrite it with --force"
        ) from None
    except OSError as error:
        raise cannot_write(path, error) from None
    click.echo(f"{path} plays the recording with `dora run`; nodes get their inputs as they come")
    return 0


HELP = "single step: Enter sends the next message, a number that many, c all the rest, q stops"


class SingleStep:
    """Release the messages of a replay one by one, as lines of input request."""

    def __init__(
        self,
        messages: Iterator[RecordedMessage],
        clock: ReplayClock,
        *,
        show: Callable[[str], None],
        stop: Callable[[], None],
    ) -> None:
        self._messages = messages
        self._clock = clock
        self._show = show
        self._stop = stop

    def start(self, lines: TextIO) -> None:
        """Read lines in a thread; at the end of the input, all messages are released."""
        threading.Thread(target=self._read, args=(lines,), name="dora-single-step", daemon=True).start()

    def _read(self, lines: TextIO) -> None:
        self._show(HELP)
        for line in lines:
            if not self.handle(line.strip().lower()):
                return
        self._clock.release(WITHOUT_LIMIT)

    def handle(self, word: str) -> bool:
        """Obey one line; return False if no more lines are needed."""
        if word in ("q", "quit"):
            self._stop()
            return False
        if word in ("c", "continue"):
            self._clock.release(WITHOUT_LIMIT)
            return False
        if word and not word.isdecimal():
            self._show(HELP)
            return True
        for _ in range(int(word or 1)):
            recorded = next(self._messages, None)
            if recorded is None:
                self._show("that was the last message")
                self._clock.release(WITHOUT_LIMIT)
                return False
            self._show(self._description(recorded))
            self._clock.release(recorded.time_ns)
        return True

    def _description(self, recorded: RecordedMessage) -> str:
        seconds = (recorded.time_ns - self._clock.start_ns) / 1e9
        try:
            array = decode_arrow(recorded.message)
            what = f"{array.type}[{len(array):,}]"
        except (PayloadError, ValueError):
            what = f"{len(recorded.data):,} bytes"
        return f"{seconds:10.3f} s  {recorded.topic}  {what}"
