"""Write when this version of the file receives its first message; monotonic clock, nanoseconds."""

import json
import os
import time
from pathlib import Path

import pyarrow as pa

from dora import Node

VERSION = 0

noted = False
for event in Node():
    if event["type"] == "INPUT" and not noted:
        noted = True
        assert isinstance(event["value"], pa.Array)
        notes = Path(os.environ["BENCHMARK_RESULTS"], f"version{VERSION}.json")
        unfinished = notes.with_suffix(".tmp")
        unfinished.write_text(json.dumps(time.monotonic_ns()))
        unfinished.replace(notes)
