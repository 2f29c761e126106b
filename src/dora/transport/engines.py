"""The engines between the processes of a machine: whether each works here, and what it takes.

One entry for each engine, so that nobody else asks which one it is. The ports of the engines are in modules
of their own, which only the processes import that use them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from dora.transport.interface import MAX_QUEUE
from dora.transport.shm.room import TO_START
from dora.wire.node_config import EngineName, InputConfig, NodeConfig

_PROGRAM: Final = 56  # open files of a program's own
_PAGE: Final = 4 << 10
# iceoryx2 has 256 segments for each link, and keeps a byte for each place of a message in each. A receiver
# has places for its queue, and for 34 messages that its program holds.
_SEGMENTS: Final = 256
_HELD: Final = 34
_ICEORYX2_OUTPUT: Final = 48 << 10
_ICEORYX2_NODE: Final = 8 << 10
# Of the engine shm: the first two segments of small blocks, and the file that tells of changes.
_SHM_OUTPUT: Final = (32 << 10) + (64 << 10) + _PAGE


class OpenFiles(NamedTuple):
    """Open files of a node: its own, of each input, of each output, of each receiver of an output."""

    node: int
    input: int
    output: int
    link: int


class EngineEntry(NamedTuple):
    """One engine.

    ``fault`` returns why it does not work here, as the end of a sentence, "" if it does. ``module`` has its
    function `warm_up`, which does what each process of the engine has to do at its start.
    ``memory_to_start`` is the shared memory, in bytes, that a run needs to start with; ``shared_memory_of``
    returns the part of the links of one node, before the first large message.
    """

    fault: Callable[[], str]
    module: str
    open_files: OpenFiles
    memory_to_start: int
    shared_memory_of: Callable[[NodeConfig], int]


def files_of(config: NodeConfig) -> int:
    """Return how many files a node has open for its links, and those that its program may need."""
    files = ENGINES[config.engine].open_files
    links = sum(len(output.links) for output in config.outputs)
    latches = sum(output.latched is not None for output in config.outputs)
    return (
        files.node
        + _PROGRAM
        + files.input * len(config.inputs)
        + files.output * len(config.outputs)
        + files.link * links
        + latches
    )


def best_engine() -> EngineName:
    """Return the first engine that works here; the last one if none does."""
    *others, last = ENGINES
    return next((engine for engine in others if not ENGINES[engine].fault()), last)


def _local_inputs(config: NodeConfig) -> list[InputConfig]:
    """Return the inputs whose messages come from a node of this machine."""
    return [item for item in config.inputs if item.kind == "link" and not item.machine]


def _iceoryx2_fault() -> str:
    from importlib.machinery import PathFinder  # not importlib.util, which takes 5 ms to import

    found = PathFinder.find_spec("iceoryx2") is not None
    return "" if found else "is not installed here; try: pip install iceoryx2"


def _iceoryx2_memory(config: NodeConfig) -> int:
    links = sum(
        _SEGMENTS * item.max_receivers * (min(item.max_queue_size, MAX_QUEUE) + _HELD)
        for item in _local_inputs(config)
    )
    return _ICEORYX2_NODE + _ICEORYX2_OUTPUT * len(config.outputs) + links


def _shm_fault() -> str:
    from dora.transport import semaphore_support

    why = semaphore_support.fault()
    return why and f"does not work here: it {why}"


def _shm_memory(config: NodeConfig) -> int:
    from dora.transport.shm.ring import ring_bytes

    rings = (ring_bytes(min(item.queue_size, MAX_QUEUE)) for item in _local_inputs(config))
    return _SHM_OUTPUT * len(config.outputs) + sum(-(-size // _PAGE) * _PAGE for size in rings)


# The best one first. Open files as measured (docs/performance.md).
ENGINES: Final[dict[EngineName, EngineEntry]] = {
    "iceoryx2": EngineEntry(
        _iceoryx2_fault,
        "dora.transport.shm.iceoryx2",
        OpenFiles(node=12, input=6, output=5, link=2),
        TO_START["iceoryx2"],
        _iceoryx2_memory,
    ),
    "shm": EngineEntry(
        _shm_fault,
        "dora.transport.shm.engine",
        OpenFiles(node=9, input=1, output=1, link=1),
        TO_START["shm"],
        _shm_memory,
    ),
}
