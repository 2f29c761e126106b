"""A recorder in a process of its own, as the dashboard starts it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from recording_flows import Folder, end
from waiting import wait_until

from dora.cli.reports import report_saved
from dora.daemon.client import running
from dora.errors import DoraError
from dora.observe.tap_session import inspect
from dora.recording.recorder.control import RecorderStatus, ask, statuses
from dora.recording.recorder.options import RecordingOptions
from dora.recording.recorder.process import BackgroundRecorder, RecorderReport

pytestmark = pytest.mark.processes


@contextmanager
def recorder(folder: Folder, **settings: object) -> Iterator[tuple[BackgroundRecorder, str]]:
    """Let a recorder begin with the only dataflow; give the run's directory along."""
    (run,) = running()
    with run:
        run_dir = inspect(run).run_dir
    background = BackgroundRecorder()
    try:
        path = str(folder.directory / "a.mcap")
        background.begin(f"{run_dir}/daemon.sock", RecordingOptions(path=path, **settings))  # type: ignore[arg-type]
        yield background, run_dir
    finally:
        if not background.ended:
            background.kill()


def test_a_recording_is_started_listed_and_stopped(folder: Folder) -> None:
    folder.run()
    with recorder(folder) as (background, run_dir):
        background.wait_until_recording()
        wait_until(lambda: next(statuses(run_dir)).messages > 10, "messages")
        background.stop()
        result = background.wait()
    assert result is not None and result.complete and result.messages > 10
    with folder.recording() as recording:
        assert recording.count == result.messages


def test_a_background_recorder_ends_with_the_dataflow(folder: Folder) -> None:
    dataflow = folder.run()
    with recorder(folder) as (background, run_dir):
        background.wait_until_recording()
        wait_until(lambda: next(statuses(run_dir)).messages > 10, "messages")
        end(dataflow)
        result = background.wait()
    assert result is not None and result.complete
    assert list(statuses(run_dir)) == []


def test_a_ring_is_saved_as_often_as_a_command_asks(folder: Folder) -> None:
    folder.run()
    with recorder(folder, last_seconds=60.0) as (background, run_dir):
        background.wait_until_recording()
        (status,) = statuses(run_dir)
        wait_until(lambda: next(statuses(run_dir)).messages > 10, "messages")
        ask(run_dir, status.pid, "save")
        wait_until(lambda: background.is_recording() and background.saved, "the first file")
        answer = ask(run_dir, status.pid, "save")
        assert answer.path.endswith("a-2.mcap") and answer.messages >= background.saved[0].messages
        background.stop()
        assert background.wait() is None
    assert [item.complete for item in background.saved] == [True, True]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"topics": ["camera/imge"]}, "did you mean `camera/image`"),
        ({"path": "/proc/none/a.mcap"}, "cannot be written"),
    ],
)
def test_a_recording_that_cannot_begin_is_refused(
    folder: Folder, settings: dict[str, object], sentence: str
) -> None:
    folder.run()
    path = settings.pop("path", str(folder.directory / "a.mcap"))
    (run,) = running()
    with run:
        socket = f"{inspect(run).run_dir}/daemon.sock"
    background = BackgroundRecorder()
    background.begin(socket, RecordingOptions(path=path, **settings))  # type: ignore[arg-type]
    with pytest.raises(DoraError, match=sentence):
        background.wait_until_recording()
    background.kill()
    assert folder.recorders() == []


def test_a_killed_recorder_is_noticed(folder: Folder) -> None:
    folder.run()
    with recorder(folder) as (background, _):
        background.wait_until_recording()
        background._process.kill()
        assert background.wait() is None


def test_a_recorder_that_cannot_go_on_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that keeps the last seconds does when there is no memory: it has no file to tell it in."""
    status = RecorderStatus(pid=1, path="a.mcap", started=0, topics=[], messages=0, bytes=0)
    reports = RecorderReport(recording=status), RecorderReport(error="there is no memory")
    lines = b"".join(msgspec.json.encode(report) + b"\n" for report in reports)
    program = f"import sys; sys.stdin.readline(); sys.stdout.buffer.write({lines!r})"
    start = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _, **options: start([sys.executable, "-c", program], **options)
    )
    background = BackgroundRecorder()
    background.begin("", RecordingOptions())
    assert background.wait() is None
    assert (background.problem, background.killed) == ("there is no memory", False)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("there is no memory", "error: there is no memory\n"),
        ("", "error: the recorder was killed; what it has written can be read\n"),
    ],
)
def test_a_recorder_without_a_result_is_reported_with_the_reason(
    error: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_saved(None, error) == 1
    assert capsys.readouterr().err == text
