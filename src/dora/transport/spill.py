"""Spill files: messages to keep that a full queue would drop, in the directory of the run.

A queue drops its oldest message for a new one. If that belongs to an exchange (`dora.wire.correlation`), a
node would wait for it without end; and an input may `keep` others, such as a command to stop. So a sender
writes such a message to a file before it sends the message that pushes it out. A receiver that finds a gap
in the sequence numbers looks for files, and delivers each message in its place. While no queue is full
there are no files, and receivers do not look for any.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable

from dora.transport.board import CONNECTED, DROPPED, FIRST, RECEIVED, STATE, WORDS, Board
from dora.transport.interface import MAX_QUEUE, Receiver
from dora.wire.correlation import MAX_KEPT, kept_section
from dora.wire.message import Message, MessageError
from dora.wire.node_config import LinkConfig


def spill_folder(run_dir: str, slot: int) -> str:
    """Return the folder of a link's spill files."""
    return f"{run_dir}/spill-{slot}"


class SpillWriter:
    """Writes the spill files of one output. Used by one thread at a time."""

    def __init__(self, run_dir: str, board: Board) -> None:
        self._run_dir = run_dir
        self._words = board.words
        self._links: dict[int, _Link] = {}  # by slot
        # Messages that some link keeps, and that may not be received everywhere: number, metadata, message.
        self.pending: deque[tuple[int, bytes, bytes]] = deque()
        self._is_kept = kept_section(())

    def apply_links(self, links: Iterable[LinkConfig]) -> bool:
        """Take over the links of the output; return whether any of them may need files."""
        self._links = {
            link.slot: self._links.get(link.slot) or _Link(self._run_dir, link)
            for link in links
            if link.queue_policy != "backpressure" and not link.engine_queue_size
        }
        self._is_kept = kept_section({key for link in self._links.values() for key in link.keep})
        return bool(self._links)

    def before_send(self, sequence: int, control: bytes, message: bytes | Callable[[], bytes]) -> None:
        """Write what the message with this number pushes out; remember the message if it is kept."""
        if self.pending:
            if self.pending[-1][0] == sequence:  # there was no memory to send it, so its number is free
                self.pending.pop()
            self._write(sequence)
        if control and self._is_kept(control):
            self.pending.append((sequence, control, message if isinstance(message, bytes) else message()))

    def _write(self, sequence: int) -> None:
        words = self._words
        done = sequence
        for link in self._links.values():
            base = link.base
            if words[base + STATE] != CONNECTED:
                continue
            received = words[base + FIRST] + words[base + RECEIVED] + words[base + DROPPED]
            for number, section, message in self.pending:
                if number > sequence - link.queue_size:
                    break
                if number > max(received, link.written) and link.is_kept(section):
                    link.write(number, message, received)
            done = min(done, max(received, sequence - link.queue_size))
        while self.pending and self.pending[0][0] <= done:
            self.pending.popleft()


class _Link:
    def __init__(self, run_dir: str, link: LinkConfig) -> None:
        self.base = link.slot * WORDS
        self.queue_size = min(link.queue_size, MAX_QUEUE)
        self.keep = link.keep
        self.is_kept = kept_section(link.keep)
        self.written = 0  # the highest number of a file
        self._folder = spill_folder(run_dir, link.slot)
        self._files: deque[int] = deque()

    def write(self, number: int, message: bytes, received: int) -> None:
        """Write a file; without room for it, the message is dropped, like any other that is pushed out."""
        self.written = number
        files = self._files
        # Beyond `MAX_KEPT` the oldest file goes: a receiver that takes nothing must not fill the disk.
        while files and (files[0] <= received or len(files) >= MAX_KEPT):
            _remove(f"{self._folder}/{files.popleft()}")
        try:
            if not files:  # not the directory of the run: that may have been removed
                _make_folder(self._folder)
            with open(f"{self._folder}/{number}", "wb") as file:
                file.write(message)
        except OSError:
            _remove(f"{self._folder}/{number}")
        else:
            files.append(number)


def take_spilled(folder: str, after: int, before: int) -> deque[Message]:
    """Return the messages with numbers in between, and remove their files and older ones."""
    try:
        numbers = sorted(int(name) for name in os.listdir(folder) if name.isdecimal())
    except OSError:  # nothing was written
        return deque()
    messages: deque[Message] = deque()
    for number in numbers:
        if number >= before:
            break
        path = f"{folder}/{number}"
        if number > after:
            try:
                with open(path, "rb") as file:
                    messages.append(Message(file.read()))
            except (OSError, MessageError):
                pass  # the sender had no room for it, or has removed it
        _remove(path)
    return messages


def _make_folder(path: str) -> None:
    """Make a folder, unless it exists; raises ``OSError``."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:  # the other side has removed it
        pass


class ResumingReceiver:
    """A receiver that gives out some messages first, then another receiver's.

    ``over``: once there are no more of them, the other receiver can take its place.
    """

    over = True

    def __init__(self, first: deque[Message], receiver: Receiver) -> None:
        self.first = first
        self.receiver = receiver

    def receive(self) -> Message | None:
        return self.first.popleft() if self.first else self.receiver.receive()

    def has_messages(self) -> bool:
        return bool(self.first) or self.receiver.has_messages()

    def close(self) -> None:
        self.first.clear()
        self.receiver.close()
