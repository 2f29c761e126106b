"""Processes that send, receive, tap and clean up until they are killed, for `test_shm_kills`.

A message is a run of one byte, its number modulo 251, so torn or reused memory shows. A receiver counts on
the board, with the code of the product. Besides it marks each message that its program has in a ledger: a
file with a byte for each number.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from linking import OutputPort, make_engine

from dora.node.events import Input
from dora.node.receive.link_input import LinkInput
from dora.transport.board import SENT, Board
from dora.transport.shm.channel import remove_dead_processes
from dora.transport.taps import open_taps
from dora.wire.daemon_protocol import Inspection, OutputView
from dora.wire.decode import decode_bytes, decode_numpy
from dora.wire.message import Message
from dora.wire.node_config import InputConfig, OutputConfig

SIZES = (10, 3000, 9000, 70_000, 300_000)  # copied on arrival, and held
LEDGER = 1 << 26  # numbers
_KEPT = 5  # messages that a receiver holds


def body(number: int) -> bytes:
    return bytes([number % 251]) * SIZES[number % len(SIZES)]


def open_ledger(path: str) -> mmap.mmap:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(fd, LEDGER)
        return mmap.mmap(fd, LEDGER)
    finally:
        os.close(fd)


def send(place: list[str], config: str) -> None:
    board = Board.open(place[3])
    engine = make_engine(*place[:3], board)
    port = OutputPort(msgspec.json.decode(config, type=OutputConfig), engine, board)
    print("ready", flush=True)
    while True:
        for _ in range(20):
            port.send(body(port.board.get(port.config.slot, SENT) + 1))
        time.sleep(0.0002)


def receive(place: list[str], config: str) -> None:
    board = Board.open(place[3])
    item = msgspec.json.decode(config, type=InputConfig)
    ledger = open_ledger(f"{place[1]}/ledger-{item.slot}")
    engine = make_engine(*place[:3], board)
    receiver = engine.receiver(item, lambda: None)
    link = LinkInput(item, receiver, board, joins_late=False)
    print("ready", flush=True)
    check = checker(ledger)
    while True:
        event = link.poll()
        if event is None:
            time.sleep(0.0002)
        else:
            assert isinstance(event, Input)
            check(event._content)


def checker(ledger: mmap.mmap | None) -> Callable[[Any], None]:
    """Return a function that checks the messages of one process, and holds some of them."""
    kept: deque[tuple[int, Any]] = deque()
    last = 0

    def check(message: Message) -> None:
        nonlocal last
        number = message.sequence
        assert number > last, f"{number} after {last}"
        last = number
        if ledger is not None:
            ledger[number] += 1
        assert decode_bytes(message) == body(number), f"message {number} is damaged"
        kept.append((number, decode_numpy(message)))
        if len(kept) > _KEPT:
            former, array = kept.popleft()
            assert array.tobytes() == body(former), f"message {former} was written while it was held"

    return check


def tap(place: list[str], config: str) -> None:
    output = msgspec.json.decode(config, type=OutputConfig)
    inspection = Inspection("0190-test", "", "shm", place[1], place[2], place[3], [], [])
    view = OutputView(output.id, output.slot, output.service, max_queue_size=output.max_queue_size)
    print("ready", flush=True)
    while True:  # observers come and go
        taps = open_taps(inspection)
        one, check = taps.tap(view, 10), checker(None)
        until = time.monotonic() + 0.05
        while time.monotonic() < until:
            message = one.receive()
            if message is None:
                time.sleep(0.0002)
            else:
                check(message)
        taps.close()


def clean(place: list[str], _: str) -> None:
    """Clean up after the dead, as a daemon does."""
    print("ready", flush=True)
    while True:
        remove_dead_processes(place[2])
        time.sleep(0.001)


ROLES = {"send": send, "receive": receive, "tap": tap, "clean": clean}

if __name__ == "__main__":
    ROLES[sys.argv[1]](json.loads(sys.argv[2]), sys.argv[3])
