"""The report at the end of a dataflow: failures, first cause first, and lost messages.

Pure functions from a `DataflowResult` to text, which is empty for a run on one machine without failures
and losses.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from dora.daemon.supervisor.result import DataflowResult, LinkReport, NetworkReport, NodeFailure
from dora.dataflow.model import asks_for_drops
from dora.dataflow.problems import listed
from dora.wire.counters import (
    CROWDED,
    CUTS,
    HIGHEST_SHARE,
    LEFT_OUT,
    LINK_COUNTERS,
    MEDIAN_AGES,
    NODE_COUNTERS,
    P99_AGES,
    PACKETS,
    PRIORITIES,
    RESENT_PACKETS,
    RESTARTS,
    SENT_BYTES,
    describe_share,
    loss_of,
)

_INDENT: Final = "    "
_CROWDED_FOR: Final = 1000  # milliseconds; a short burst fills any network


def failure_report(
    result: DataflowResult,
    log_directory: str | None = None,
    name: str = "",
    *,
    was_shown: Callable[[NodeFailure], bool] = lambda _: False,
) -> str:
    """Return the report about the nodes that failed, without a final newline; "" if none did.

    Each node that failed by itself is listed with its exit and the last lines of its output. If these
    lines ``was_shown`` on the same terminal, they are not repeated: the error and its place take one line.
    Nodes that were stopped because of another one share a line. ``name``: of the dataflow or its file
    (default: its UUID), ``log_directory`` is named at the end.
    """
    if not result.failures:
        return ""
    culprits = [failure for failure in result.failures if failure.kind != "cascading"]
    fallen = [failure.node_id for failure in result.failures if failure.kind == "cascading"]
    parts = [f"{name or f'Dataflow {result.dataflow_id}'} failed:"]
    several = len(result.failures) > 1
    parts += [
        _culprit(failure, first=several and not index, brief=was_shown(failure))
        for index, failure in enumerate(culprits)
    ]
    if fallen:
        parts.append(_stopped(fallen) if culprits else _orphans(fallen))
    if log_directory is not None:
        parts.append(f"Logs: {log_directory}")
    if result.black_box:
        parts.append(black_box_report(result))
    return "\n\n".join(parts)


def black_box_report(result: DataflowResult) -> str:
    """Return the lines about the files of the black box, with the next commands to type; "" without any."""
    if not result.black_box:
        return ""
    last = shorter_path(result.black_box[-1])
    nodes = [failure.node_id for failure in result.failures if failure.kind != "cascading"]
    lines = [f"The last seconds are in {', '.join(map(shorter_path, result.black_box))}"]
    lines.append(f"  look at them:  dora view {last}")
    if nodes:
        lines.append(f"  step through:  dora debug {last} {nodes[0]} --at failure")
    return "\n".join(lines)


def first_cause(result: DataflowResult, folder: str = "") -> str:
    """Return the first cause of a failure as half a sentence; "" if nothing failed.

    Paths below ``folder`` are shortened.

    >>> first_cause(DataflowResult("id", (NodeFailure("a", "exit", exit_code=3),)))
    'node `a` exited with status 3'
    >>> first_cause(DataflowResult("id", overdue=("a",), strict=True))
    '`a` did not end at STOP and had to be ended by SIGTERM (--strict)'
    """
    if result.ok:
        return ""
    if not result.failures:
        return f"{troubles(result)[0]} (--strict)"
    failure = next((item for item in result.failures if item.kind != "cascading"), result.failures[0])
    return f"node `{failure.node_id}` {failure.why(folder)}"


def troubles(result: DataflowResult) -> list[str]:
    """Return what went wrong although no node failed, each as half a sentence.

    >>> lossy = LinkReport("cam/image -> eye/image", "drop_oldest", 10, sent=90, received=20, dropped=70)
    >>> troubles(DataflowResult("id", links=(lossy,), undeclared={"cam": {"imge": 3}}, overdue=("eye",)))
    ... # doctest: +NORMALIZE_WHITESPACE
    ['`cam` sent to `imge`, which is not declared',
     '`eye/image` lost 70 of 90 messages',
     '`eye` did not end at STOP and had to be ended by SIGTERM']
    """
    found = [
        f"`{node_id}` sent to {listed(sorted(outputs))}, which {'is' if len(outputs) == 1 else 'are'} "
        "not declared"
        for node_id, outputs in sorted(result.undeclared.items())
    ]
    found += [
        f"`{link.input}` lost {link.overflowed:,} of {link.sent:,} messages"
        for link in result.links
        if link.mostly_lost
    ]
    if result.overdue:
        found.append(f"{listed(result.overdue)} did not end at STOP and had to be ended by SIGTERM")
    return found


def last_line(result: DataflowResult, name: str = "") -> str:
    """Return the last line about a run that failed or in which something went wrong; "" for any other.

    >>> last_line(DataflowResult("id", overdue=("eye",)), "robot.yml")
    'warning: robot.yml: `eye` did not end at STOP and had to be ended by SIGTERM (an error with --strict)'
    >>> last_line(DataflowResult("id", overdue=("eye",), strict=True), "robot.yml")
    'error: robot.yml: `eye` did not end at STOP and had to be ended by SIGTERM (--strict)'
    """
    who = name or f"dataflow {result.dataflow_id}"
    if result.failures:
        return f"error: {who}: {first_cause(result, os.getcwd())}"
    if not result.troubled:
        return ""
    what = "; ".join(troubles(result))
    if result.strict:
        return f"error: {who}: {what} (--strict)"
    return f"warning: {who}: {what} (an error with --strict)"


def _stopped(fallen: Sequence[str]) -> str:
    """
    >>> _stopped(["c", "d"])
    '2 others were stopped because of it: `c` and `d`'
    """
    count = "1 other was" if len(fallen) == 1 else f"{len(fallen)} others were"
    return f"{count} stopped because of it: {listed(fallen)}"


def _orphans(fallen: Sequence[str]) -> str:
    """
    >>> _orphans(["a", "b", "c"])
    'Nodes `a`, `b` and `c` could not start, because not every node of the dataflow became ready'
    """
    who = "Node" if len(fallen) == 1 else "Nodes"
    return f"{who} {listed(fallen)} could not start, because not every node of the dataflow became ready"


def _culprit(failure: NodeFailure, *, first: bool, brief: bool) -> str:
    who = "First cause: node" if first else "Node"
    why = failure.why(os.getcwd()) if brief else failure.how
    head = f"{who} `{failure.node_id}` {why}"
    if failure.follows:
        head += f", after the failure of `{failure.follows}`, which feeds it"
    if failure.restarts:
        head += f" (after {failure.restarts} restart{'s' if failure.restarts > 1 else ''})"
    lines = [] if brief else [f"{_INDENT}{line}".rstrip() for line in failure.last_lines]
    hint = [f"{_INDENT}hint: {failure.remedy}"] if failure.remedy and not brief else []
    return "\n".join([f"{head}. Its last lines:" if lines else head, *lines, *hint])


def loss_report(result: DataflowResult) -> str:
    """Return what links and log files lost, what nodes counted, and undeclared outputs; "" if nothing.

    Expected losses (a short queue, a stop) take one line per link. The table and the keys to change are for
    surprises: full queues of which the user has not asked for drops, and messages that a receiver left
    unread although it ended by itself.
    """
    parts = []
    surprising = [link for link in result.links if _is_surprise(link, result)]
    if surprising:
        parts.append(_table(surprising))
    lines = [_line(link, result, in_table=link in surprising) for link in result.links]
    if any(lines):
        parts.append("\n".join(filter(None, lines)))
    if nodes := _node_lines(result):
        parts.append("\n".join(nodes))
    parts += [_machine_loss(name, count) for name, count in sorted(result.machine_losses.items())]
    for node_id, outputs in sorted(result.undeclared.items()):
        for output, count in sorted(outputs.items()):
            plural = "s" if count != 1 else ""
            parts.append(
                f"Node `{node_id}` sent {count} message{plural} to `{output}`, which is not declared, and "
                f"nobody got {'them' if plural else 'it'}: name it in its `outputs`."
            )
    if result.uncounted_links:
        links = f"{result.uncounted_links:,} removed link{'' if result.uncounted_links == 1 else 's'}"
        parts.append(f"The counts of {links} are not kept, and are in no line above.")
    if result.unlogged:
        counts = ", ".join(f"{count} of `{node_id}`" for node_id, count in sorted(result.unlogged.items()))
        parts.append(f"Log entries that could not be written to the log files: {counts}.")
    return "\n\n".join(parts)


def network_report(result: DataflowResult) -> str:
    """Return what went over the networks between machines; "" if the dataflow was on one machine.

    >>> figures = {"bulk_sent": 12_300_000, "packets": 100, "resent_packets": 2, "cuts": 1}
    >>> figures |= {"bulk_age_median": 207_000_000, "bulk_age_p99": 225_000_000}
    >>> streams = {"camera/image": {"crowded": 12_300, "highest_share": 940}}
    >>> network = NetworkReport("robot", "desk", figures, streams)
    >>> print(network_report(DataflowResult("id", networks=(network,))))
    ... # doctest: +NORMALIZE_WHITESPACE
    Networks between machines:
      robot -> desk: 12.3 MB sent, 2.0 % of the packets sent again,
        last bulk messages 207 ms old on arrival (99 %: 225 ms), cut 1 time
      camera/image took up to 94 % of the network to `desk`, for 12 s: compress it, or lower its rate
    """
    if not result.networks:
        return ""
    lines = ["Networks between machines:"]
    for network in sorted(result.networks, key=lambda network: (network.source, network.target)):
        lines.append(f"  {_network_line(network)}")
        for output, figures in network.streams.items():
            if (crowded := figures.get(CROWDED.name, 0)) >= _CROWDED_FOR:
                share = figures.get(HIGHEST_SHARE.name, 0) / 1000
                lines.append(f"  {describe_share(output, network.target, share, seconds=crowded / 1000)}")
    return "\n".join(lines)


def _network_line(network: NetworkReport) -> str:
    figures = network.figures
    sent = sum(figures.get(item.name, 0) for item in SENT_BYTES)
    parts = [f"{sent / 1e6:,.1f} MB sent"]
    if (loss := loss_of(figures.get(PACKETS.name, 0), figures.get(RESENT_PACKETS.name, 0))) is not None:
        parts.append(f"{loss * 100:.1f} % of the packets sent again")
    for priority, *both in zip(PRIORITIES, MEDIAN_AGES, P99_AGES, strict=True):
        median, p99 = (figures.get(item.name, 0) / item.scale * 1e3 for item in both)
        if p99:
            parts.append(f"last {priority} messages {median:.0f} ms old on arrival (99 %: {p99:.0f} ms)")
    if cuts := figures.get(CUTS.name, 0):
        parts.append(f"cut {cuts} time{'' if cuts == 1 else 's'}")
    return f"{network.source} -> {network.target}: {', '.join(parts)}"


def _is_surprise(link: LinkReport, result: DataflowResult) -> bool:
    if link.overflowed and not asks_for_drops(link.policy, link.queue_size):
        return True
    return bool(link.unread) and not (_why_ended(link, result) or link.overflowed)


def _why_ended(link: LinkReport, result: DataflowResult) -> str:
    """Return what ended the receiver before it had read everything, "" if it ended by itself."""
    if any(failure.node_id == link.receiver for failure in result.failures):
        return f"`{link.receiver}` failed"
    return "the dataflow was stopped" if result.stopped else ""


def _line(link: LinkReport, result: DataflowResult, *, in_table: bool = False) -> str:
    """Return what was lost, counted or left out, "" if nothing was; without what a table says already.

    >>> link = LinkReport("cam/image -> eye/image", "drop_oldest", 1, 120, 100, 18, 1, {"expired": 1})
    >>> _line(link, DataflowResult("id"))
    'cam/image -> eye/image: 100 of 120 messages received, 18 dropped (queue_size: 1), 1 unread, 1 expired'
    >>> link = LinkReport("cam/image -> eye/image", "drop_oldest", 1, dropped=7, counts={"restart_loss": 7})
    >>> _line(link, DataflowResult("id"))
    'cam/image -> eye/image: 7 messages lost while `eye` was restarting'
    """
    parts = []
    left_out = any(link.count(counter) for counter in LEFT_OUT)
    if not in_table and (link.overflowed or link.unread or left_out):
        parts.append(f"{link.received} of {link.sent} messages received")
        if link.overflowed:
            why = "queue_policy: latest" if link.policy == "latest" else f"queue_size: {link.queue_size}"
            parts.append(f"{link.overflowed} dropped ({why})")
        if link.unread:
            why = _why_ended(link, result)
            parts.append(f"{link.unread} unread" + (f" when {why}" if why else ""))
    parts += [
        counter.describe(count, link.sender, link.receiver)
        for counter in LINK_COUNTERS
        if (count := link.count(counter)) and not (in_table and counter in LEFT_OUT)
    ]
    return f"{link.link}: {', '.join(parts)}" if parts else ""


def _node_lines(result: DataflowResult) -> list[str]:
    """Return what was counted of nodes; a node that failed has its restarts in the report of its failure.

    >>> _node_lines(DataflowResult("id", node_counts={"eye": {"restarts": 2, "reloads": 1}}))
    ['Node `eye` was restarted 2 times.']
    """
    failed = {failure.node_id for failure in result.failures}
    return [
        f"Node `{node_id}` {counter.describe(counts[counter.name])}."
        for node_id, counts in sorted(result.node_counts.items())
        for counter in NODE_COUNTERS
        if counter.is_reported and counter.name in counts
        if not (counter is RESTARTS and node_id in failed)
    ]


def _machine_loss(machine: str, count: int) -> str:
    """
    >>> print(_machine_loss("robot", 2))
    Machine `robot` was lost 2 times.
      Messages of its nodes that no other machine had got by then are in no count.
      Links to its nodes count from the last message that the sender knows to be taken.
    """
    times = "" if count == 1 else f" {count} times"
    return (
        f"Machine `{machine}` was lost{times}.\n"
        "  Messages of its nodes that no other machine had got by then are in no count.\n"
        "  Links to its nodes count from the last message that the sender knows to be taken."
    )


def _table(links: Sequence[LinkReport]) -> str:
    left_out = [counter for counter in LEFT_OUT if any(link.count(counter) for link in links)]
    rows: list[tuple[str, ...]] = [
        ("link", "sent", "received", "dropped", *(counter.name for counter in left_out), "unread")
    ]
    for link in links:
        further = (link.count(counter) for counter in left_out)
        counts = (link.sent, link.received, link.overflowed, *further, link.unread)
        rows.append((link.link, *map(str, counts)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["Messages that were not received:"]
    for row in rows:
        cells = [f"{row[0]:<{widths[0]}}"]
        cells += [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  " + "  ".join(cells))
    lines += _hints(links)
    return "\n".join(lines)


def _hints(links: Sequence[LinkReport]) -> list[str]:
    """Say which YAML key changes each kind of loss, naming the inputs it concerns."""
    hints = []
    dropped = [link for link in links if link.overflowed and link.policy == "drop_oldest"]
    if dropped:
        inputs = ", ".join(f"`{link.input}` (queue_size: {link.queue_size})" for link in dropped)
        hints.append(
            f"  dropped: the queue was full, so the oldest message made room. On {inputs} set a larger "
            "`queue_size`, or `queue_policy: backpressure` to let the sender wait."
        )
    if any(link.unread for link in links):
        hints.append("  unread: still in the queue when the receiving node ended.")
    return hints


class RunOutcome(msgspec.Struct, frozen=True):
    name: str  # the file of the dataflow, as a path for users
    result: DataflowResult
    log_directory: str | None  # None: there was nothing to write, or it could not be written


def shown_file(path: str) -> str:
    """Return how messages name the file of a dataflow, which may be a URL; "" for one without a file."""
    return path if "://" in path or not path else shorter_path(path)


def shorter_path(path: str) -> str:
    """Return a path relative to the current directory if it lies below it."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
