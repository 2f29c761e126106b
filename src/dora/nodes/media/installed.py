"""Check that PyAV is installed: it decodes and encodes images and videos."""

from __future__ import annotations

from dora.daemon.processes.programs import BUILTIN_NODES
from dora.errors import DoraError


def check_av(node: str) -> None:
    """Raise `DoraError` if PyAV is not installed or too old; ``node`` is a name in `BUILTIN_NODES`."""
    needs = BUILTIN_NODES[node]
    least = needs.requirement.partition(">=")[2].partition(",")[0]
    found = ""
    try:
        import av

        version = getattr(av, "__version__", "0")
        if int(version.partition(".")[0]) >= int(least):
            return
        found = f" {least} or newer, and finds {version}"
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "av":
            raise
    raise DoraError(
        f"`{node}` needs PyAV{found}; install it with: pip install '{needs.requirement}' "
        f"(or dora with its extra: 'dora-dataflow[{needs.extra}]')"
    )
