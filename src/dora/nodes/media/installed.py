"""Check that PyAV is installed: it decodes and encodes images and videos."""

from __future__ import annotations

from dora.nodes.installed import check_installed


def check_av(node: str) -> None:
    """Raise `DoraError` if PyAV is not installed or too old; ``node`` is a name in `BUILTIN_NODES`."""
    check_installed(node, "av", "PyAV", "open")
