"""Judge how a process ended: well, or as which kind of failure."""

from __future__ import annotations

import signal

from dora.supervise.events import ProcessEnded
from dora.supervise.node_state import NodeState
from dora.supervise.result import FailureKind, NodeFailure

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_STOP_CODES = (128 + signal.SIGTERM, 128 + signal.SIGINT)


def describe_exit(exit_code: int | None, signal_number: int | None) -> str:
    """Return how a process ended, in words.

    >>> describe_exit(3, None), describe_exit(None, 9)
    ('exited with status 3', 'was killed by SIGKILL')
    """
    if signal_number is None:
        return f"exited with status {exit_code}"
    try:
        name = signal.Signals(signal_number).name
    except ValueError:
        name = f"signal {signal_number}"
    return f"was killed by {name}"


def judge(node: NodeState, end: ProcessEnded, *, stopping: bool, opened: bool) -> NodeFailure | None:
    """Return the failure that an end of a process means, or None if it ended well.

    A node that was killed by the daemon fails as what the daemon killed it for, unless it was faster
    and ended well. After a stop, ending by SIGTERM or SIGINT is ending well. Before the start
    barrier opened no end is good, except of a node that was told not to take part.
    """
    kind: FailureKind = "exit"
    message = describe_exit(end.exit_code, end.signal)
    if end.exit_code == 0:
        if opened or stopping or node.refused:
            return None
        message = (
            "ended (status 0) before it was connected to the dataflow; a node has to create "
            "`dora.Node()` and use it"
        )
    elif node.doom is not None:
        kind, message = node.doom
    elif node.refused == "broken":
        kind = "cascading"
    elif node.refused == "stopped" or (
        stopping and (end.signal in _STOP_SIGNALS or end.exit_code in _STOP_CODES)
    ):
        return None
    return NodeFailure(
        node_id=node.spec.id,
        kind=kind,
        exit_code=end.exit_code,
        signal=end.signal,
        message=message,
        last_lines=end.last_lines,
        restarts=len(node.restarts),
    )
