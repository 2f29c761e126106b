"""How entries look."""

import json
import re
import time

import pytest

from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.formats import renderer, rfc3339, wants_colour

WHEN = 1_700_000_000_123_456_789


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def entry(message="hello", level="info", node_id="cam", **more):
    return LogEntry(WHEN, level, node_id, message, **more)


def test_pretty_aligns_the_names_and_marks_the_target():
    render = renderer("pretty", nodes=["cam", "detector"])
    assert render(entry(target="lens")) == "22:13:20 INFO   cam:      [lens] hello"
    assert render(entry(level="stdout", node_id="detector")) == "22:13:20 stdout detector: hello"
    assert render(entry(level="error", node_id=None)) == "22:13:20 ERROR  dora:     hello"
    assert render(entry(fields={"lux": "3"})).endswith("hello lux=3")


def test_pretty_limits_the_column_of_names():
    render = renderer("pretty", nodes=["cam", "x" * 60])
    assert render(entry()) == "22:13:20 INFO   cam:  hello"
    assert f"{'x' * 60}: hello" in render(entry(node_id="x" * 60))


def test_pretty_labels_every_line_of_a_message():
    assert renderer("pretty")(entry("one\ntwo")).splitlines() == [
        "22:13:20 INFO   cam:  one",
        "22:13:20 INFO   cam:  two",
    ]


def test_compact():
    render = renderer("compact", nodes=["cam"])
    assert render(entry(target="lens")) == "22:13:20 INFO cam: hello"
    assert render(entry(level="stdout")) == "22:13:20 stdout cam: hello"


def test_json_is_one_line_with_every_key():
    text = renderer("json", dataflow_id="some-id")(entry("one\ntwo", target="lens", file="a.py", line=3))
    assert "\n" not in text
    assert json.loads(text) == {
        "build_id": None,
        "dataflow_id": "some-id",
        "node_id": "cam",
        "daemon_id": None,
        "level": "INFO",
        "target": "lens",
        "module_path": None,
        "file": "a.py",
        "line": 3,
        "message": "one\ntwo",
        "timestamp": "2023-11-14T22:13:20.123456789Z",
        "fields": None,
    }
    assert json.loads(renderer("json")(entry(level="stdout")))["level"] == "stdout"


def test_each_name_has_a_colour_that_does_not_depend_on_the_order():
    names = ["cam", "detector", "plot", "lidar"]
    first = renderer("pretty", colour=True, nodes=names)
    second = renderer("pretty", colour=True, nodes=names[::-1])
    lines = [first(entry(node_id=name)) for name in names]
    assert lines == [second(entry(node_id=name)) for name in names]
    colours = {re.search(r"(\x1b\[\d+m)[a-z]+:", line)[1] for line in lines}
    assert len(colours) == len(names)


def test_without_colour_there_is_no_escape_sequence():
    for name in ("pretty", "compact", "json"):
        assert "\x1b" not in renderer(name, nodes=["cam"])(
            entry(level="error", target="t", fields={"a": "b"})
        )
    assert "\x1b" in renderer("compact", colour=True)(entry())


@pytest.mark.parametrize(
    ("terminal", "environ", "expected"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": ""}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_when_colours_are_used(terminal, environ, expected):
    assert wants_colour(terminal, environ) is expected


def test_impossible_times_do_not_break_a_line():
    assert "hello" in renderer("pretty")(LogEntry(2**62 * 1000, "info", "cam", "hello"))


def test_times_in_utc():
    assert rfc3339(WHEN) == "2023-11-14T22:13:20.123Z"
    assert rfc3339(0, digits=6) == "1970-01-01T00:00:00.000000Z"


def test_fields_of_the_daemon_are_for_programs() -> None:
    entry = LogEntry(0, "error", "a", "failed (first failure)", "daemon", fields={"cause": "first"})
    assert renderer("pretty")(entry).endswith("failed (first failure)")
    assert json.loads(renderer("json")(entry))["fields"] == {"cause": "first"}
