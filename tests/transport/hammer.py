"""Two processes that count in turns and sleep in between, like nodes with `dora.transport.doorbell`."""

from __future__ import annotations

import sys
import time

from linking import LIMIT

from dora.transport.board import ASLEEP, Board
from dora.transport.doorbell import Bell, Doorbell
from dora.transport.fence import FENCED, fence

NUMBER = 1  # the word of a player's line that it counts in
LAST = 2  # the word of the first player's line with the number that ends the game
LONG_ENOUGH = 30.0  # seconds; on a busy machine it ends early


def play(directory: str, mine: int) -> int:
    """Count to the last number, as player 0, who begins, or 1, who follows; return how often it slept."""
    other = 1 - mine
    board = Board.open(f"{directory}/board")
    end = time.monotonic() + LONG_ENOUGH
    doorbell, bell = Doorbell(f"{directory}/bell-{mine}"), Bell(f"{directory}/bell-{other}")
    slept = number = 0
    while number < board.get(0, LAST):
        number += 1
        awaited = number - 1 + mine
        while board.get(other, NUMBER) < awaited:
            board.set(mine, ASLEEP, 1)
            fence()
            if board.get(other, NUMBER) < awaited:
                slept += 1
                start = time.monotonic()
                doorbell.wait(LIMIT)
                if time.monotonic() - start >= LIMIT:
                    raise AssertionError(f"nobody rang for number {awaited}")
            board.set(mine, ASLEEP, 0)
        if mine == 0 and time.monotonic() > end:
            board.set(0, LAST, number)
        board.set(mine, NUMBER, number)
        fence()
        if not FENCED or board.get(other, ASLEEP):
            bell.ring()
    while board.get(other, NUMBER) < number:
        time.sleep(0.001)
    doorbell.close()
    board.close()
    return slept


if __name__ == "__main__":
    play(sys.argv[1], 1)
