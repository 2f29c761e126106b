"""Check that Rerun is installed."""

from __future__ import annotations

from dora.nodes.installed import check_installed


def check_rerun() -> None:
    """Raise `DoraError` if Rerun is not installed, is too old, or is another package of that name."""
    check_installed("dora-rerun", "rerun", "Rerun", "RecordingStream")
