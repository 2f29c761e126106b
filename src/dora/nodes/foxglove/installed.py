"""Check that the SDK of Foxglove is installed."""

from __future__ import annotations

from dora.nodes.installed import check_installed


def check_foxglove() -> None:
    """Raise `DoraError` if the SDK is not installed, is too old, or is another package of that name."""
    check_installed("dora-foxglove", "foxglove", "Foxglove's SDK", "start_server")
