"""The W3C trace context in the metadata of a message.

The key ``open_telemetry_context`` holds one ``name:value`` per line, as dora-rs writes it::

    traceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01
    tracestate:vendor=value
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

KEY: Final = "open_telemetry_context"

_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_PLAIN = re.compile(r"traceparent:00-([0-9a-f]{32})-([0-9a-f]{16})-0([01])\n")  # the form that dora writes
_ZEROS = ("0" * 32, "0" * 16)  # invalid ids
_MAX_STATE = 512  # characters that every implementation has to pass on


class TraceContext(NamedTuple):
    """The parent span of later spans. Ids are lowercase hexadecimal."""

    trace_id: str  # 32 digits
    span_id: str  # 16 digits
    sampled: bool = True  # False: spans of this trace are not recorded
    state: str = ""  # of other vendors; passed on unchanged


def parse_context(value: object) -> TraceContext | None:
    """Return the trace context in a value of metadata, None if it is not valid.

    >>> parse_context("traceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01;").span_id
    '00f067aa0ba902b7'
    >>> parse_context("7632e76") is None
    True
    """
    if not isinstance(value, str):
        return None
    found = _PLAIN.fullmatch(value)
    if found is not None:
        trace_id, span_id, sampled = found.groups()
        return (
            None
            if trace_id in _ZEROS or span_id in _ZEROS
            else TraceContext(trace_id, span_id, sampled == "1")
        )
    fields: dict[str, str] = {}
    for line in re.split(r"[\n;]", value):
        name, _, content = line.partition(":")
        fields.setdefault(name.strip().lower(), content.strip())
    found = _PARENT.fullmatch(fields.get("traceparent", ""))
    if found is None or found[1] in _ZEROS or found[2] in _ZEROS:
        return None
    return TraceContext(found[1], found[2], bool(int(found[3], 16) & 1), fields.get("tracestate", ""))


def format_context(context: TraceContext) -> str:
    """Return the text for the metadata.

    >>> format_context(TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"))
    'traceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\\n'
    """
    trace_id, span_id, sampled, state = context
    text = f"traceparent:00-{trace_id}-{span_id}-{'01' if sampled else '00'}\n"
    return f"{text}tracestate:{state}\n" if state and len(state) <= _MAX_STATE else text
