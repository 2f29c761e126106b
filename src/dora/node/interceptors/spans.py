"""Spans and their files: OTLP in JSON, one batch a line, in ``spans_<node>.jsonl`` beside the log files.

OpenTelemetry's file exporter writes this form too, so other tools read these files. Ids are hexadecimal,
times are nanoseconds since the Unix epoch, and 64-bit integers are text, as the standard requires:
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding

Each node writes its own file, so it waits for no daemon and no collector. A file that has become too large
is renamed once, to ``spans_<node>.1.jsonl``: the latest spans are kept, and a forgotten ``--trace`` does
not fill the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from dora._shared_folders import open_file, rotate_file
from dora.wire.decoders import json_decoder

PRODUCER: Final = 4  # the kind of a span that sends
CONSUMER: Final = 5  # and of one that processes what it received
FAILED: Final = 2  # the code of a status

Attributes = Mapping[str, str | int]


class Value(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    string_value: str | None = None
    int_value: str | None = None


class Attribute(msgspec.Struct, frozen=True):
    key: str
    value: Value


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    code: int = 0
    message: str = ""


class Span(msgspec.Struct, omit_defaults=True, rename="camel", gc=False):
    """A span; ``end_time_unix_nano`` is "0" until it ends."""

    trace_id: str
    span_id: str
    name: str
    kind: int
    start_time_unix_nano: str
    end_time_unix_nano: str = "0"
    parent_span_id: str = ""
    trace_state: str = ""
    attributes: list[Attribute] = []
    status: Status = Status()

    @property
    def start_ns(self) -> int:
        return int(self.start_time_unix_nano)

    @property
    def end_ns(self) -> int:
        return int(self.end_time_unix_nano)


class _InstrumentationScope(msgspec.Struct, frozen=True):
    name: str = ""
    version: str = ""


class _ScopeSpans(msgspec.Struct, frozen=True, rename="camel"):
    spans: list[Span]
    scope: _InstrumentationScope = _InstrumentationScope()


class _Resource(msgspec.Struct, frozen=True):
    attributes: list[Attribute] = []


class _ResourceSpans(msgspec.Struct, frozen=True, rename="camel"):
    scope_spans: list[_ScopeSpans] = []
    resource: _Resource = _Resource()


class _Batch(msgspec.Struct, frozen=True, rename="camel"):
    resource_spans: list[_ResourceSpans] = []


class Batch(msgspec.Struct, frozen=True):
    """Spans of one node; ``resource`` identifies the node, with OpenTelemetry's names."""

    resource: dict[str, str | int]
    spans: list[Span]


_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
_decode: Callable[[bytes], _Batch] = json_decoder(_Batch)


def attributes_of(values: Attributes) -> list[Attribute]:
    """Return attributes in the form in which they are written."""
    return [
        Attribute(key, Value(string_value=value) if isinstance(value, str) else Value(int_value=str(value)))
        for key, value in values.items()
    ]


def plain(attributes: Iterable[Attribute]) -> dict[str, str | int]:
    """Return attributes as a dictionary, without kinds that dora does not write."""
    found: dict[str, str | int] = {}
    for attribute in attributes:
        if attribute.value.string_value is not None:
            found[attribute.key] = attribute.value.string_value
        elif attribute.value.int_value is not None:
            found[attribute.key] = int(attribute.value.int_value)
    return found


def encode_batch(resource: Attributes, version: str, spans: list[Span]) -> bytes:
    """Return the line of a file for some spans, with its newline."""
    scope = _ScopeSpans(spans, _InstrumentationScope("dora", version))
    return _encode(_Batch([_ResourceSpans([scope], _Resource(attributes_of(resource)))])) + b"\n"


def decode_batches(line: bytes) -> list[Batch]:
    """Return the batches in a line of a file; none for a line of another form."""
    try:
        batch = _decode(line)
        return [
            Batch(
                plain(item.resource.attributes),
                [span for scope in item.scope_spans for span in scope.spans],
            )
            for item in batch.resource_spans
        ]
    except (ValueError, RecursionError):
        return []


MAX_SIZE: Final = 16 << 20  # bytes; there are at most two such files of a node


class SpanFile:
    """Appends lines, until the disk fails; `append` returns that error once."""

    def __init__(self, directory: str, node_id: str, max_size: int = MAX_SIZE) -> None:
        self._base = f"{directory}/spans_{node_id}"
        self._below = os.path.dirname(os.path.dirname(directory))  # of ``out/<dataflow id>``
        self._max_size = max_size
        self._descriptor = -1
        self._broken = False

    def append(self, line: bytes) -> str:
        """Append a line in one piece; return the error that ends the writing, or ""."""
        if self._broken:
            return ""
        try:
            if self._descriptor < 0:
                self._open()
            elif os.fstat(self._descriptor).st_size + len(line) > self._max_size:
                self.close()
                rotate_file(f"{self._base}.jsonl", 1, below=self._below)
                self._open()
            os.write(self._descriptor, line)
        except OSError as error:
            self._broken = True
            self.close()
            return f"{self._base}.jsonl: {error.strerror}"
        return ""

    def close(self) -> None:
        """Close the file; `append` opens it again."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                os.close(descriptor)
            except OSError:
                pass  # the lines are written, and a node does not fail because of its spans

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor = open_file(f"{self._base}.jsonl", flags, below=self._below, mode=0o644)
