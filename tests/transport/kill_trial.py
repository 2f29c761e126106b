"""Processes that send and receive until they are killed, for `test_shm_kills`.

A message is a run of one byte, its number modulo 251, so torn or reused memory shows.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import Any

import msgspec
from linking import OutputPort, make_engine

from dora.transport.board import Board
from dora.wire.decode import decode_bytes, decode_numpy
from dora.wire.node_config import InputConfig, OutputConfig

SIZES = (10, 3000, 9000, 70_000, 300_000)  # copied on arrival, and held
_KEPT = 5  # messages that a receiver holds


def body(number: int) -> bytes:
    return bytes([number % 251]) * SIZES[number % len(SIZES)]


def send(place: list[str], config: str) -> None:
    board = Board.open(place[4])
    engine = make_engine(*place[:4], board)
    port = OutputPort(msgspec.json.decode(config, type=OutputConfig), engine, board)
    print("ready", flush=True)
    while True:
        for _ in range(20):
            port.send(body(port.board.get(port.config.slot, 0) + 1))
        time.sleep(0.0002)


def receive(place: list[str], config: str) -> None:
    board = Board.open(place[4])
    engine = make_engine(*place[:4], board)
    receiver = engine.receiver(msgspec.json.decode(config, type=InputConfig), lambda: None)
    print("ready", flush=True)
    kept: deque[tuple[int, Any]] = deque()
    last = 0
    while True:
        message = receiver.receive()
        if message is None:
            time.sleep(0.0002)
            continue
        number = message.sequence
        assert number > last, f"{number} after {last}"
        last = number
        assert decode_bytes(message) == body(number), f"message {number} is damaged"
        kept.append((number, decode_numpy(message)))
        if len(kept) > _KEPT:
            former, array = kept.popleft()
            assert array.tobytes() == body(former), f"message {former} was written while it was held"


if __name__ == "__main__":
    {"send": send, "receive": receive}[sys.argv[1]](json.loads(sys.argv[2]), sys.argv[3])
