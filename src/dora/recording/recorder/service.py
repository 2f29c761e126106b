"""Recordings that are started and stopped in the browser, each in a separate process.

Recorders that others started, such as `dora record`, are listed and can be stopped, too.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from dora.errors import DoraError
from dora.recording.recorder.control import RecorderAnswer, RecorderStatus, ask, statuses
from dora.recording.recorder.options import RecordingOptions, file_name, unused
from dora.recording.recorder.process import BackgroundRecorder

STOP_PATIENCE: Final = 60.0  # seconds; chunks in memory are written first


class Recordings:
    """The recorders that this server has started. The methods may wait: call them in threads."""

    def __init__(self) -> None:
        self._recorders: list[BackgroundRecorder] = []
        self._lock = threading.Lock()
        self._beginning = threading.Lock()

    def present(self, run_dir: str) -> list[RecorderStatus]:
        """Return the status of all recorders of a run."""
        return list(statuses(run_dir))

    def start(self, socket: str, directory: str, topics: list[str]) -> RecorderStatus:
        """Begin a new file in a directory, which is created if necessary; no topics mean all.

        Raises `DoraError`.
        """
        try:
            os.makedirs(directory, exist_ok=True)
        except OSError as error:
            raise DoraError(f"{directory} cannot be made: {error.strerror}") from None
        recorder = BackgroundRecorder()
        try:
            # One at a time: names consist of seconds, and a name is free until its file exists.
            with self._beginning:
                path = unused(os.path.join(directory, file_name()))
                recorder.begin(socket, RecordingOptions(path=path, topics=topics))
                recorder.wait_until_recording()
        except BaseException:
            recorder.kill()
            raise
        threading.Thread(target=self._keep, args=(recorder,), name="dora-recorder", daemon=True).start()
        assert recorder.status is not None
        return recorder.status

    def _keep(self, recorder: BackgroundRecorder) -> None:
        """Hold a recorder until it ends: it would end if its object were dropped."""
        with self._lock:
            self._recorders.append(recorder)
        recorder.wait()
        with self._lock:
            self._recorders.remove(recorder)

    def stop(self, run_dir: str, pid: int) -> RecorderAnswer:
        """End a recorder and return the result; raises `DoraError`."""
        return ask(run_dir, pid, "stop", STOP_PATIENCE)
