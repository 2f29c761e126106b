"""Spans written to files and read back; traces put together from them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dora.node.interceptors.spans import (
    CONSUMER,
    FAILED,
    PRODUCER,
    Batch,
    Span,
    SpanFile,
    Status,
    attributes_of,
    decode_batches,
    encode_batch,
    plain,
)
from dora.observe.trace import SpanReader, find_trace, rows, traces_of

MS = 1_000_000


def span(trace: str, own: str, parent: str = "", start: int = 0, end: int = 1, name: str = "x") -> Span:
    return Span(trace, own, name, CONSUMER, str(start * MS), str(end * MS), parent_span_id=parent)


def batch(node: str, *spans: Span) -> Batch:
    return Batch({"service.name": node}, list(spans))


def test_a_line_follows_the_otlp_standard() -> None:
    one = Span(
        "ab" * 16,
        "cd" * 8,
        "send image",
        PRODUCER,
        "5",
        "7",
        parent_span_id="ef" * 8,
        trace_state="a=b",
        attributes=attributes_of({"dora.output": "image", "dora.sequence": 9}),
        status=Status(FAILED, "no"),
    )
    line = encode_batch({"service.name": "camera"}, "1.2.3", [one])
    assert json.loads(line) == {
        "resourceSpans": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "camera"}}]},
                "scopeSpans": [
                    {
                        "scope": {"name": "dora", "version": "1.2.3"},
                        "spans": [
                            {
                                "traceId": "ab" * 16,
                                "spanId": "cd" * 8,
                                "parentSpanId": "ef" * 8,
                                "traceState": "a=b",
                                "name": "send image",
                                "kind": 4,
                                "startTimeUnixNano": "5",
                                "endTimeUnixNano": "7",
                                "attributes": [
                                    {"key": "dora.output", "value": {"stringValue": "image"}},
                                    {"key": "dora.sequence", "value": {"intValue": "9"}},
                                ],
                                "status": {"code": 2, "message": "no"},
                            }
                        ],
                    }
                ],
            }
        ]
    }
    (found,) = decode_batches(line)
    assert found == Batch({"service.name": "camera"}, [one])
    assert plain(found.spans[0].attributes) == {"dora.output": "image", "dora.sequence": 9}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"[]",
        b'{"resourceSpans": 5}',
        b'{"other": 1}',
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": "\xff", "value": {}}]}}]}',
        b'{"resourceSpans": [{"resource": {"attributes": [{"key": "a", "value": {"intValue": "b"}}]}}]}',
    ],
)
def test_foreign_lines_are_skipped(line: bytes) -> None:
    assert decode_batches(line) == []


def test_files_are_read_while_they_grow_and_their_size_is_bounded(tmp_path: Path) -> None:
    file = SpanFile(str(tmp_path / "out"), "a.b", max_size=2000)
    reader = SpanReader(str(tmp_path / "out"))
    assert list(reader.batches()) == []
    seen = []
    for number in range(40):
        assert file.append(encode_batch({"service.name": "a.b"}, "1", [span("t", f"{number}")])) == ""
        seen += [item.span_id for found in reader.batches() for item in found.spans]
    assert seen == [str(number) for number in range(40)]
    sizes = [path.stat().st_size for path in (tmp_path / "out").iterdir()]
    assert len(sizes) == 2 and max(sizes) <= 2000
    reader.close()
    file.close()


def test_a_file_of_spans_that_is_full_is_not_kept_open(tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("finds open files in /proc")
    before = len(os.listdir("/proc/self/fd"))
    file = SpanFile(str(tmp_path / "out"), "a", max_size=10)
    for _ in range(5):
        assert file.append(b"a line\n") == ""
    assert len(os.listdir("/proc/self/fd")) == before + 1
    file.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_failing_disk_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the directory should be")
    file = SpanFile(str(tmp_path / "out"), "a")
    assert "spans_a.jsonl" in file.append(b"line\n")
    assert file.append(b"line\n") == ""


def test_traces_are_sorted_by_time_and_their_spans_too() -> None:
    first, second = traces_of(
        [
            batch("a", span("t2", "s1", start=10, end=11), span("t1", "s2", "s1", start=2, end=30)),
            batch("b", span("t1", "s1", start=1, end=3)),
        ]
    )
    assert (first.trace_id, [item.node_id for item in first.spans]) == ("t1", ["b", "a"])
    assert (first.start_ns, first.duration_ns) == (1 * MS, 29 * MS)
    assert second.root.title == "a: x"
    assert traces_of([]) == []


def test_a_trace_is_drawn_as_a_tree() -> None:
    (trace,) = traces_of(
        [
            batch(
                "cam",
                span("t", "1", start=0, name="process tick"),
                span("t", "2", "1", 1, name="send image"),
            ),
            batch("eye", span("t", "3", "2", 2, name="process image")),
            batch("log", span("t", "4", "2", 3, name="process image"), span("t", "9", "lost", 4, name="y")),
        ]
    )
    drawn = [(row.branch + row.item.title, row.after_ns // MS) for row in rows(trace)]
    assert drawn == [
        ("cam: process tick", 0),
        ("└─ cam: send image", 1),
        ("   ├─ eye: process image", 2),
        ("   └─ log: process image", 3),
        ("log: y", 4),
    ]


def test_a_very_deep_trace_is_drawn() -> None:
    (trace,) = traces_of([batch("a", *(span("t", f"{n}", f"{n - 1}", n) for n in range(1, 5000)))])
    assert sum(1 for _ in rows(trace)) == 4999


def test_a_trace_is_found_by_its_first_digits() -> None:
    traces = traces_of([batch("a", span("ab12", "1"), span("ab34", "1"))])
    assert find_trace(traces, "AB1").trace_id == "ab12"
    for prefix, why in (("ab", "more than one"), ("c", "no trace `c`"), ("  ", "how the id")):
        with pytest.raises(ValueError, match=why):
            find_trace(traces, prefix)
