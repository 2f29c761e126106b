"""The board: one small shared file with the counters and flags of a running dataflow.

Every node of a dataflow and its daemon map the same file. It consists of 256-byte lines (four cache lines
each, so that two writers never share one) of 32 unsigned 64-bit words; what changes with every message is
in the first eight. A word has exactly one writer, except where the table says otherwise; every process may
read. The words live outside the processes, so the counters survive a SIGKILL of their writer.

==========  =====================  =========================================================
line        word                   meaning
==========  =====================  =========================================================
node        ``ASLEEP``             1 while the node waits on its doorbell
node        ``CONTROL``            changes when the node has to read its control channel and ``FLUSH`` of
                                   its sources (written by the daemon, and by senders that flush)
node        ``PREWAKE``            1 while the node wants to be woken when something is sent to a node that
                                   sends to it (`dora.node.receive.staying_awake`)
node        ``STOPPED``            the time (CLOCK_MONOTONIC, nanoseconds) from which a send of the node
                                   does not wait for a full queue, because the node was asked to stop; 0: it
                                   waits (daemon)
node                               the counters of `dora.wire.counters` (the node or the daemon)
output      ``SENT``               messages sent so far = sequence number of the last one
output      ``CREDIT_WAITING``     1 while the sender waits for a back-pressured link
output      ``BEGUN``              ``SENT`` when the current process of the node started to send
output      ``FLUSH``              sequence number of the last message with ``flush: true``
output      ``TAPPED``             the end (CLOCK_MONOTONIC, nanoseconds) of the lease of the output's taps;
                                   every tap renews it, so the lease of a killed one expires
output      ``BYTES``              bytes of the payloads sent through shared memory or the network
output      ``LINKS_VERSION``      how often its links have changed (daemon); a sender that sees a change
                                   reads its control channel
output      ``RECORDED``           number of the last message that a recorder took; the memory of the sender
                                   is kept until the recorder has taken everything
output      ``CLOCK_OFFSET``       of another machine's output: nanoseconds by which the clock of this
                                   machine is ahead of that one, see `signed` (daemon)
output      ``CLOCK_ERROR``        by how much that may be wrong (daemon)
output      ``FORWARDED``          number of the last message that the gateway has passed on: that all other
                                   machines have, or, of another machine's output, that it has sent here
output      ``FINAL``              of another machine's output: ``SENT`` there when it was closed, or when
                                   the dataflow was changed last: messages up to this number may still come
                                   (daemon)
output      ``BYPASS``             changes with the connection on which the node sends to another machine
                                   itself (`dora.transport.bypass`); 0: there is none (gateway)
output      ``BYPASSED``           number of the last message that the node has sent there
link        ``RECEIVED``           messages that the receiver took from the link
link        ``DROPPED``            messages that were lost on the link
link        ``FIRST``              sequence number before the first one meant for this link
link        ``STATE``              `UNCONNECTED`, `CONNECTED` or `CLOSED` (receiver; the daemon
                                   closes on behalf of a dead receiver)
link        ``REPEATED``           messages of a latched output that the receiver got again after a restart;
                                   not among ``RECEIVED``, and not among ``SENT`` (receiver)
link                               the counters and flags of `dora.wire.counters` (receiver; ``unsent``:
                                   sender)
network                            the figures of `dora.wire.counters` (gateway); a line for each machine
stream                             likewise, for each output and machine that it goes to
==========  =====================  =========================================================

The line of a link to another machine has ``STATE`` and ``RECEIVED`` only, from the gateway: the latter is
the number of the last message that the receiver has taken or counted as lost.

``FIRST + RECEIVED + DROPPED`` is the last sequence number that the receiver knows of. The messages from
there to ``SENT`` are still queued, or were left unread by a receiver that ended.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable, Mapping

from dora._ownership import UnsafeFile, open_own
from dora.wire.counters import (
    LEFT_OUT,
    LINK_COUNTERS,
    LINK_FLAGS,
    NODE_COUNTERS,
    NetworkFigure,
    StreamFigure,
)

WORDS = 32
LINE_BYTES = WORDS * 8

ASLEEP, CONTROL, PREWAKE, STOPPED = 0, 1, 3, 4
SENT, CREDIT_WAITING, BEGUN, FLUSH, TAPPED, BYTES, LINKS_VERSION, RECORDED = 0, 1, 2, 3, 4, 5, 6, 7
CLOCK_OFFSET, CLOCK_ERROR, FORWARDED, BYPASS, BYPASSED, FINAL = 8, 9, 10, 11, 16, 17
RECEIVED, DROPPED, FIRST, STATE, REPEATED = 0, 1, 2, 3, 12

UNCONNECTED, CONNECTED, CLOSED = 0, 1, 2

MAX_LINES = 1 << 16  # no line is used twice, so this bounds the nodes, outputs and links of a run


def signed(word: int) -> int:
    """Return the number of a word that may be negative.

    >>> signed(5), signed(2**64 - 5)
    (5, -5)
    """
    return word - (1 << 64) if word >> 63 else word


def last_sent(words: memoryview, slot: int) -> int:
    """Return the number of the last message of an output, also if it still has to come from its machine."""
    base = slot * WORDS
    return max(words[base + SENT], words[base + FINAL])


def node_counts(words: memoryview, slot: int) -> dict[str, int]:
    """Return the counters of a node that are not 0, by name."""
    base = slot * WORDS
    return {counter.name: count for counter in NODE_COUNTERS if (count := words[base + counter.word])}


def link_counts(words: memoryview, slot: int) -> dict[str, int]:
    """Return the counters of a link that are not 0, by name.

    Read them before the words of which they are a part, so that no part is larger than the whole.
    """
    base = slot * WORDS
    return {counter.name: count for counter in LINK_COUNTERS if (count := words[base + counter.word])}


def link_flags(words: memoryview, slot: int) -> tuple[str, ...]:
    """Return the names of the flags of a link that are set, the one that counts first."""
    base = slot * WORDS
    return tuple(flag.name for flag in LINK_FLAGS if words[base + flag.word])


def figures_of(
    words: memoryview, slot: int, table: Iterable[NetworkFigure | StreamFigure]
) -> dict[str, int]:
    """Return the figures of a network, or of an output on one, that are not 0, by name."""
    base = slot * WORDS
    return {figure.name: value for figure in table if (value := words[base + figure.word])}


def delivered(words: memoryview, slot: int, counts: Mapping[str, int]) -> int:
    """Return how many messages of a link the program got, or will get; ``counts`` are its `link_counts`."""
    base = slot * WORDS
    left_out = sum(counts.get(counter.name, 0) for counter in LEFT_OUT)
    return max(0, words[base + RECEIVED] + words[base + REPEATED] - left_out)


def _allocate(fd: int, lines: int) -> None:
    # Allocate, not only size: a full tmpfs then is an error here, not a SIGBUS later.
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, max(lines, 1) * LINE_BYTES)


class Board:
    """The mapped board. ``words[slot * WORDS + NAME]`` reads or writes one word.

    ``words`` is a plain ``memoryview`` of unsigned 64-bit integers, because it is used for every
    message: an index operation costs about 30 ns, a method call three times as much.
    """

    def __init__(self, path: str, mapping: mmap.mmap) -> None:
        self.path = path
        self._mapping = mapping
        self.words = memoryview(mapping).cast("Q")

    @classmethod
    def create(cls, path: str, lines: int) -> Board:
        """Create the file with ``lines`` zeroed lines; raises ``FileExistsError``, ``OSError``.

        The file has the length of `MAX_LINES` lines, but takes memory only for those that are used.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # All lines from the start: lines are added while processes have the file mapped.
            size = max(lines, MAX_LINES) * LINE_BYTES
            os.ftruncate(fd, size)
            _allocate(fd, lines)
            return cls(path, mmap.mmap(fd, size))
        finally:
            os.close(fd)

    def allocate(self, lines: int) -> None:
        """Allocate memory up to this number of lines; raises ``OSError`` if there is no room."""
        if lines > len(self.words) // WORDS:
            raise OSError(errno.ENOSPC, f"a board has {len(self.words) // WORDS} lines")
        fd = open_own(self.path, os.O_RDWR)
        try:
            _allocate(fd, lines)
        finally:
            os.close(fd)

    @classmethod
    def open(cls, path: str) -> Board:
        """Map an existing board; raises ``FileNotFoundError``, `UnsafeFile` if it is not this user's."""
        fd = open_own(path, os.O_RDWR)
        try:
            size = os.fstat(fd).st_size
            if size < MAX_LINES * LINE_BYTES or size % LINE_BYTES:
                raise UnsafeFile(f"{path} is not the board of a dataflow: it has {size} bytes")
            return cls(path, mmap.mmap(fd, size))
        finally:
            os.close(fd)

    def get(self, slot: int, word: int) -> int:
        return self.words[slot * WORDS + word]

    def set(self, slot: int, word: int, value: int) -> None:
        self.words[slot * WORDS + word] = value

    def close(self) -> None:
        """Unmap; the file stays until its owner removes it."""
        self.words.release()
        self._mapping.close()
