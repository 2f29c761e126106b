"""Check that Rerun is installed."""

from __future__ import annotations

from dora.daemon.processes.programs import BUILTIN_NODES
from dora.errors import DoraError


def check_rerun() -> None:
    """Raise `DoraError` if Rerun is not installed, is too old, or is another package of that name."""
    node = BUILTIN_NODES["dora-rerun"]
    least = node.requirement.partition(">=")[2].partition(",")[0]
    found = ""
    try:
        import rerun

        if hasattr(rerun, "RecordingStream"):
            if _release(rerun.__version__) >= _release(least):
                return
            found = f" {least} or newer, and finds {rerun.__version__}"
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("rerun", "rerun_bindings"):
            raise
    raise DoraError(
        f"the viewer needs Rerun{found}; install it with: pip install '{node.requirement}' "
        f"(or dora with its extra: 'dora-dataflow[{node.extra}]')"
    )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
