"""Export a recording to Parquet files: one for each topic, with one row for each message."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from dora._shared_folders import open_file
from dora.errors import DoraError
from dora.observe.formatting import plain
from dora.recording.mcap.format import NotARecording
from dora.recording.mcap.recording import RecordedMessage, Recording
from dora.wire.array_shape import shape_of
from dora.wire.decode import PayloadError, decode_arrow
from dora.wire.metadata import MetadataError, decode_metadata

_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
_ROWS: Final = 4096  # of one row group, which is in memory until it is written
_BYTES: Final = 32 << 20  # likewise


@dataclass(frozen=True)
class Written:
    """A file and the number of its messages."""

    path: str
    messages: int


class _Table:
    """The file of one topic, or of one of its types."""

    def __init__(self, path: str, folder: str, type_: Any, *, as_bytes: bool) -> None:
        """``path`` is in ``folder``.

        ``as_bytes``: a message is one value, a list of its numbers would take ten times as long.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self.messages = 0
        self._as_bytes = as_bytes
        fields: list[pa.Field[Any]] = [
            pa.field("time", pa.timestamp("ns", "UTC")),
            pa.field("sequence", pa.uint64()),
            pa.field("metadata", pa.string()),
            pa.field("shape", pa.list_(pa.int64())),
            pa.field("value", pa.large_binary() if as_bytes else pa.list_(type_)),
        ]
        self._schema = pa.schema(fields)
        file = open_file(os.path.relpath(path, folder), _FLAGS, below=folder)
        self._file = open(file, "wb")  # noqa: SIM115 - closed by `close`
        self._writer = pq.ParquetWriter(
            self._file, self._schema, compression="zstd", use_dictionary=not as_bytes
        )
        self._rows: list[tuple[int, int, str, tuple[int, ...] | None, Any]] = []
        self._bytes = 0

    def add(
        self, recorded: RecordedMessage, metadata: str, shape: tuple[int, ...] | None, array: Any
    ) -> None:
        self._rows.append((recorded.time_ns, recorded.sequence, metadata, shape, array))
        self._bytes += array.nbytes
        self.messages += 1
        if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
            self.flush()

    def flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        times, sequences, metadata, shapes, arrays = zip(*self._rows, strict=True)
        ends = [0]
        for array in arrays:
            ends.append(ends[-1] + len(array))
        values = pa.concat_arrays(arrays)
        if self._as_bytes:
            offsets = pa.array(ends, pa.int64()).buffers()[1]
            buffers = [None, offsets, values.buffers()[1] or pa.py_buffer(b"")]
            values = pa.Array.from_buffers(pa.large_binary(), len(arrays), buffers)
        else:
            values = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)
        found = zip((times, sequences, metadata, shapes), self._schema, strict=False)
        columns = [*(pa.array(column, field.type) for column, field in found), values]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))
        self._rows.clear()
        self._bytes = 0

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._writer.close()
            self._file.close()


def export_parquet(
    recording: Recording, folder: str, topics: Collection[str] | None = None, *, force: bool = False
) -> list[Written]:
    """Write ``<folder>/<node>/<output>.parquet`` for each topic; one that changes its type gets more files.

    Their names have a number, ``<output>.2.parquet``; one that is the name of another output is left out.
    Columns: ``time`` (of sending), ``sequence``, ``metadata`` (JSON, as `dora topic echo` shows it),
    ``shape`` (of a NumPy array, null for a flat one) and ``value``, a list, or the bytes of a message of
    uint8. Raises `DoraError` for a type that Parquet does not have, and for a file that exists, unless
    ``force``.
    """
    import pyarrow as pa

    tables: dict[tuple[str, Any, bool], _Table] = {}
    kinds: dict[str, int] = {}
    with ExitStack() as open_tables:
        for recorded in recording.messages(topics):
            try:
                message = recorded.message
                array = decode_arrow(message)
                metadata = decode_metadata(message.metadata)
                text = _json(metadata)
            except (NotARecording, PayloadError, MetadataError) as error:
                raise DoraError(f"message {recorded.sequence} of `{recorded.topic}`: {error}") from None
            as_bytes = array.type == pa.uint8() and not array.null_count
            key = recorded.topic, array.type, as_bytes
            with _explain_failure(recorded.topic, array.type, folder):
                table = tables.get(key)
                if table is None:
                    number = kinds.get(recorded.topic, 0) + 1
                    while number > 1 and f"{recorded.topic}.{number}" in recording.topics:
                        number += 1  # that output has the file of this name
                    kinds[recorded.topic] = number
                    path = _path(folder, recorded.topic, number, force)
                    table = tables[key] = _Table(path, folder, array.type, as_bytes=as_bytes)
                    open_tables.callback(_close, table, recorded.topic, array.type, folder)
                table.add(recorded, text, shape_of(metadata, len(array)), array)
    return [Written(table.path, table.messages) for table in tables.values()]


def _json(metadata: dict[str, Any]) -> str:
    try:
        return json.dumps(plain(metadata, full=True), ensure_ascii=False, allow_nan=False)
    except RecursionError as error:
        raise MetadataError(f"its metadata is no JSON: {error}") from None


def _close(table: _Table, topic: str, type_: Any, folder: str) -> None:
    with _explain_failure(topic, type_, folder):
        table.close()


@contextmanager
def _explain_failure(topic: str, type_: Any, folder: str) -> Iterator[None]:
    """Turn errors of Arrow and of the system into `DoraError`."""
    import pyarrow as pa

    try:
        yield
    except OSError as error:
        raise DoraError(f"cannot write to {folder}: {error.strerror or error}") from None
    except (
        pa.ArrowException,
        NotImplementedError,
        MemoryError,
        TypeError,
        ValueError,
        OverflowError,
    ) as error:
        raise DoraError(
            f"Parquet cannot hold the messages of `{topic}`, which are {type_}: {error}; choose others "
            "with --topics"
        ) from None


def _path(folder: str, topic: str, number: int, force: bool) -> str:
    if not all(part.strip(".") for part in topic.split("/")) or not topic.isprintable():
        named = f"`{topic}`" if topic.isprintable() else repr(topic)
        raise DoraError(f"{named} is no name of an output; the recording was not written by dora")
    path = os.path.join(folder, *topic.split("/")) + (f".{number}.parquet" if number > 1 else ".parquet")
    if os.path.exists(path) and not force:
        raise DoraError(f"{path} exists already; choose another folder, or write over it with --force")
    return path
