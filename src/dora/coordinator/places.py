"""Where the coordinator keeps what outlives it: its store."""

from __future__ import annotations

import os

from dora.coordinator.address import DEFAULT_PORT


def data_folder() -> str:
    """Return the folder of the store: ``$DORA_DATA_DIR``, or ``dora`` in the user's data folder."""
    chosen = os.environ.get("DORA_DATA_DIR")
    if chosen:
        return os.path.abspath(chosen)
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "dora")


def store_path(port: int) -> str:
    """Return the file of the store; coordinators at other ports have others."""
    name = "coordinator" if port == DEFAULT_PORT else f"coordinator-{port}"
    return os.path.join(data_folder(), f"{name}.sqlite")
