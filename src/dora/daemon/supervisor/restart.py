"""Restart policy: whether a node that ended is restarted, and after which back-off."""

from __future__ import annotations

from dora.dataflow.model import RestartOptions

MAX_DOUBLINGS = 16


def restart_delay(options: RestartOptions, failed: bool, restarts: list[float], now: float) -> float | None:
    """Return the seconds to wait before the next restart, or None if the policy wants none.

    ``restarts`` holds the times of the earlier restarts. Restarts before the window count neither
    for the limit nor for the back-off, which is ``delay * 2**(n - 1)`` for the n-th restart.

    >>> options = RestartOptions(policy="always", delay=0.5, max_restarts=3, max_delay=1.5)
    >>> [restart_delay(options, False, [0.0] * n, 1.0) for n in range(4)]
    [0.5, 1.0, 1.5, None]
    """
    if options.policy == "never" or (options.policy == "on-failure" and not failed):
        return None
    count = len(recent_restarts(options, restarts, now))
    if options.max_restarts and count >= options.max_restarts:
        return None
    delay = options.delay * 2.0 ** min(count, MAX_DOUBLINGS)
    return delay if options.max_delay is None else min(delay, options.max_delay)


def recent_restarts(options: RestartOptions, restarts: list[float], now: float) -> list[float]:
    """Return the restarts that are still in the window."""
    if options.window is None:
        return restarts
    return [time for time in restarts if time > now - options.window]
