"""What a node has imported at its start stays until its end: the garbage collector need not look at it.

With NumPy and pyarrow a full collection takes 8 ms, in the middle of the messages, and an interpreter
that ends makes several. Done when `dora` is imported, before the program has made objects of its own:
those are collected as ever, also at the end.
"""

from __future__ import annotations

import gc
import os

from dora.wire.control import decode_address


def freeze_gc() -> None:
    """Import what this node is going to need, and exempt all that is loaded from garbage collection.

    Does nothing in a process that no dataflow started: it may live on after the node.
    """
    text = os.environ.get("DORA_NODE_CONFIG")
    if not text:
        return
    try:
        address = decode_address(text)
    except ValueError:
        return  # `Node()` says what is wrong with it
    if address.data_inputs:
        import pyarrow as pa  # noqa: F401 - messages are decoded with it
    gc.freeze()
