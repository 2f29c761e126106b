"""A process that sends: started by the tests of the engines, see `linking.Bench.start_sender`.

It prints the result, and ends in the way that the script is named after.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import msgspec
from linking import OutputPort, make_engine

from dora.errors import SharedMemoryFull
from dora.transport.board import Board
from dora.wire.node_config import OutputConfig

SMALL, LARGE = b"small", bytes(range(256)) * 4096


def main() -> None:
    script, place, config = sys.argv[1:]
    name, run_dir, prefix, board_path = json.loads(place)
    board = Board.open(board_path)
    if script == "fill" and name == "shm":  # in a /dev/shm of its own
        os.mkdir(f"/dev/shm/{prefix}links", 0o700)
    engine = make_engine(name, run_dir, prefix, board)
    output_port = OutputPort(msgspec.json.decode(config, type=OutputConfig), engine, board)
    if script == "fill":
        fill(output_port)
        return
    output_port.send(SMALL)
    output_port.send(LARGE)
    if script == "_exit":
        os._exit(0)
    if script == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if script == "raise":
        raise SystemExit("on purpose")
    if script == "close":
        engine.close()
        os._exit(0)
    assert script == "end", script


def fill(output_port: OutputPort) -> None:
    """Send ever larger messages into a small /dev/shm."""
    try:
        for exponent in range(10, 27):
            output_port.send(bytes(1 << exponent))
    except SharedMemoryFull as error:
        print(f"{1 << exponent} {error}")
    output_port.send(SMALL)
    print("alive")


if __name__ == "__main__":
    main()
