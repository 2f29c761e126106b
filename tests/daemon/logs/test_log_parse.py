"""Captured lines: which are structured, and what is taken from them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.daemon.logs.parse import parse_line

NOW = 1_700_000_000_000_000_000


def entry(text, stream="stdout"):
    return parse_line("camera", stream, text, NOW)


@pytest.mark.parametrize(
    "text",
    [
        "hello",
        "",
        "{",
        "{}",
        "{not json}",
        '{"level": "info"}',
        '{"message": "m"}',
        '{"level": 30, "message": "m"}',
        '{"level": "loud", "message": "m"}',
        '{"level": "info", "message": 5}',
        '["level", "message"]',
        "{" * 5000 + "}",
        '{"a":' * 5000 + "1" + "}" * 5000,
    ],
)
def test_other_lines_stay_raw(text):
    for stream in ("stdout", "stderr"):
        got = entry(text + "\n", stream)
        assert (got.level, got.message, got.stream) == ("stdout", text, stream)
        assert (got.timestamp_ns, got.node_id) == (NOW, "camera")


def test_a_line_of_node_log():
    got = entry(
        '{"timestamp": "2023-11-14T22:13:20.5Z", "level": "warn", "node_id": "other", "message": "dark",'
        ' "target": "lens", "fields": {"lux": "3"}}'
    )
    assert (got.level, got.message, got.target, got.fields) == ("warn", "dark", "lens", {"lux": "3"})
    assert got.node_id == "camera", "a line cannot speak for another node"
    assert got.timestamp_ns == NOW + 500_000_000


def test_a_line_of_the_logging_bridge_keeps_its_place_in_the_code():
    got = entry(
        '{"level": "CRITICAL", "message": "m", "module_path": "lens.focus", "file": "/a/b.py", "line": 12}'
    )
    assert (got.level, got.module_path, got.file, got.line) == ("error", "lens.focus", "/a/b.py", 12)


def test_a_line_that_a_node_writes_is_read_unchanged():
    from dora.node.log import log_line

    got = entry(log_line("camera", "Warning", "two\nlines", target="t", fields={"k": "v"}))
    assert (got.level, got.message, got.target, got.fields) == ("warn", "two\nlines", "t", {"k": "v"})


def test_a_line_of_rust_tracing():
    got = entry(
        '{"timestamp":"2023-11-14T22:13:21.123456789Z","level":"ERROR","target":"lens::focus",'
        '"fields":{"message":"stuck","step":7,"axis":"x"},"filename":"src/focus.rs","line_number":9}'
    )
    assert (got.level, got.message, got.target) == ("error", "stuck", "lens::focus")
    assert got.fields == {"step": "7", "axis": "x"}
    assert (got.file, got.line) == ("src/focus.rs", 9)
    assert got.timestamp_ns == NOW + 1_123_456_000


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("error", "error"),
        ("Fatal", "error"),
        ("WARNING", "warn"),
        ("notice", "info"),
        ("Debug", "debug"),
        ("TRACE", "trace"),
    ],
)
def test_names_of_levels(level, expected):
    assert entry(json.dumps({"level": level, "message": "m"})).level == expected


@pytest.mark.parametrize("stamp", ["yesterday", 5, None, "", "2023-99-99T00:00:00Z"])
def test_unusable_timestamps_are_replaced(stamp):
    assert entry(json.dumps({"level": "info", "message": "m", "timestamp": stamp})).timestamp_ns == NOW


def test_timestamps_with_an_offset_and_without():
    for stamp in ("2023-11-14T23:13:20+01:00", "2023-11-14T22:13:20"):
        assert entry(json.dumps({"level": "info", "message": "m", "timestamp": stamp})).timestamp_ns == NOW


_text = st.text('{}[]":,\\\n\r\x00ab é\ud800😀')
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner) | st.dictionaries(_text, inner),
    max_leaves=8,
)
_keys = st.sampled_from(["level", "message", "timestamp", "target", "fields", "file", "line"])


@pytest.mark.lengthy
@given(st.dictionaries(_keys, st.sampled_from(["info", "m", "2023-11-14T22:13:20Z"]) | _json))
def test_any_json_object_can_be_parsed(record):
    got = entry(json.dumps(record))
    assert got.level == "stdout" or isinstance(got.message, str)


@given(_text)
def test_any_text_can_be_parsed(text):
    assert entry(text).node_id == "camera"
