"""Make and send messages; write the processor time that each one takes in this thread, in nanoseconds."""

import json
import os
import time
from pathlib import Path

import pyarrow as pa

from dora import Node

MESSAGES = 1000
PACE = 0.001  # seconds
RARE = 5  # messages after the others, each after a pause
PAUSE = 1.0  # seconds

node = Node()
times_ns = []
for number in range(MESSAGES + RARE):
    time.sleep(PACE if number < MESSAGES else PAUSE)
    begun = time.thread_time_ns()
    node.send_output("data", pa.array([number, 2, 3]), {"number": number})
    times_ns.append(time.thread_time_ns() - begun)
Path(os.environ["BENCHMARK_RESULTS"], "sender.json").write_text(json.dumps(times_ns))
