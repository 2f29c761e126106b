"""A process that receives one message: started by the tests, see `linking.Bench.start_receiver`.

It ends in the way that the script is named after, while more messages arrive.
"""

from __future__ import annotations

import json
import os
import signal
import sys

import msgspec
from linking import InputPort, make_engine

from dora.transport.board import Board
from dora.wire.node_config import InputConfig


def main() -> None:
    script, place, config = sys.argv[1:]
    name, run_dir, prefix, board_path = json.loads(place)
    board = Board.open(board_path)
    engine = make_engine(name, run_dir, prefix, board)
    port = InputPort(msgspec.json.decode(config, type=InputConfig), engine)
    print("listening", flush=True)
    message = port.take()
    print(message.sequence, flush=True)
    if script == "kill":
        os.kill(os.getpid(), signal.SIGKILL)  # while it holds the message
    del message
    if script == "fork":
        child = os.fork()
        if child:
            os.waitpid(child, 0)
    elif script == "raise":
        raise SystemExit("on purpose")
    elif script == "close":
        port.receiver.close()
        engine.close()


if __name__ == "__main__":
    main()
