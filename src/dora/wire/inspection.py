"""What a daemon tells a command about its dataflow: nodes, outputs, links, and where to look at them.

All numbers that change with every message (sent, received, dropped) are on the board, which the command
maps by itself.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class OutputView(msgspec.Struct, omit_defaults=True):
    id: str
    slot: int  # index of its line on the board
    service: str = ""  # name of the engine's channel
    max_queue_size: int = 1
    max_receivers: int = 1
    type: str = ""  # what the dataflow says that messages are
    text: bool = False  # its lines are delivered by the daemon: there is no channel to look at


class LinkView(msgspec.Struct, omit_defaults=True):
    slot: int  # index of its line on the board
    output_slot: int
    producer: str  # "node/output"
    consumer: str  # "node/input"
    policy: Literal["drop_oldest", "backpressure"] = "drop_oldest"
    queue_size: int = 10
    kind: Literal["link", "text", "local"] = "link"


class NodeView(msgspec.Struct, omit_defaults=True):
    id: str
    status: str  # one word or two for the user, as "running"
    pid: int | None = None
    restarts: int = 0
    name: str | None = None
    description: str | None = None
    path: str | None = None
    restart_policy: str = "never"
    machine: str = ""  # "": the dataflow is on one
    inputs: dict[str, str] = {}  # id → source
    outputs: list[OutputView] = []


class Inspection(msgspec.Struct, tag=True):
    """The answer to `dora.wire.requests.Inspect`."""

    dataflow_id: str
    file: str | None
    engine: Literal["iceoryx2", "zenoh"]
    run_dir: str
    prefix: str  # of the shared-memory objects
    board: str
    zenoh_endpoint: str
    nodes: list[NodeView]
    links: list[LinkView]
    machine: str = ""  # the one that this daemon is on; "": the dataflow is on one
    coordinator: str = ""  # address and port of the one that it was started on; "": of none
