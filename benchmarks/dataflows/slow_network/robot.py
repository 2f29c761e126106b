"""Send 64 bytes at 100 Hz and pictures at 30 Hz, each with the time at its beginning."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from paced import send_paced

from dora import Node

SIZES = {"control": 64, "picture": int(os.environ["BENCHMARK_BYTES"])}

node = Node()


def send(name: str, data: np.ndarray, now_ns: int) -> None:
    data[:8].view(np.int64)[0] = now_ns
    node.send_output(name, pa.array(data))


senders = {name: partial(send, name, np.zeros(size, np.uint8)) for name, size in SIZES.items()}
send_paced(float(os.environ["BENCHMARK_SECONDS"]), senders, Path(os.environ["BENCHMARK_RESULTS"]))
