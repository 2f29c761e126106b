"""Touch each value once."""

import os

from dora import Node

size = int(os.environ["BENCHMARK_BYTES"])
for event in Node():
    if event["type"] == "INPUT":
        assert len(event["value"]) == size
