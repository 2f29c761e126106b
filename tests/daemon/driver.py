"""Run the dataflow of a JSON file: what the tests kill."""

from __future__ import annotations

import signal
import sys

import msgspec

from dora.daemon.options import LocalRunOptions
from dora.daemon.run import run_dataflow
from dora.dataflow.model import Dataflow
from dora.transport.engines import best_engine

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup hand it down as ignored
with open(sys.argv[1], "rb") as file:
    dataflow = msgspec.json.decode(file.read(), type=Dataflow)
result = run_dataflow(
    dataflow,
    LocalRunOptions(engine=best_engine()),
    lambda entry: print(f"{entry.node_id}: {entry.message}", flush=True),
    sys.argv[2],
)
print("ok" if result.ok else "failed", flush=True)
