"""Diagnostics of the messages between coordinator and daemons (``RUST_LOG=debug``)."""

from __future__ import annotations

import logging
from typing import Final

from dora.cluster.protocol import (
    AckLogs,
    GetMetrics,
    GetUsage,
    Heartbeat,
    HeartbeatAnswer,
    LogBatch,
    MetricsResult,
    ToCoordinator,
    ToDaemon,
    Usage,
)
from dora.daemon.logs.diagnostics import LEVELS, shown

ROUTINE: Final = (Heartbeat, HeartbeatAnswer, AckLogs, LogBatch, GetUsage, MetricsResult, GetMetrics, Usage)
"""Messages that come again and again; only the level ``trace`` shows them."""


def log_message(log: logging.Logger, direction: str, message: ToCoordinator | ToDaemon) -> None:
    """Log a message, for the diagnostics of its sender or receiver."""
    level = LEVELS["trace" if isinstance(message, ROUTINE) else "debug"]
    if log.isEnabledFor(level):
        log.log(level, "%s %s", direction, shown(message))
