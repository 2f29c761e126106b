"""Send 64 bytes at 100 Hz and pictures at 30 Hz, each with the time at its beginning."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from dora import Node

seconds = float(os.environ["BENCHMARK_SECONDS"])
data = {
    "control": np.zeros(64, np.uint8),
    "picture": np.zeros(int(os.environ["BENCHMARK_BYTES"]), np.uint8),
}
period_s = {"control": 0.01, "picture": 1 / 30}

node = Node()
sent = dict.fromkeys(data, 0)
longest_ns = 0
began = time.monotonic()
due = dict.fromkeys(data, began)
while (now := time.monotonic()) < began + seconds:
    for name, at in due.items():
        if at <= now:
            due[name] += period_s[name]
            sent[name] += 1
            data[name][:8].view(np.int64)[0] = started_ns = time.monotonic_ns()
            node.send_output(name, pa.array(data[name]))
            longest_ns = max(longest_ns, time.monotonic_ns() - started_ns)
    time.sleep(max(0.0, min(due.values()) - time.monotonic()))
Path(os.environ["BENCHMARK_RESULTS"], "robot.json").write_text(
    json.dumps({"sent": sent, "longest_ns": longest_ns})
)
