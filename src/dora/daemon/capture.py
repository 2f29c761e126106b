"""Cut what a node prints into lines."""

from __future__ import annotations

MAX_LINE = 1 << 20  # bytes


class LineSplitter:
    """Feed bytes, get complete lines, without their ends.

    A line longer than `MAX_LINE` bytes comes in pieces. Bytes that are not UTF-8 are replaced.

    >>> lines = LineSplitter()
    >>> lines.feed(b"one\\ntw")
    ['one']
    >>> lines.feed(b"o\\r\\n"), lines.finish()
    (['two'], [])
    """

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._rest = bytearray()
        self._max_line = max_line

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that ``data`` completes."""
        self._rest += data
        lines = []
        if b"\n" in data:
            *whole, rest = self._rest.split(b"\n")
            self._rest = rest
            for line in whole:
                while len(line) > self._max_line:
                    lines.append(_text(line[: self._max_line]))
                    del line[: self._max_line]
                lines.append(_text(line))
        while len(self._rest) > self._max_line:
            lines.append(_text(self._rest[: self._max_line]))
            del self._rest[: self._max_line]
        return lines

    def finish(self) -> list[str]:
        """Return the unfinished last line, if there is one."""
        rest, self._rest = self._rest, bytearray()
        return [_text(rest)] if rest else []


def _text(line: bytearray) -> str:
    return line.removesuffix(b"\r").decode("utf-8", "replace")
