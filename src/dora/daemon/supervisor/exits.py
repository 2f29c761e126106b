"""Classifies the exit of a process: a clean end, or a kind of failure."""

from __future__ import annotations

import signal

from dora.daemon.supervisor.events import ProcessEnded
from dora.daemon.supervisor.result import FailureKind, NodeFailure
from dora.daemon.supervisor.state import NodeState
from dora.wire.excerpt import error_line

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOP_CODES = (128 + signal.SIGTERM, 128 + signal.SIGINT)


def describe_exit(exit_code: int | None, signal_number: int | None) -> str:
    """Return in words how a process ended.

    >>> describe_exit(3, None), describe_exit(None, 9)
    ('exited with status 3', 'was killed by SIGKILL')
    >>> describe_exit(None, None)  # of a forked process whose template was killed, on Linux before 6.15
    'ended with an unknown status'
    """
    if exit_code is None and signal_number is None:
        return "ended with an unknown status"
    if signal_number is None:
        return f"exited with status {exit_code}"
    try:
        name = signal.Signals(signal_number).name
    except ValueError:
        name = f"signal {signal_number}"
    return f"was killed by {name}"


def how_failed(failure: NodeFailure) -> str:
    """Return how a node ended when it failed, as half a sentence without its name."""
    if failure.message:
        return failure.message
    if failure.exit_code is None and failure.signal is None:
        return f"failed ({failure.kind})"
    return describe_exit(failure.exit_code, failure.signal)


def why_failed(failure: NodeFailure, folder: str = "") -> str:
    """Return `how_failed` with the error that the node has printed. Paths below ``folder`` are shortened.

    >>> why_failed(NodeFailure("a", "exit", exit_code=1, last_lines=("ValueError: no",)))
    'exited with status 1: ValueError: no'
    """
    error = error_line(failure.last_lines) if failure.exit_code else ""
    if folder:
        error = error.replace(f"{folder}/", "")
    return f"{how_failed(failure)}: {error}" if error else how_failed(failure)


def failure_of(node: NodeState, end: ProcessEnded, *, stopping: bool, opened: bool) -> NodeFailure | None:
    """Return the failure that the exit of a process means, or None for a clean end.

    A node that dora killed fails for the kill reason, unless it ended cleanly before the signal
    arrived. After a stop, an end by SIGTERM or SIGINT is clean. A node that connected must not end
    before the start barrier opens, unless it was refused.
    """
    kind: FailureKind = "exit"
    message = describe_exit(end.exit_code, end.signal)
    if end.exit_code == 0:
        if opened or stopping or node.refused or node.absent:
            return None
        message = "ended (status 0) while it waited for the other nodes to be ready"
    elif node.kill_reason is not None:
        kind, message = node.kill_reason
    elif node.refused == "broken":
        kind = "cascading"
    elif node.refused == "stopped" or (
        stopping and (end.signal in _STOP_SIGNALS or end.exit_code in _STOP_CODES)
    ):
        return None
    has_id = not any(operator.alone for operator in node.spec.operators)
    if node.failed_operator and has_id and end.exit_code and message == describe_exit(end.exit_code, None):
        message += f" in operator `{node.failed_operator}`"
    return NodeFailure(
        node_id=node.id,
        kind=kind,
        exit_code=end.exit_code,
        signal=end.signal,
        message=message,
        last_lines=end.last_lines,
        remedy=end.remedy,
        restarts=len(node.restarts),
    )
