"""Note how long after its publisher was made the first image of each process is here."""

import json
import os
import time
from pathlib import Path

from dora import Node

seen = set()
for event in Node():
    if event["type"] == "INPUT":
        header = event["value"].field("header")[0].as_py()
        name, stamp = header["frame_id"], header["stamp"]
        if name not in seen:
            seen.add(name)
            taken_ns = time.monotonic_ns() - stamp["sec"] * 1_000_000_000 - stamp["nanosec"]
            partial = Path(os.environ["BENCHMARK_RESULTS"], f"first{name}.part")
            partial.write_text(json.dumps(taken_ns))
            partial.rename(partial.with_suffix(".json"))
