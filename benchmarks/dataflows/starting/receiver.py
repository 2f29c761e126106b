"""Read messages; write the processor time that reading each one takes in this thread, in nanoseconds."""

import json
import os
import time
from pathlib import Path

import pyarrow as pa

from dora import Node

times_ns = []
for event in Node():
    if event["type"] == "INPUT":
        begun = time.thread_time_ns()
        assert isinstance(event["value"], pa.Array)
        assert "number" in event["metadata"]
        times_ns.append(time.thread_time_ns() - begun)
Path(os.environ["BENCHMARK_RESULTS"], "receiver.json").write_text(json.dumps(times_ns))
