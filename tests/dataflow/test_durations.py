"""Durations and rates with a unit: how YAML has them, what they mean, and what is said of others."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.dataflow.durations import MAX_NS, duration_text, parse_duration, parse_rate, rate_text
from dora.dataflow.problems import ProblemReport
from dora.dataflow.yaml.compose import compose
from dora.dataflow.yaml.field_types import FieldType, Reader
from dora.dataflow.yaml.number_types import DurationType, RateType

MS = 1_000_000


def read(field_type: FieldType[int], text: str) -> tuple[int | None, list[tuple[str, str]]]:
    """Return the value of a field that is written like this, and the problems with their hints."""
    report = ProblemReport(text, "x.yml")
    tree = compose(text, report)
    assert tree is not None
    value = field_type.read(tree, Reader(report, {}))
    return value, [(problem.message, problem.hint) for problem in report.problems]


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("50ms", 50 * MS),
        ("100us", 100_000),
        ("2s", 2_000 * MS),
        ("1min", 60_000 * MS),
        ("1.5 h", 5_400_000 * MS),
        ("0.000001ms", 1),
        ("'50ms'", 50 * MS),
        ("1000000000s", MAX_NS),
    ],
)
def test_durations_are_whole_nanoseconds(text: str, nanoseconds: int) -> None:
    assert read(DurationType(), text) == (nanoseconds, [])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("50", "expected a duration with its unit, such as `50ms`, found `50`", "write `50ms`"),
        ("5m", "expected a duration with its unit, such as `50ms`, found the text `5m`", "write `5min`"),
        ("20hz", "expected a duration with its unit", "write the time from one to the next: `50ms`"),
        ("-5ms", "found the text `-5ms`", "its unit is one of us, ms, s, min and h"),
        ("[5ms]", "found a list", "its unit is"),
        ("true", "found `true`", "its unit is"),
        ("0ms", "expected a duration longer than zero and at most 31 years, found the text `0ms`", ""),
        ("0", "expected a duration longer than zero and at most 31 years, found `0`", ""),
        ("0.25", "expected a duration with its unit", "for this many seconds, write `250ms`"),
        ("1000000000.000001s", "expected a duration of at most 31 years", ""),
        ("400000h", "expected a duration of at most 31 years", ""),
        ("٥ms", "expected a duration with its unit", ""),
    ],
)
def test_what_is_no_duration_is_refused_with_a_remedy(text: str, message: str, hint: str) -> None:
    value, [(told, remedy)] = read(DurationType(), text)
    assert value is None
    assert message in told
    assert hint in remedy


def test_a_zero_needs_no_unit_where_it_is_allowed() -> None:
    zero = DurationType(zero="kept")
    assert read(zero, "0") == read(zero, "0ms") == (0, [])
    assert read(zero, "1")[0] is None


@pytest.mark.parametrize(
    ("text", "period"),
    [("10hz", 100 * MS), ("30Hz", 33_333_333), ("0.5 hz", 2_000 * MS), ("1khz", MS), ("1.5kHz", 666_667)],
)
def test_a_rate_is_the_time_from_one_to_the_next(text: str, period: int) -> None:
    assert read(RateType(), text) == (period, [])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("10", "expected a rate with its unit, such as `10hz`, found `10`", "write `10hz`"),
        ("100ms", "found the text `100ms`", "write how many in a second: `10hz`"),
        ("0hz", "expected a rate above zero", ""),
        ("2000000000hz", "expected a rate above zero and at most 1000000khz", ""),
        ("often", "found the text `often`", "its unit is hz or khz"),
        ("{a: 1}", "found a mapping", "its unit is hz or khz"),
    ],
)
def test_what_is_no_rate_is_refused_with_a_remedy(text: str, message: str, hint: str) -> None:
    value, [(told, remedy)] = read(RateType(), text)
    assert value is None
    assert message in told
    assert hint in remedy


@given(st.integers(1, MAX_NS))
def test_a_duration_that_was_written_is_read_again(nanoseconds: int) -> None:
    assert parse_duration(duration_text(nanoseconds)) == nanoseconds


@given(st.integers(1, 10**12))
def test_a_rate_that_was_written_is_read_again(period: int) -> None:
    again = parse_rate(rate_text(period))
    assert again is None or abs(again - period) <= max(period / 1000, 1)


def accepts(schema: dict[str, Any], value: object) -> bool:
    if "anyOf" in schema:
        return any(accepts(other, value) for other in schema["anyOf"])
    if "const" in schema:
        return bool(value == schema["const"])
    return isinstance(value, str) and re.search(schema["pattern"], value) is not None


@pytest.mark.parametrize(
    "text", ["50ms", "0ms", "0", "50", "0.1us", "5m", "10hz", "0.0hz", "1khz", "x50ms", "50msx", "1.ms"]
)
def test_the_schema_of_editors_accepts_what_the_parser_accepts(text: str) -> None:
    value: object = int(text) if text.isdigit() else text
    for field_type in (DurationType(), DurationType(zero="kept"), RateType()):
        assert accepts(field_type.schema(), value) == (read(field_type, text)[0] is not None)
