"""Write text to a stream without being stuck in it: whoever reads it may be slow, or have stopped.

A write to a full pipe or a stopped terminal does not return, and Python cannot end while a thread sits in
one, holding the lock of `sys.stdout`. So nothing is written to a file descriptor before it takes something.
"""

from __future__ import annotations

import io
import os
import select
from collections.abc import Callable
from typing import Final, TextIO

from dora.cli.terminal import control, for_stream

_PIECE: Final = 4096  # bytes that a descriptor which takes something takes at once: PIPE_BUF
_LOOK: Final = 0.2  # seconds between looks whether to go on


class NonBlockingStream:
    """Where text goes. ``taken`` counts the pieces that the stream took so far."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.taken = 0

    def write(self, text: str, go_on: Callable[[], bool]) -> bool:
        """Write text at once, as long as ``go_on()``; tells whether all of it is written.

        Raises ``OSError`` or ``ValueError`` if the stream takes no more. Characters that it cannot encode
        are replaced, not refused. On a terminal, control characters are shown; see `dora.cli.terminal`.
        """
        text = for_stream(self._stream, text)
        descriptor = _descriptor(self._stream)
        if descriptor is None:
            write_text(self._stream, text)
            self.taken += 1
            return True
        self._stream.flush()  # what others wrote comes before
        data = memoryview(text.encode(self._stream.encoding, "backslashreplace"))
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while data:
            if not poll.poll(_LOOK * 1000):
                if not go_on():
                    return False
                continue
            try:
                data = data[os.write(descriptor, data[:_PIECE]) :]
            except BlockingIOError:  # another program has made our terminal non-blocking
                continue
            self.taken += 1
        return True


def _descriptor(stream: TextIO) -> int | None:
    """Return the file descriptor behind a stream; None if it is something else, a notebook's say."""
    if not isinstance(stream, io.TextIOWrapper):
        return None
    try:
        return stream.fileno()
    except OSError:
        return None


def write_text(stream: TextIO, text: str) -> None:
    """Write text at once; characters that the stream cannot encode are replaced, not refused.

    On a terminal, control characters are shown, except for colours.
    """
    text = for_stream(stream, text)
    try:
        control(stream, text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        control(stream, text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
