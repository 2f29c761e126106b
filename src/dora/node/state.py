"""What a node leaves for the process that comes after it: a file in the directory of the run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dora.errors import SendError

if TYPE_CHECKING:
    from dora.wire.control import NodeConfig


def save(config: NodeConfig, state: bytes | bytearray | memoryview) -> None:
    """Keep ``state``, instead of what was kept before; whole or not at all, whenever this is killed.

    Raises `SendError` if there is no room, or the dataflow has ended.
    """
    path = _path(config)
    fresh = f"{path}.{os.getpid()}"
    try:
        with open(fresh, "wb") as file:
            file.write(state)
        os.replace(fresh, path)
    except OSError as error:
        try:
            os.unlink(fresh)
        except OSError:
            pass
        raise SendError(
            f"the state of node `{config.node_id}` cannot be saved: {error.strerror}"
        ) from error


def load(config: NodeConfig) -> bytes | None:
    """Return what was saved last, None if nothing was."""
    try:
        with open(_path(config), "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _path(config: NodeConfig) -> str:
    return f"{config.run_dir}/state-{config.node_slot}"
