"""Import and make ahead what the first messages of a node need, so that they wait for no import.

It is done before the node is ready, while the other nodes start as well, and only for what the node can
use: a node without tracing does not import it, one that never loads pyarrow makes no array.
"""

from __future__ import annotations

import os
import sys
from typing import Final

from dora.node.events import Input
from dora.node.host import REPLAY_DIRECTORY
from dora.wire import decode, encode
from dora.wire.message import Message, pack_head
from dora.wire.metadata import encode_metadata
from dora.wire.node_config import NodeConfig

RECORD_TO: Final = "DORA_WRITE_EVENTS_TO"
TYPE_CHECK: Final = "DORA_RUNTIME_TYPE_CHECK"


def warm_up(config: NodeConfig) -> None:
    """Import and make what the messages of this configuration need."""
    _import_interceptors(config)
    if _is_answered(config):
        import dora.node.patterns.action
        import dora.node.patterns.service  # noqa: F401 - `Node.call`, `Node.serve`
    receives = any(item.kind != "timer" for item in config.inputs)
    warm_up_arrow(receives=receives, sends=bool(config.outputs))


def warm_up_arrow(*, receives: bool, sends: bool) -> None:
    """Make Arrow's first arrays, in a node that receives, or sends and has loaded pyarrow itself.

    The imports for them take 100 ms and more, and messages that arrive meanwhile could be lost.
    """
    if receives:
        decode.warm_up()
    if (receives or sends) and "pyarrow" in sys.modules:
        encode.warm_up(numpy=sends)
        make_and_read_message()


def make_and_read_message() -> None:
    """Make a message, and read it as an event: what a program does with its first one.

    A forked process copies the memory that this writes to, objects and their counts of references, and
    that takes longer than the work.
    """
    import pyarrow as pa

    payload = encode.encode(pa.array([0]))
    section = encode_metadata({"": 0})
    body = payload.to_bytes()
    event = Input.make(
        "", Message(pack_head(payload.encoding, payload.schema, section, payload.size, 0, 0, body))
    )
    event["value"], event["metadata"]


def _import_interceptors(config: NodeConfig) -> None:
    """Import what a session makes of the configuration once all nodes are ready."""
    if any(output.shapes for output in config.outputs) and os.environ.get(TYPE_CHECK):
        import pyarrow  # noqa: F401 - it names the types of NumPy arrays
    if any(item.shapes for item in config.inputs) or any(output.shapes for output in config.outputs):
        import dora.node.interceptors.type_check
    if config.trace is not None:
        import dora.node.interceptors.tracing
    if config.event_logs:
        import dora.node.interceptors.event_log
    if any(wanted.ring_buffers for wanted in config.event_logs):
        import dora.transport.shm.ring_buffer
    if any(wanted.black_box for wanted in config.event_logs):
        import dora.node.send.kept_output
    if os.environ.get(REPLAY_DIRECTORY):
        import dora.node.replay.inbox
    elif os.environ.get(RECORD_TO):
        import dora.node.interceptors.input_recorder  # noqa: F401


def _is_answered(config: NodeConfig) -> bool:
    """Return whether this node receives from a node to which it sends: services and actions need that."""
    sources = {item.source.partition("/")[0] for item in config.inputs if item.kind == "link"}
    return any(
        link.consumer.partition("/")[0] in sources for output in config.outputs for link in output.links
    )
