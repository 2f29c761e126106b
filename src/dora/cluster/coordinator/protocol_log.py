"""What coordinator and daemons say to each other, in the diagnostics of both (``RUST_LOG=debug``)."""

from __future__ import annotations

import logging

from dora.cluster.protocol import (
    AckLogs,
    GetMetrics,
    GetUsage,
    Heartbeat,
    LogBatch,
    MetricsResult,
    RunChanged,
    ToCoordinator,
    ToDaemon,
    Usage,
)
from dora.daemon.logs.diagnostics import LEVELS, shown

ROUTINE = (Heartbeat, AckLogs, LogBatch, GetUsage, MetricsResult, GetMetrics, Usage)
"""Messages that come again and again; only ``trace`` shows them."""


def tell(log: logging.Logger, who: str, message: ToCoordinator | ToDaemon) -> None:
    """Log a message, and who says it to whom."""
    level = LEVELS["trace" if isinstance(message, ROUTINE) else "debug"]
    if log.isEnabledFor(level):
        log.log(level, "%s %s", who, shown(message.run if isinstance(message, RunChanged) else message))
