"""The rules of inputs and outputs as YAML has them, and in words for people."""

from __future__ import annotations

from typing import Any

from dora.dataflow.durations import duration_text, rate_text
from dora.wire.input_rules import INPUT_RULES, InputRules
from dora.wire.output_rules import OUTPUT_RULES, LatchRule, OutputRule, OutputRules, SafeState


def input_rules_in_yaml(item: InputRules) -> dict[str, Any]:
    """Return the rules of an input as YAML has them, without those that are not given.

    >>> input_rules_in_yaml(InputRules(queue_size=1, queue_policy="latest", period_ns=100_000_000))
    {'queue_policy': 'latest', 'rate': '10hz'}
    """
    given: dict[str, Any] = {}
    nothing = InputRules()
    for rule in INPUT_RULES:
        value = getattr(item, rule.attribute)
        if value == getattr(nothing, rule.attribute):
            continue
        if rule.kind == "duration":
            value = duration_text(value)
        elif rule.kind == "rate":
            value = rate_text(value)
        given[rule.name] = list(value) if rule.kind == "keys" else value
    if item.queue_policy == "latest":
        given.pop("queue_size", None)  # it has one place
    return given


def output_rules_in_yaml(item: OutputRules) -> dict[str, Any]:
    """Return the rules of an output as YAML has them, without those that are not given.

    >>> output_rules_in_yaml(OutputRules(latched=LatchRule(2), priority="bulk"))
    {'latched': 2, 'priority': 'bulk'}
    """
    return {rule.name: _in_yaml(value) for rule, value in _given(item)}


def output_rules_in_words(item: OutputRules) -> list[tuple[OutputRule, str]]:
    """Return the rules of an output that are given, each with its value in words.

    >>> [(rule.title, words) for rule, words in output_rules_in_words(OutputRules(latched=LatchRule(2)))]
    [('Latched', 'the newest 2 messages')]
    """
    return [(rule, _in_words(value)) for rule, value in _given(item)]


def label_of(rule: OutputRule, item: OutputRules) -> str:
    """Return the words for a rule of an output in a drawing."""
    value = getattr(item, rule.name)
    return rule.label.format(value.depth if isinstance(value, LatchRule) else value)


def _given(item: OutputRules) -> list[tuple[OutputRule, Any]]:
    found = ((rule, getattr(item, rule.name)) for rule in OUTPUT_RULES)
    return [(rule, value) for rule, value in found if value is not None]


def _in_yaml(value: Any) -> Any:
    match value:
        case LatchRule(depth=depth, survive_restart=survives):
            return {"depth": depth, "survive_restart": True} if survives else depth
        case SafeState():
            options: dict[str, Any] = {
                "value": list(value.values),
                "type": value.type,
                "when": list(value.when),
                "metadata": value.metadata,
                "silence": duration_text(value.silence_ns) if value.silence_ns else None,
            }
            return {name: option for name, option in options.items() if option not in (None, {})}
    return value


def _in_words(value: Any) -> str:
    match value:
        case LatchRule(depth=depth, survive_restart=survives):
            newest = "the newest message" if depth == 1 else f"the newest {depth} messages"
            return f"{newest}, also after a restart" if survives else newest
        case SafeState():
            conditions: list[str] = list(value.when)
            if value.silence_ns and "silent" in conditions:
                conditions[conditions.index("silent")] = f"silent for {duration_text(value.silence_ns)}"
            values = ", ".join(map(str, value.values))
            return f"[{values}] ({value.type}) when {', '.join(conditions)}"
    return str(value)
