"""A node that knows the control protocol only. Imported by the scripts of fake nodes."""

from __future__ import annotations

import os
import socket

from dora._version import __version__
from dora.wire.framing import FrameBuffer, encode_frame
from dora.wire.node_config import Address, NodeConfig, decode_address
from dora.wire.node_protocol import (
    PROTOCOL_VERSION,
    Closing,
    InputsClosed,
    Ready,
    Register,
    Registered,
    Started,
    ToDaemon,
    ToNode,
    decode_to_node,
)


class Peer:
    config: NodeConfig

    def __init__(self, address: Address | None = None, *, dynamic: bool = False) -> None:
        self.address = address or decode_address(os.environ["DORA_NODE_CONFIG"])
        self._frames = FrameBuffer()
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self.address.socket)
        self.send(
            Register(
                node_id=self.address.node_id,
                pid=os.getpid(),
                version=__version__,
                protocol=PROTOCOL_VERSION,
                dynamic=dynamic,
                incarnation=self.address.incarnation,
            )
        )
        reply = self.receive()
        if not isinstance(reply, Registered):
            raise SystemExit(f"not registered: {reply}")
        self.config = reply.config
        self.send(Ready())
        reply = self.receive()
        if not isinstance(reply, Started):
            raise SystemExit(f"not started: {reply}")

    def send(self, message: ToDaemon) -> None:
        self.socket.sendall(encode_frame(message))

    def receive(self) -> ToNode | None:
        """Block for the next frame; None at the end of the connection."""
        while True:
            for body in self._frames:
                return decode_to_node(body)
            data = self.socket.recv(65536)
            if not data:
                return None
            self._frames.feed(data)

    def until_closed(self) -> None:
        """Print every frame until all inputs are closed."""
        left = {item.id for item in self.config.inputs}
        while left:
            frame = self.receive()
            print(frame, flush=True)
            if frame is None:
                return
            if isinstance(frame, InputsClosed):
                left -= set(frame.inputs)

    def until_stop(self) -> None:
        """Print every frame until there is one called ``Stop``."""
        while True:
            frame = self.receive()
            print(frame, flush=True)
            if frame is None or type(frame).__name__ == "StopFrame":
                return

    def close(self) -> None:
        self.send(Closing())
        self.socket.close()
