"""Restart policy: whether a node that ended is restarted, and after which back-off."""

from __future__ import annotations

from dora.daemon.supervisor.result import NodeFailure
from dora.daemon.supervisor.safe_states import source_failed
from dora.daemon.supervisor.state import NodeState, RunState
from dora.dataflow.model import RestartOptions

MAX_DOUBLINGS = 16  # `2.0 ** 1024` is an error, and restarts have no limit by themselves


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
    count = len(_recent_restarts(options, restarts, now))
    if options.max_restarts and count >= options.max_restarts:
        return None
    delay = options.delay * 2.0 ** min(count, MAX_DOUBLINGS)
    return delay if options.max_delay is None else min(delay, options.max_delay)


def _recent_restarts(options: RestartOptions, restarts: list[float], now: float) -> list[float]:
    """Return the restarts that are still in the window."""
    if options.window is None:
        return restarts
    return [time for time in restarts if time > now - options.window]


def back_off(run: RunState, node: NodeState, delay: float, failure: NodeFailure | None, words: str) -> None:
    """Wait before a node is restarted. ``words`` describe how its process ended."""
    run.end_process(node, "backoff")
    node.failure = failure
    run.arm(node, "restart", delay)
    if failure is not None:
        run.mark("failed", node, failure.why())
        node.failed_processes += 1
        source_failed(run, node)
    reason = failure.message if failure is not None else words
    when = f"in {delay:g} s" if delay else "now"
    limit = node.spec.restart.max_restarts
    count = len(_recent_restarts(node.spec.restart, node.restarts, run.now)) + 1
    of_limit = f" of {limit}" if limit else ""
    run.log("warn", node, f"{reason}; restarting {when} (restart {count}{of_limit})")


def restart_due(run: RunState, node: NodeState) -> None:
    """Restart a node after its back-off."""
    run.count_restart(node)
    run.spawn(node)
