"""Keep the lines of a traceback together: they come one by one, and mean something only as one entry.

Pure: lines in, messages out. A traceback ends with the first line that is not indented, which names the
exception, unless another traceback is chained to it; so it is held until a line shows that it is over, or
until somebody who has waited long enough calls `flush`. That of a program with a syntax error has no
header, and begins with the place of the error.
"""

from __future__ import annotations

import re
from typing import Final

MAX_LINES: Final = 500  # a longer one comes in pieces

_HEADER: Final = "Traceback (most recent call last):"
_GROUP_HEADER: Final = "+ Exception Group Traceback (most recent call last):"
_is_syntax_error = re.compile(r'  File ".+", line [0-9]+').fullmatch
_CHAINS: Final = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)


class Tracebacks:
    """The lines of one stream.

    >>> lines = Tracebacks()
    >>> for line in ("Traceback (most recent call last):", "  ...", "ValueError: no"):
    ...     assert lines.add(line) == []
    >>> for text, is_traceback in lines.add("something else"):
    ...     print(is_traceback, text.split("\\n"))
    True ['Traceback (most recent call last):', '  ...', 'ValueError: no']
    False ['something else']
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._group = False  # an exception group: all of its lines are indented
        self._named = False  # the line with the exception was there
        self._after: list[str] = []  # lines behind it that may lead to a chained traceback

    @property
    def holds(self) -> bool:
        """True while a traceback is not over."""
        return bool(self._lines)

    def add(self, line: str) -> list[tuple[str, bool]]:
        """Take a line; return what is complete, and of each whether it is a traceback."""
        if not self._lines:
            if not self._begin(line):
                return [(line, False)]
            return []
        if self._named:
            return self._add_behind(line)
        if line.startswith(" ") or not line:
            self._lines.append(line)
        elif self._group:
            return [*self.flush(), *self.add(line)]
        else:
            self._lines.append(line)
            self._named = True
        return self.flush() if len(self._lines) >= MAX_LINES else []

    def flush(self) -> list[tuple[str, bool]]:
        """Return what is held, as it is."""
        lines, self._lines = self._lines, []
        after, self._after = self._after, []
        self._named = self._group = False
        if not lines:
            return []
        return [("\n".join(lines), True), *((line, False) for line in after)]

    def _begin(self, line: str) -> bool:
        text = line.strip()
        if text not in (_HEADER, _GROUP_HEADER) and not _is_syntax_error(line):
            return False
        self._group = text == _GROUP_HEADER
        self._lines.append(line)
        return True

    def _add_behind(self, line: str) -> list[tuple[str, bool]]:
        if not line or line in _CHAINS:
            self._after.append(line)
            return []
        if any(text in _CHAINS for text in self._after) and line.strip() in (_HEADER, _GROUP_HEADER):
            self._lines += self._after
            self._after = []
            self._named = False
            self._group = line.strip() == _GROUP_HEADER
            self._lines.append(line)
            return []
        return [*self.flush(), *self.add(line)]
