"""The engine of a node that has links inside its machine and with other machines.

Each link has its own engine: that of the machine for those inside, `dora.transport.remote` for the others.
An output that leads to both is encoded once and handed to both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ctypes import string_at

import zenoh

from dora.errors import SendError
from dora.transport.board import TAPPED, WORDS, Board
from dora.transport.interface import Engine, Loan, Receiver, Sender
from dora.transport.memory import AlignedMemory, keep_large_blocks
from dora.transport.remote import RemoteLinks, flushes, sequence_of
from dora.transport.remote_sender import RemoteSender
from dora.wire.control import InputConfig, NodeConfig, OutputConfig


class _Loan:
    """Memory of an output that nobody on this machine receives."""

    __slots__ = ("_memory", "_sender", "address", "size")

    def __init__(self, sender: SpanningSender, size: int) -> None:
        self._sender = sender
        self._memory = AlignedMemory(size)
        self.address = self._memory.address
        self.size = size

    def send(self) -> None:
        self._sender.put(self._memory.content())

    def discard(self) -> None:
        """Nothing to do: the memory goes with the last reference."""


class _SharedLoan:
    """Memory of the machine's engine, of which other machines get a copy."""

    __slots__ = ("_loan", "_sender", "address", "size")

    def __init__(self, sender: SpanningSender, loan: Loan) -> None:
        self._sender = sender
        self._loan = loan
        self.address = loan.address
        self.size = loan.size

    def send(self) -> None:
        copy = string_at(self.address, self.size)
        self._loan.send()
        self._sender.put(copy)

    def discard(self) -> None:
        self._loan.discard()


class SpanningSender:
    """The sending end of an output with links to other machines."""

    def __init__(
        self, output: OutputConfig, local: Sender, remote: list[RemoteSender], board: Board
    ) -> None:
        self._output_id = output.id
        self._local = local
        self._remote = remote
        self._has_local = any(not link.machine for link in output.links)
        self._words = board.words
        self._tapped_word = output.slot * WORDS + TAPPED

    def _is_local(self) -> bool:
        """Tell whether somebody on this machine receives, or looks."""
        if self._has_local:
            return True
        until = self._words[self._tapped_word]
        return until != 0 and until > time.monotonic_ns()

    def send(self, message: bytes) -> None:
        if self._is_local():
            self._local.send(message)
        self.put(message)

    def prepare(self) -> None:
        if self._has_local:
            self._local.prepare()

    def loan(self, size: int) -> Loan:
        if self._is_local():
            return _SharedLoan(self, self._local.loan(size))
        try:
            return _Loan(self, size)
        except MemoryError:
            raise SendError(f"output `{self._output_id}`: no memory for {size} bytes") from None

    def put(self, message: bytes | bytearray) -> None:
        """Send to the other machines only."""
        payload, size = zenoh.ZBytes(message), len(message)
        sequence, flush = sequence_of(message), flushes(message)
        for sender in self._remote:
            sender.put(payload, sequence, flush, size)

    def close(self) -> None:
        self._local.close()

    def destroy(self) -> None:
        self._local.destroy()


class SpanningEngine:
    """All ports of one node: the engine of the machine, and the links with other machines."""

    def __init__(self, engine: Engine, config: NodeConfig, board: Board) -> None:
        """Raises `ConnectError` where a mailbox cannot be reached."""
        keep_large_blocks()
        self._engine = engine
        self._board = board
        self._links = RemoteLinks(config, board)
        self.wakes = engine.wakes
        self.in_flight = engine.in_flight

    def sender(self, output: OutputConfig) -> Sender:
        local = self._engine.sender(output)
        remote = self._links.senders(output)
        return SpanningSender(output, local, remote, self._board) if remote else local

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> Receiver:
        if item.machine:
            return self._links.receiver(item, arrived)
        return self._engine.receiver(item, arrived)

    def connect(self, timeout: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        self._engine.connect(timeout, interrupted)
        self._links.connect(timeout, interrupted)

    def close(self) -> None:
        self._links.close()
        self._engine.close()
