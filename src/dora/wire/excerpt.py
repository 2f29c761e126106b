"""Find the lines of a node's output that explain its failure."""

from __future__ import annotations

import re
from collections.abc import Sequence

LINES_KEPT = 500  # per node
MAX_LINES = 60
TAIL = 10

_TRACEBACK = "Traceback (most recent call last)"
_PLACE = re.compile(r'\s*File "(?P<file>[^"]+)", line (?P<line>\d+)')
_LIBRARIES = ("site-packages", "dist-packages", "/lib/python", "<frozen")
_MARKS = ("Error:", "panicked at", "Exception:", "error:")


def failure_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the last traceback, else the lines from the last error on, else the last `TAIL` lines.

    A traceback that was raised during the handling of another comes with that one. An error comes
    with the indented lines before it, which name file and line of a syntax error.

    >>> failure_lines(["starting", "Traceback (most recent call last):", "  ...", "ValueError: no"])
    ('Traceback (most recent call last):', '  ...', 'ValueError: no')
    """
    starts = [index for index, line in enumerate(lines) if _TRACEBACK in line]
    if starts:
        start = starts[-1]
        for earlier in reversed(starts[:-1]):
            between = lines[earlier:start]
            if not any("another exception occurred" in line or "direct cause" in line for line in between):
                break
            start = earlier
        excerpt = tuple(lines[start:])
        if len(excerpt) > MAX_LINES:
            half = MAX_LINES // 2  # both ends stay: the first call, and the error itself
            excerpt = (*excerpt[:half], f"… ({len(excerpt) - 2 * half} lines left out)", *excerpt[-half:])
        return excerpt
    for index in range(len(lines) - 1, -1, -1):
        if any(mark in lines[index] for mark in _MARKS):
            start = index
            while start > max(0, index - TAIL) and lines[start - 1].startswith(" "):
                start -= 1
            return tuple(lines[start:][:MAX_LINES])
    return tuple(lines[-TAIL:])


def error_line(lines: Sequence[str]) -> str:
    """Return the error of a traceback and its place in the user's own code; "" if there is none.

    >>> error_line(['  File "/home/me/node.py", line 3, in <module>', "    x", "NameError: no x"])
    'NameError: no x (/home/me/node.py:3)'
    """
    excerpt = failure_lines(lines)
    message = next((line.strip() for line in reversed(excerpt) if line and not line.startswith(" ")), "")
    places = [found for line in excerpt if (found := _PLACE.match(line))]
    own = [place for place in places if not any(part in place["file"] for part in _LIBRARIES)]
    if not (own or places):
        return message
    place = (own or places)[-1]
    return f"{message} ({place['file']}:{place['line']})"
