"""Two streams at their rates: control messages at 100 Hz, and pictures at 30 Hz."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

PERIOD_S = {"control": 0.01, "picture": 1 / 30}


def send_paced(seconds: float, senders: Mapping[str, Callable[[int], None]], results: Path) -> None:
    """Send on both streams for some seconds, and write how many messages were sent to ``robot.json``.

    A sender gets the time that belongs into its message, in nanoseconds (CLOCK_MONOTONIC). The longest call
    of one is written, too.
    """
    sent = dict.fromkeys(senders, 0)
    longest_ns = 0
    began = time.monotonic()
    due = dict.fromkeys(senders, began)
    while (now := time.monotonic()) < began + seconds:
        for name, at in due.items():
            if at <= now:
                due[name] += PERIOD_S[name]
                sent[name] += 1
                started_ns = time.monotonic_ns()
                senders[name](started_ns)
                longest_ns = max(longest_ns, time.monotonic_ns() - started_ns)
        time.sleep(max(0.0, min(due.values()) - time.monotonic()))
    (results / "robot.json").write_text(json.dumps({"sent": sent, "longest_ns": longest_ns}))
