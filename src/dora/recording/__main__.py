"""A recorder in a process of its own, see `dora.recording.recorder.process`.

Standard input brings one line of JSON with the order (`RecorderStart`), and ends it when it ends. Standard
output tells, line by line, that it records, what a ring has saved, and what came of it (`RecorderReport`).
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

SWITCH_INTERVAL = 0.0005  # seconds; the thread that takes messages must not wait long for the other


def main() -> None:
    """Record as the line on standard input says."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the dataflow, or with who started it
    sys.setswitchinterval(SWITCH_INTERVAL)
    warm_up()
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = from_json(line, RecorderStart)
    try:
        with DaemonClient(order.socket) as run:
            recorder = Recorder(run, order.settings, lambda saved: _tell(RecorderReport(saved=saved)))
            threading.Thread(target=_watch, args=(recorder,), daemon=True).start()
            _tell(RecorderReport(recording=recorder.status()))
            result = recorder.run()
    except DoraError as error:
        _tell(RecorderReport(error=str(error)))
        return
    _tell(RecorderReport(ended=True, saved=result))


def _watch(recorder: Recorder) -> None:
    """End with whoever holds the other end of standard input; a line is the wish to save."""
    while os.read(0, 4096):
        recorder.save()
    recorder.stop()


def _tell(report: RecorderReport) -> None:
    try:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
        sys.stdout.buffer.flush()
    except OSError:
        pass  # nobody listens any more


if __name__ == "__main__":
    main()
