"""A cable that is slow or bad: carries frames between two network interfaces (descriptors of TAP devices).

Reads lines ``delay loss jitter rate queue in_order behind_nat`` (seconds, share, seconds, bit/s with 0 for
any, bytes, 0 or 1, 0 or 1) from its standard input, and ends with it. In each direction, frames leave one
after the other at the rate; those that wait for it are in a queue, and what does not fit is lost, as in a
router. Each frame takes up to ``jitter`` longer than ``delay``, so frames overtake each other, unless they
are kept ``in_order``, as Wi-Fi does. With ``behind_nat`` nobody can begin a connection to the left.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import sys
import time

MAX_FRAMES = 20_000  # on the way; what comes then is lost, as in a switch


def carry(left: int, right: int) -> None:
    """Carry frames between two descriptors until the end of the standard input."""
    delay = loss = jitter = rate = 0.0
    queue = in_order = behind_nat = 0.0
    chance = random.Random(1)
    waiting: list[tuple[float, int, int, bytes]] = []  # due, order, where to, frame
    order = 0
    other = {left: right, right: left}
    free_at = {left: 0.0, right: 0.0}  # when the last frame from there has left
    last_due = {left: 0.0, right: 0.0}  # when it arrives
    for descriptor in other:
        os.set_blocking(descriptor, False)
    while True:
        pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([0, left, right], [], [], pause)
        if 0 in readable:
            line = os.read(0, 4096)
            if not line:
                return
            numbers = map(float, line.decode().splitlines()[-1].split())
            delay, loss, jitter, rate, queue, in_order, behind_nat = numbers
        for descriptor in (left, right):
            while descriptor in readable:
                try:
                    frame = os.read(descriptor, 65536)
                except OSError:  # nothing more, or the interface is down
                    break
                if len(waiting) >= MAX_FRAMES or (loss and chance.random() < loss):
                    continue
                if behind_nat and descriptor == right and _begins_connection(frame):
                    continue
                due = now = time.monotonic()
                if rate:
                    begins = max(free_at[descriptor], now)
                    if (begins - now) * rate / 8 + len(frame) > queue:
                        continue
                    due = free_at[descriptor] = begins + len(frame) * 8 / rate
                order += 1
                due += delay + jitter * chance.random()
                if in_order:
                    due = last_due[descriptor] = max(due, last_due[descriptor])
                heapq.heappush(waiting, (due, order, other[descriptor], frame))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, descriptor, frame = heapq.heappop(waiting)
            try:
                os.write(descriptor, frame)
            except OSError:
                pass  # the interface is down: lost


def _begins_connection(frame: bytes) -> bool:
    """Return whether a frame has the first packet of a TCP connection over IPv4: SYN without ACK."""
    if frame[12:14] != b"\x08\x00" or frame[23] != 6:
        return False
    flags = frame[14 + 4 * (frame[14] & 15) + 13]
    return flags & 0x12 == 0x02


if __name__ == "__main__":
    carry(int(sys.argv[1]), int(sys.argv[2]))
