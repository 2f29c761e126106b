"""A daemon that another user has planted: it names a board of its own, and writes down who says what.

Started as ``python planted_daemon.py RUN_DIR BOARD HEARD``; it says "ready" and ends when it is killed.
"""

from __future__ import annotations

import os
import socket
import sys

from dora.wire.daemon_protocol import (
    DescribeDataflow,
    Description,
    Inspect,
    Inspection,
    NodeView,
    Ok,
    OutputView,
    decode_to_daemon,
)
from dora.wire.framing import FrameBuffer, encode_frame
from dora.wire.node_protocol import Register

ESCAPES = "\x1b]0;owned\x07\x1b]52;c;b3duZWQ=\x07\x1b[2J"


def answer(message: object, run_dir: str, board: str) -> object:
    match message:
        case DescribeDataflow():
            return Description("01900000-0000-7000-8000-0123456789ab", "/flow.yml", ["camera"])
        case Inspect():
            nodes = [NodeView("camera", f"running{ESCAPES}", outputs=[OutputView("image", 0, "image")])]
            return Inspection(
                *("01900000-0000-7000-8000-0123456789ab", "/flow.yml", "iceoryx2"),
                *(run_dir, "dora_0123456789ab_", board),
                *(nodes, []),
            )
        case _:
            return Ok()


def main(run_dir: str, board: str, heard: str) -> None:
    os.umask(0)
    os.makedirs(run_dir, 0o777, exist_ok=True)
    with open(board, "wb") as file:
        file.write(bytes(64 << 16))
    with open(f"{run_dir}/lock", "w") as file:
        file.write("01900000-0000-7000-8000-0123456789ab")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(f"{run_dir}/daemon.sock")
    server.listen()
    with open(heard, "w", buffering=1) as log:
        print("ready", flush=True)
        while True:
            peer, _ = server.accept()
            frames = FrameBuffer()
            while data := peer.recv(1 << 16):
                frames.feed(data)
                for body in frames:
                    message = decode_to_daemon(body)
                    log.write(f"{type(message).__name__}\n")
                    if not isinstance(message, Register):
                        peer.sendall(encode_frame(answer(message, run_dir, board)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
