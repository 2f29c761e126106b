"""The board: one small shared file with the counters and flags of a running dataflow.

Every node of a dataflow and its daemon map the same file. It holds 64-byte lines (one cache line
each, so that two writers never share one) of eight unsigned 64-bit words. A word has exactly one
writer, except where noted; everyone may read. Because the words live outside the processes, the
numbers survive a SIGKILL of whoever wrote them: that is what makes an honest report possible.

==========  =====================  =========================================================
line        word                   meaning
==========  =====================  =========================================================
node        ``ASLEEP``             1 while the node waits on its doorbell
node        ``CONTROL``            changes when the node has to look at its control channel and at
                                   ``FLUSH`` of its sources (written by the daemon, and by
                                   senders that flush)
node        ``UNDECLARED``         messages sent to outputs that are not declared, and dropped
node        ``HEADS_UP``           1 while the node wants to be woken when something is sent to a node that
                                   sends to it (`dora.node.receive.prewake`)
node        ``STOPPED``            from when on (CLOCK_MONOTONIC, nanoseconds) a send of the node does not
                                   wait for a full queue, because the node was asked to stop; 0: it waits
                                   (daemon)
output      ``SENT``               messages sent so far = sequence number of the last one
output      ``CREDIT_WAITING``     1 while the sender waits for a back-pressured link
output      ``BEGUN``              ``SENT`` when the present process of the node began to send
output      ``FLUSH``              sequence number of the last message with ``flush: true``
output      ``TAPPED``             until when (CLOCK_MONOTONIC, nanoseconds) somebody looks at the output
                                   besides its links; every tap writes it, again and again, so that a
                                   killed one is forgotten by itself
output      ``BYTES``              bytes of the payloads sent through shared memory or the network
output      ``REWIRED``            how often its links have changed (daemon): a sender that sees a change
                                   looks what the daemon says about it
output      ``RECORDED``           number of the last message that a recorder took; its sender's memory is
                                   kept until then
link        ``RECEIVED``           messages that the receiver took out of the link
link        ``DROPPED``            messages that were lost on the link
link        ``FIRST``              sequence number before the first one meant for this link
link        ``STATE``              `UNCONNECTED`, `CONNECTED` or `CLOSED` (receiver; the daemon
                                   closes on behalf of a dead receiver)
link        ``PROBED``             the last probe that came through (receiver; Zenoh only)
link        ``SILENT``             1 while the input is closed because its ``input_timeout`` has passed
                                   (receiver; the daemon clears it for a dead receiver)
link        ``UNSENT``             messages that were not sent, because a queue of the output was full and
                                   the sending node was asked to stop (sender)
==========  =====================  =========================================================

Hence ``FIRST + RECEIVED + DROPPED`` is the last sequence number the receiver knows of, and what is
missing to ``SENT`` is still queued, or was left behind by a receiver that ended.
"""

from __future__ import annotations

import errno
import mmap
import os

from dora._ownership import UnsafeFile, open_own

WORDS = 8
LINE_BYTES = WORDS * 8

ASLEEP, CONTROL, UNDECLARED, HEADS_UP, STOPPED = 0, 1, 2, 3, 4
SENT, CREDIT_WAITING, BEGUN, FLUSH, TAPPED, BYTES, REWIRED, RECORDED = 0, 1, 2, 3, 4, 5, 6, 7
RECEIVED, DROPPED, FIRST, STATE, PROBED, SILENT, UNSENT = 0, 1, 2, 3, 4, 5, 6

UNCONNECTED, CONNECTED, CLOSED = 0, 1, 2

MAX_LINES = 1 << 16  # lines are never used again: so many nodes, outputs and links may come in a run


def _allocate(fd: int, lines: int) -> None:
    # Allocated, not only sized: a full tmpfs is an error here, not a SIGBUS later.
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

        It is as long as `MAX_LINES` need, but takes the memory of what is used.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            size = max(lines, MAX_LINES) * LINE_BYTES
            os.ftruncate(fd, size)
            _allocate(fd, lines)
            return cls(path, mmap.mmap(fd, size))
        finally:
            os.close(fd)

    def allocate(self, lines: int) -> None:
        """Make so many lines usable; raises ``OSError``, also where there is no room for them."""
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
