"""The check of a `ros2` block before anything starts: is there an engine, and are there its types?"""

from __future__ import annotations

import os

from dora.dataflow.ros2 import Ros2Block
from dora.ros2.choose import EngineChoice, choose
from dora.ros2.types.library import InterfaceLibrary


def check_block(block: Ros2Block, directory: str) -> None:
    """Raise `DoraError` for what is missing here; ``directory`` is the one that the node runs in.

    `ConnectError` names the extra or the ROS that is needed, `TypeNotFound` the places that were looked in
    and what is near.
    """
    engine_of(block)
    library = library_of(block, directory)
    for topic in block.topics:
        library.message(topic.message_type)
    if block.service is not None:
        library.service(block.service.type)
    if block.action is not None:
        library.action(block.action.type)


def engine_of(block: Ros2Block) -> EngineChoice:
    """Return the engine that a block gets; raises `ConnectError`."""
    return choose(block.transport, services=block.needs_services)


def library_of(block: Ros2Block, directory: str) -> InterfaceLibrary:
    """Return the types of a block; raises `DefinitionError` for a path that is no folder."""
    return InterfaceLibrary([os.path.join(directory, path) for path in block.ros_paths])
