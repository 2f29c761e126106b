"""The context of a trace, as text in a message's metadata."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.wire.trace_context import TraceContext, format_context, parse_context

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("sampled", [True, False])
@pytest.mark.parametrize("state", ["", "vendor=value,other=x"])
def test_a_context_survives_formatting_and_parsing(sampled: bool, state: str) -> None:
    context = TraceContext(TRACE, SPAN, sampled, state)
    assert parse_context(format_context(context)) == context


def test_contexts_of_other_vendors_are_read() -> None:
    text = f"tracestate:a=b\ntraceparent: 00-{TRACE}-{SPAN}-01\nbaggage:user=me\n"
    assert parse_context(text) == TraceContext(TRACE, SPAN, True, "a=b")
    assert parse_context(f"traceparent:cc-{TRACE}-{SPAN}-03-what-a-later-version-adds") == TraceContext(
        TRACE, SPAN
    )
    twice = f"traceparent:00-{TRACE}-{SPAN}-01\nTraceparent:00-{SPAN * 2}-{SPAN}-01"
    assert parse_context(twice) == TraceContext(TRACE, SPAN)


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        b"traceparent",
        "",
        "7632e76",
        f"traceparent:00-{TRACE}-{SPAN}",
        f"traceparent:00-{TRACE.upper()}-{SPAN}-01",
        f"traceparent:00-{'0' * 32}-{SPAN}-01",
        f"traceparent:00-{TRACE}-{'0' * 16}-01",
        f"traceparent:00-{'0' * 32}-{SPAN}-01\n",
        f"traceparent:00-{TRACE}-{'0' * 16}-01\n",
    ],
)
def test_an_invalid_context_is_none(value: object) -> None:
    assert parse_context(value) is None


def test_a_state_that_is_too_long_is_not_passed_on() -> None:
    assert "tracestate" not in format_context(TraceContext(TRACE, SPAN, True, "x" * 513))


@given(st.text())
def test_any_text_is_a_valid_context(text: str) -> None:
    parse_context(text)
    parse_context(f"traceparent:{text}")
