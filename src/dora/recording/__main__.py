"""The recorder process, see `dora.recording.recorder.process`.

Standard input has one line of JSON, the `RecorderStart`; its end ends the recording. Standard output has a
`RecorderReport` a line: recording has begun, a ring was saved, the result.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import msgspec

from dora.daemon.client import DaemonClient
from dora.errors import DoraError
from dora.recording.recorder.process import RecorderReport, RecorderStart
from dora.recording.recorder.recorder import Recorder
from dora.wire.decode import warm_up
from dora.wire.decoders import from_json

SWITCH_INTERVAL = 0.0005  # seconds; the thread that takes messages must not wait long for the write thread


def main() -> None:
    """Record what the line on standard input asks for."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the dataflow, or with its parent process
    sys.setswitchinterval(SWITCH_INTERVAL)
    warm_up()
    line = sys.stdin.buffer.readline()
    if not line:
        return
    start = from_json(line, RecorderStart)
    try:
        with DaemonClient(start.socket) as run:
            recorder = Recorder(run, start.settings, lambda saved: _report(RecorderReport(saved=saved)))
            threading.Thread(target=_watch, args=(recorder,), daemon=True).start()
            _report(RecorderReport(recording=recorder.status()))
            result = recorder.run()
    except DoraError as error:
        _report(RecorderReport(error=str(error)))
        return
    _report(RecorderReport(ended=True, saved=result))


def _watch(recorder: Recorder) -> None:
    """Stop at the end of standard input."""
    while os.read(0, 4096):
        pass
    recorder.stop()


def _report(report: RecorderReport) -> None:
    try:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()
    except OSError:
        pass  # the parent process is gone


if __name__ == "__main__":
    main()
