"""Send messages at an even rate for some seconds, and note how many there were."""

import json
import os
import time
from pathlib import Path

import numpy as np

from dora import Node

size = int(os.environ["BENCHMARK_BYTES"])
rate = float(os.environ["BENCHMARK_RATE"])
seconds = float(os.environ["BENCHMARK_SECONDS"])
rng = np.random.default_rng(1)
# Neither all the same, which compresses to nothing, nor noise, which does not compress at all.
payloads = [
    (np.arange(size) // 7 + rng.integers(0, 2, size) + shift).astype(np.uint8) for shift in range(8)
]

with Node() as node:
    begun = time.perf_counter()
    sent = 0
    while (now := time.perf_counter() - begun) < seconds:
        while sent < now * rate:
            node.send_output("data", payloads[sent % len(payloads)])
            sent += 1
        time.sleep(max(0.0, min(0.001, sent / rate - now)))
    took = time.perf_counter() - begun
Path(os.environ["BENCHMARK_RESULTS"], "sender.json").write_text(json.dumps({"sent": sent, "seconds": took}))
