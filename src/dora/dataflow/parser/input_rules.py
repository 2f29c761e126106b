"""The rules of inputs in YAML: their fields, and which rules fit together and to the source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from dora.dataflow.durations import duration_text, rate_text
from dora.dataflow.model import InputSpec, LogSource, NodeOutput, Source, TimerSource
from dora.dataflow.problems import Contradiction, ProblemReport
from dora.dataflow.types.contracts import Ports
from dora.dataflow.yaml.field_types import ChoiceType, FieldType, ListType, TextType
from dora.dataflow.yaml.number_types import DurationType, IntegerType, RateType, SecondsType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field
from dora.wire.input_rules import INPUT_RULES, MAX_QUEUE_SIZE, InputRule


def _type(rule: InputRule) -> FieldType[Any]:
    match rule.kind:
        case "integer":
            return IntegerType(rule.minimum, MAX_QUEUE_SIZE)
        case "seconds":
            return SecondsType(zero="unset")
        case "duration":
            return DurationType(zero="refused" if rule.minimum else "kept")
        case "rate":
            return RateType()
        case "choice":
            return ChoiceType(rule.choices)
        case "keys":
            return ListType(TextType("a metadata key", may_be_empty=False), "metadata keys")
        case "text":
            return TextType("a description", may_be_empty=False)


INPUT_RULE_FIELDS: Final = [
    Field(rule.name, _type(rule), rule.description, rule.choices[0] if rule.choices else rule.default)
    for rule in INPUT_RULES
]


def rules_of_block(block: CheckedBlock, source: Source, name: str, report: ProblemReport) -> dict[str, Any]:
    """Return the rules of an input as fields of `InputRules`; report what does not fit together.

    ``name`` is for messages: "the input `x` of node `a`".
    """
    item = _CheckedInput(name, source, block)
    for rule in INPUT_RULES:
        if block.values.get(rule.name) in (None, ()):
            continue
        for check in (*_CHECKS_OF_ALL, *_CHECKS.get(rule.name, ())):
            if (contradiction := check(rule, item)) is not None:
                report.error(*contradiction)
    rules = {
        rule.attribute: value for rule in INPUT_RULES if (value := block.get(rule.name)) not in (None, ())
    }
    rules["queue_size"] = 1 if block.get("queue_policy") == "latest" else max(block.get("queue_size"), 1)
    return rules


class _CheckedInput(NamedTuple):
    """An input, and where its messages come from."""

    name: str  # "the input `x` of node `a`"
    source: Source
    block: CheckedBlock


def _other_source(rule: InputRule, item: _CheckedInput) -> Contradiction | None:
    """Every rule is for some sources."""
    place = item.block.keys[rule.name]
    is_timer = isinstance(item.source, TimerSource)
    if rule.source == "timer" and not is_timer:
        message = f"{item.name} is not fed by a timer, and `{rule.name}` is for timers"
        return Contradiction(place, message, "leave it out")
    if rule.source == "messages" and is_timer:
        message = (
            f"{item.name} is a timer, whose ticks the node makes itself: `{rule.name}` means nothing there"
        )
        remedy = "choose the timer's interval" if rule.name == "rate" else "leave it out"
        return Contradiction(place, message, remedy)
    return None


def _lossless(rule: InputRule, item: _CheckedInput) -> Contradiction | None:
    """A rule by which messages are lost contradicts back-pressure."""
    if not rule.loses or item.block.get("queue_policy") != "backpressure":
        return None
    return Contradiction(
        item.block.keys[rule.name],
        f"`{rule.name}` {rule.loses}, and with `queue_policy: backpressure` {item.name} gets every message",
        f"remove `{rule.name}`, or write `queue_policy: drop_oldest`",
    )


def _one_place(_: InputRule, item: _CheckedInput) -> Contradiction | None:
    """`queue_size` contradicts `latest`."""
    if item.block.get("queue_policy") != "latest" or item.block.get("queue_size") in (0, 1):
        return None
    return Contradiction(
        item.block.place("queue_size"),
        f"{item.name} has `queue_policy: latest`, which has one place",
        "leave `queue_size` out, or write `queue_policy: drop_oldest`",
    )


def _timer_has_no_queue(_: InputRule, item: _CheckedInput) -> Contradiction | None:
    if item.block.get("queue_policy") != "latest" or not isinstance(item.source, TimerSource):
        return None
    message = f"{item.name} is a timer, which has no queue"
    return Contradiction(item.block.place("queue_policy"), message, "leave it out")


def _closed_before(_: InputRule, item: _CheckedInput) -> Contradiction | None:
    """`deadline` contradicts an `input_timeout` that is not longer."""
    deadline, silence = item.block.get("deadline"), item.block.get("input_timeout")
    if silence is None or deadline < silence * 1e9:
        return None
    return Contradiction(
        item.block.place("deadline"),
        f"the deadline of {duration_text(deadline)} of {item.name} is never missed, because "
        f"`input_timeout: {silence:g}` closes the input before",
        "choose a shorter deadline, or a longer `input_timeout`",
    )


def _always_missed(_: InputRule, item: _CheckedInput) -> Contradiction | None:
    """`deadline` contradicts a `rate` that is not higher."""
    deadline, period = item.block.get("deadline"), item.block.get("rate")
    if not period or deadline > period:
        return None
    return Contradiction(
        item.block.place("deadline"),
        f"{item.name} always misses the deadline of {duration_text(deadline)}, because with "
        f"`rate: {rate_text(period)}` its messages are {duration_text(period)} apart",
        "choose a longer deadline, or a higher rate",
    )


def _no_metadata(_: InputRule, item: _CheckedInput) -> Contradiction | None:
    """`keep` contradicts log entries."""
    if not isinstance(item.source, LogSource):
        return None
    message = f"{item.name} gets log entries, which have no metadata"
    return Contradiction(item.block.keys["keep"], message, "leave `keep` out")


def _beyond_the_interval(_: InputRule, item: _CheckedInput) -> Contradiction | None:
    """`phase` contradicts a timer that is not slower."""
    if not isinstance(item.source, TimerSource) or item.block.get("phase") < item.source.interval_ns:
        return None
    interval = duration_text(item.source.interval_ns)
    return Contradiction(
        item.block.place("phase"),
        f"the `phase` of {item.name} is not shorter than the timer's {interval}",
        "the ticks repeat after that time, so write what is left over",
    )


_Check = Callable[[InputRule, _CheckedInput], Contradiction | None]
_CHECKS_OF_ALL: Final[tuple[_Check, ...]] = (_other_source, _lossless)
_CHECKS: Final[dict[str, tuple[_Check, ...]]] = {
    "queue_size": (_one_place,),
    "queue_policy": (_timer_has_no_queue,),
    "deadline": (_closed_before, _always_missed),
    "keep": (_no_metadata,),
    "phase": (_beyond_the_interval,),
}


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
