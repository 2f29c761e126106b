"""Diagnostics of the messages between coordinator and daemons (``RUST_LOG=debug``)."""

from __future__ import annotations

import logging
from typing import Final

from dora.cluster.protocol import (
    AckLogs,
    Collect,
    Collected,
    Heartbeat,
    HeartbeatAnswer,
    LogBatch,
    ToCoordinator,
    ToDaemon,
)
from dora.daemon.logs.diagnostics import LEVELS, shown

ROUTINE: Final = (Heartbeat, HeartbeatAnswer, AckLogs, LogBatch, Collect, Collected)
"""Messages that come again and again; only the level ``trace`` shows them."""


def log_message(log: logging.Logger, direction: str, message: ToCoordinator | ToDaemon) -> None:
    """Log a message, for the diagnostics of its sender or receiver."""
    level = LEVELS["trace" if isinstance(message, ROUTINE) else "debug"]
    if log.isEnabledFor(level):
        log.log(level, "%s %s", direction, shown(message))
