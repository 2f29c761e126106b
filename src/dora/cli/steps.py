"""A replay step by step, with the keyboard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TextIO

from dora.node.replay_clock import WITHOUT_LIMIT, ReplayClock
from dora.recording.reader import RecordedMessage
from dora.wire.decode import PayloadError, decode_arrow

HELP = "step by step: Enter sends the next message, a number so many, c all the others, q stops"


class Steps:
    """Releases the messages of a replay as lines of input ask for it."""

    def __init__(
        self,
        messages: Iterator[RecordedMessage],
        clock: ReplayClock,
        *,
        tell: Callable[[str], None],
        stop: Callable[[], None],
    ) -> None:
        self._messages = messages
        self._clock = clock
        self._tell = tell
        self._stop = stop

    def start(self, lines: TextIO) -> None:
        """Read lines in a thread of its own, to the end of the input; after which all is released."""
        threading.Thread(target=self._read, args=(lines,), name="dora-steps", daemon=True).start()

    def _read(self, lines: TextIO) -> None:
        self._tell(HELP)
        for line in lines:
            if not self.take(line.strip().lower()):
                return
        self._clock.release(WITHOUT_LIMIT)

    def take(self, word: str) -> bool:
        """Do what a line says; False if there is nothing left to ask for."""
        if word in ("q", "quit"):
            self._stop()
            return False
        if word in ("c", "continue"):
            self._clock.release(WITHOUT_LIMIT)
            return False
        if word and not word.isdecimal():
            self._tell(HELP)
            return True
        for _ in range(int(word or 1)):
            recorded = next(self._messages, None)
            if recorded is None:
                self._tell("that was the last message")
                self._clock.release(WITHOUT_LIMIT)
                return False
            self._tell(self._shown(recorded))
            self._clock.release(recorded.time_ns)
        return True

    def _shown(self, recorded: RecordedMessage) -> str:
        seconds = (recorded.time_ns - self._clock.start_ns) / 1e9
        try:
            array = decode_arrow(recorded.message)
            what = f"{array.type}[{len(array):,}]"
        except (PayloadError, ValueError):
            what = f"{len(recorded.data):,} bytes"
        return f"{seconds:10.3f} s  {recorded.topic}  {what}"
