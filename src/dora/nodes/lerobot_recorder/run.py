"""The recorder as a node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pyarrow as pa

from dora.errors import DoraError
from dora.node.events import Input, InputClosed
from dora.node.node import Node
from dora.nodes.lerobot_recorder.recorder import EpisodeRecorder
from dora.nodes.lerobot_recorder.settings import RecorderSettings
from dora.nodes.parameters import read_parameters

STATUS = "status"


def run(node: Node) -> None:
    """Record until the dataflow ends. Raises `DoraError`, at the end if an episode could not be saved."""
    config = node.node_config()
    inputs, outputs = list(config["inputs"]), config["outputs"]

    def report(episode: Mapping[str, Any]) -> None:
        if STATUS in outputs:
            node.send_output(STATUS, pa.array([msgspec.json.encode(episode).decode()]))

    def dropped(input_id: str) -> int:
        count: int = node.statistics()["inputs"].get(input_id, {}).get("dropped", 0)
        return count

    recorder = EpisodeRecorder(read_parameters(RecorderSettings, node.parameters), inputs, report, dropped)
    try:
        for event in node:
            if isinstance(event, Input):
                recorder.take(event)
            elif isinstance(event, InputClosed):
                recorder.input_closed(event.id)
    finally:
        recorder.close()
    if recorder.lost:
        raise DoraError(f"{recorder.lost} episodes could not be saved; the log says why")
