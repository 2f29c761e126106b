"""Read the spans of a dataflow back, and on while they are written."""

from __future__ import annotations

from collections.abc import Iterator

from dora.logs.reader import Lines, nodes_with_files
from dora.traces.span import Batch, decode_batches


class SpanReader:
    """The files of spans in one directory, which need not exist yet."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, Lines] = {}

    def batches(self) -> Iterator[Batch]:
        """Yield what has been written since the last call, node after node."""
        for node in nodes_with_files(self._directory, "spans_"):
            file = self._files.get(node)
            if file is None:
                file = self._files[node] = Lines(f"{self._directory}/spans_{node}")
            for line in file.read():
                yield from decode_batches(line)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
