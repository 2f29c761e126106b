"""QoS of inputs: which rules fit together, and to the source of the input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from dora.dataflow.durations import duration_text, rate_text
from dora.dataflow.model import InputSpec, LogSource, NodeOutput, Source, TimerSource
from dora.dataflow.parser.schema_block import CheckedBlock
from dora.dataflow.problems import ProblemReport
from dora.dataflow.types.contracts import Ports

_QOS: Final = ("deadline", "max_age", "rate", "keep")
_LOSSY: Final = {
    "max_age": "leaves out messages that are too old",
    "rate": "leaves out messages that come too fast",
    "keep": "is for queues that push messages out",
}


def input_qos(block: CheckedBlock, source: Source, owner: str, report: ProblemReport) -> dict[str, Any]:
    """Return the QoS of an input as fields of its `InputSpec`; report what does not fit together.

    ``owner`` names the input in messages.
    """
    _check_source(block, source, owner, report)
    _check_policy(block, owner, report)
    _check_times(block, owner, report)
    policy = block.get("queue_policy")
    return {
        "queue_size": 1 if policy == "latest" else max(block.get("queue_size"), 1),
        "queue_policy": policy,
        "deadline_ns": block.get("deadline") or 0,
        "max_age_ns": block.get("max_age") or 0,
        "period_ns": block.get("rate") or 0,
        "keep": block.get("keep") or (),
    }


def _check_source(block: CheckedBlock, source: Source, owner: str, report: ProblemReport) -> None:
    if isinstance(source, TimerSource):
        for name in _QOS:
            if block.get(name):
                report.error(
                    block.keys[name],
                    f"{owner} is a timer, whose ticks the node makes itself: `{name}` means nothing there",
                    "choose the timer's interval" if name == "rate" else "leave it out",
                )
        if block.get("queue_policy") == "latest":
            report.error(
                block.place("queue_policy"), f"{owner} is a timer, which has no queue", "leave it out"
            )
    elif isinstance(source, LogSource) and block.get("keep"):
        report.error(
            block.keys["keep"], f"{owner} gets log entries, which have no metadata", "leave `keep` out"
        )


def _check_policy(block: CheckedBlock, owner: str, report: ProblemReport) -> None:
    policy = block.get("queue_policy")
    if policy == "latest" and block.has("queue_size") and block.get("queue_size") not in (0, 1):
        report.error(
            block.place("queue_size"),
            f"{owner} has `queue_policy: latest`, which has one place",
            "leave `queue_size` out, or write `queue_policy: drop_oldest`",
        )
    if policy == "backpressure":
        for name, why in _LOSSY.items():
            if block.get(name):
                report.error(
                    block.keys[name],
                    f"`{name}` {why}, and with `queue_policy: backpressure` {owner} gets every message",
                    f"remove `{name}`, or write `queue_policy: drop_oldest`",
                )


def _check_times(block: CheckedBlock, owner: str, report: ProblemReport) -> None:
    deadline, period, silence = block.get("deadline"), block.get("rate"), block.get("input_timeout")
    if not deadline:
        return
    written = duration_text(deadline)
    if silence is not None and deadline >= silence * 1e9:
        report.error(
            block.place("deadline"),
            f"the deadline of {written} of {owner} is never missed, because `input_timeout: {silence:g}` "
            "closes the input before",
            "choose a shorter deadline, or a longer `input_timeout`",
        )
    if period and deadline <= period:
        report.error(
            block.place("deadline"),
            f"{owner} always misses the deadline of {written}, because with `rate: {rate_text(period)}` "
            f"its messages are {duration_text(period)} apart",
            "choose a longer deadline, or a higher rate",
        )


def check_deadlines(ports: Iterable[Ports], report: ProblemReport) -> None:
    """Warn of deadlines, and silences, that are too short for the timer that alone feeds their source."""
    ports = list(ports)
    timers = {
        NodeOutput(item.node, f"{item.prefix}{output}"): fastest
        for item in ports
        if (fastest := _fastest_timer(item.inputs)) is not None
        for output in item.outputs
    }
    for item in ports:
        _check_silences(item, report)
        for each in item.inputs:
            timer = timers.get(each.source) if isinstance(each.source, NodeOutput) else None
            if each.deadline_ns and timer is not None and each.deadline_ns <= timer.interval_ns:
                report.warn(
                    (item.block.get("inputs") or {})[each.id].place("deadline"),
                    f"the input `{each.id}` of {item.owner} may always miss its deadline of "
                    f"{duration_text(each.deadline_ns)}: nothing but the timer `{timer}` makes "
                    f"`{each.source}` send, every {duration_text(timer.interval_ns)}",
                    "choose a longer deadline, or a faster timer",
                )


def _check_silences(item: Ports, report: ProblemReport) -> None:
    timer = _fastest_timer(item.inputs)
    for name, options in (item.block.get("outputs") or {}).items() if timer is not None else ():
        safe = options.get("safe_state")
        silence = safe.get("silence") if safe is not None else None
        if silence and timer is not None and silence <= timer.interval_ns:
            report.warn(
                safe.place("silence"),
                f"the safe value of the output `{name}` of {item.owner} may come between any two messages: "
                f"nothing but the timer `{timer}` makes it send, every {duration_text(timer.interval_ns)}, "
                f"and `silence` is {duration_text(silence)}",
                "choose a longer silence, or a faster timer",
            )


def _fastest_timer(inputs: tuple[InputSpec, ...]) -> TimerSource | None:
    """Return the fastest of some inputs if all are timers."""
    timers = [item.source for item in inputs if isinstance(item.source, TimerSource)]
    if not timers or len(timers) < len(inputs):
        return None
    return min(timers, key=lambda timer: timer.interval_ns)
