"""Kills the policy, or freezes it and then kills it, in turn, at random moments."""

import json
import os
import random
import signal
import time
from pathlib import Path

from dora import Input, Node

KILLS = int(os.environ["BENCHMARK_KILLS"])
FOLDER = Path(os.environ["BENCHMARK_RESULTS"])

chance = random.Random(3)
kills: list[tuple[int, str]] = []  # when, and by which signal
with Node() as node:
    for event in node:
        if not isinstance(event, Input) or event.value[0].as_py() != "playing":
            continue
        time.sleep(chance.uniform(0.2, 1.0))
        process = int((FOLDER / "policy.pid").read_text())
        number = signal.SIGSTOP if len(kills) % 2 else signal.SIGKILL
        kills.append((time.time_ns(), number.name))
        os.kill(process, number)
        if number is signal.SIGSTOP:
            time.sleep(1.0)  # longer than the deadline
            os.kill(process, signal.SIGKILL)
        if len(kills) == KILLS:
            time.sleep(1.0)
            break
(FOLDER / "killer.json").write_text(json.dumps(kills))
