"""An arm that reports its last command as its state, and records all commands."""

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from dora import Input, Node
from dora.transforms import nanoseconds

commands: list[tuple[int, int, str, list[float]]] = []  # sent, taken, reason of the safe state, values
executed: list[tuple[int, str]] = []  # when the executor sent, and the reason of the safe state
stops: list[int] = []  # when the human sent
starts: list[int] = []
state = np.zeros(3, np.float32)
result: dict[str, Any] = {"commands": commands, "executed": executed, "stops": stops, "starts": starts}
try:
    with Node() as node:
        for event in node:
            if not isinstance(event, Input):
                continue
            if event.id == "tick":
                node.send_output("state", state, {"timestamp": event.metadata["timestamp"]})
            elif event.id == "stop":
                stops.append(event.metadata["sent_ns"])
            elif event.id == "start":
                starts.append(event.metadata["sent_ns"])
            elif event.id == "executed":
                executed.append((nanoseconds(event.send_time), event.metadata.get("safe_state", "")))
            else:
                state = event.numpy().copy()
                sent = nanoseconds(event.send_time)
                reason = event.metadata.get("safe_state", "")
                commands.append((sent, time.time_ns(), reason, state.tolist()))
finally:
    Path(os.environ["BENCHMARK_RESULTS"], "arm.json").write_text(json.dumps(result))
