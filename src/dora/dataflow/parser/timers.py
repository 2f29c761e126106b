"""The options of an input that a timer feeds: ``phase`` and ``missed_ticks``."""

from __future__ import annotations

from typing import Any, Final, get_args

from dora.dataflow.durations import duration_text
from dora.dataflow.model import MissedTicks, Source, TimerSource
from dora.dataflow.parser.field_types import ChoiceType, DurationType
from dora.dataflow.parser.schema_block import CheckedBlock, Field
from dora.dataflow.problems import ProblemReport

TIMER_OPTIONS: Final = [
    Field(
        "phase",
        DurationType(zero="kept"),
        "Of a timer: how long after the start its first tick comes, so that timers do not tick together: "
        "`5ms`.",
    ),
    Field(
        "missed_ticks",
        ChoiceType(get_args(MissedTicks)),
        "Of a timer, what the node gets when it was busy for several ticks: one (`skip`), one with their "
        "number as `missed_ticks` in the metadata (`coalesce`), or up to `queue_size` (`burst`).",
        default="skip",
    ),
]


def timer_options(block: CheckedBlock, source: Source, owner: str, report: ProblemReport) -> dict[str, Any]:
    """Return the options of a timer as fields of its `InputSpec`; report what does not fit.

    ``owner`` names the input in messages.
    """
    phase = block.get("phase") or 0
    if not isinstance(source, TimerSource):
        for option in TIMER_OPTIONS:
            if block.has(option.name):
                report.error(
                    block.keys[option.name],
                    f"{owner} is not fed by a timer, and `{option.name}` is for timers",
                    "leave it out",
                )
    elif phase >= source.interval_ns:
        report.error(
            block.place("phase"),
            f"the `phase` of {owner} is not shorter than the timer's {duration_text(source.interval_ns)}",
            "the ticks repeat after that time, so write what is left over",
        )
    return {"phase_ns": phase, "missed_ticks": block.get("missed_ticks")}
