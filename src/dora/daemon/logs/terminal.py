"""Text for terminals, without characters that control them.

Names, statuses, errors, log lines and values come from nodes, other machines and files. Escape sequences in
them could set the title, write to the clipboard, overwrite lines or reorder text. On a terminal, these
characters are therefore shown as JSON escapes, ``\\u001b``, so what was JSON stays JSON. Pipes and files
get the text as it is.

Standard output and standard error of a command are a `Terminal`, see `dora.cli.process`; log entries, which
may have colours, go through `for_stream` where they are written.
"""

from __future__ import annotations

import io
import re
from typing import Final, TextIO

# C0 without tab and newline, DEL, C1; then the characters that embed, override or isolate a direction.
_UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_UNSAFE_OR_COLOUR: Final = re.compile(rf"\x1b\[[0-9;:]*m|{_UNSAFE.pattern}")


def visible(text: str, *, colours: bool = False) -> str:
    """Return text with control characters as escapes; newlines and tabs stay, and colours if wanted.

    >>> visible("title \\x1b]0;x\\x07, \\x1b[31mred\\x1b[0m")
    'title \\\\u001b]0;x\\\\u0007, \\\\u001b[31mred\\\\u001b[0m'
    >>> visible("title \\x1b]0;x\\x07, \\x1b[31mred\\x1b[0m", colours=True)
    'title \\\\u001b]0;x\\\\u0007, \\x1b[31mred\\x1b[0m'
    """
    if _UNSAFE.search(text) is None:
        return text
    return (_UNSAFE_OR_COLOUR if colours else _UNSAFE).sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    text = found[0]
    return text if len(text) > 1 else f"\\u{ord(text):04x}"


class Terminal(io.TextIOWrapper):
    """A standard stream that is a terminal; what is written to it is made `visible`."""

    def write(self, text: str, /) -> int:
        super().write(visible(text))
        return len(text)

    def control(self, sequence: str) -> None:
        """Write an escape sequence of dora's own."""
        super().write(sequence)


def for_stream(stream: TextIO, text: str) -> str:
    """Return log lines as they may be written to a stream: as they are unless it is a terminal."""
    return visible(text, colours=True) if stream.isatty() else text


def control(stream: TextIO, sequence: str) -> None:
    """Write an escape sequence of dora's own, such as a movement of the cursor."""
    if isinstance(stream, Terminal):
        stream.control(sequence)
    else:
        stream.write(sequence)
