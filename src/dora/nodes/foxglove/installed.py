"""Check that the SDK of Foxglove is installed."""

from __future__ import annotations

from dora.daemon.processes.programs import BUILTIN_NODES
from dora.errors import DoraError


def check_foxglove() -> None:
    """Raise `DoraError` if the SDK of Foxglove is not installed, or is another package of that name."""
    try:
        import foxglove

        if hasattr(foxglove, "start_server"):
            return
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "foxglove":
            raise
    node = BUILTIN_NODES["dora-foxglove"]
    raise DoraError(
        f"Foxglove needs its SDK; install it with: pip install '{node.requirement}' "
        f"(or dora with its extra: 'dora-dataflow[{node.extra}]')"
    )
