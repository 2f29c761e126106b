"""The engine of a node with links inside its machine and with other machines.

Links inside the machine use the engine of the machine, the others use `dora.transport.network.links`. A
message of an output with both kinds of links is encoded once.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dora.transport.aligned_memory import MemoryLoan, keep_large_blocks
from dora.transport.board import TAPPED, WORDS, Board
from dora.transport.interface import Engine, Loan, Receiver, Sender
from dora.transport.network.fragments import FragmentedMessage
from dora.transport.network.links import RemoteLinks
from dora.transport.network.protocol import flags_of
from dora.transport.network.sender import RemoteSender
from dora.wire.message import sequence_of
from dora.wire.node_config import InputConfig, LinkConfig, NodeConfig, OutputConfig


class _SharedLoan:
    """Memory of the engine of the machine; other machines get a copy."""

    __slots__ = ("_loan", "_sender", "address", "memory", "size")

    def __init__(self, sender: RemoteChannel, loan: Loan) -> None:
        self._sender = sender
        self._loan = loan
        self.address = loan.address
        self.memory = loan.memory
        self.size = loan.size

    def send(self, control: bytes = b"") -> None:
        copy = self.memory[: self.size].tobytes()
        self._loan.send()
        self._sender.put(copy, control)

    def discard(self) -> None:
        self._loan.discard()


class RemoteChannel:
    """Sends the messages of one output to other machines.

    For an output that had no such links at first, it is an overflow channel (`dora.node.send.output`).
    """

    def __init__(self, output_id: str, senders: list[RemoteSender]) -> None:
        self._output_id = output_id
        self._senders = senders

    def add(self, sender: RemoteSender) -> None:
        """Add a link; another thread may be sending."""
        self._senders = [*self._senders, sender]

    def remove(self, slot: int) -> None:
        """Remove a link."""
        self._senders = [sender for sender in self._senders if sender.link.slot != slot]

    @property
    def is_needed(self) -> bool:
        return bool(self._senders)

    def put(self, message: bytes | bytearray, control: bytes = b"") -> None:
        outgoing, size = FragmentedMessage(message), len(message)
        sequence = sequence_of(message)
        for sender in self._senders:
            sender.put(outgoing, sequence, flags_of(control, sender.is_kept) if control else 0, size)
        outgoing.detach()

    send = put

    def prepare(self) -> None:
        """Nothing to prepare."""

    def loan(self, size: int) -> Loan:
        return MemoryLoan(self._output_id, size, self.put)

    def close(self) -> None:
        """Nothing to do: the engine waits until all messages have arrived."""

    destroy = close


class CompositeSender:
    """The sending end of an output with links to other machines."""

    def __init__(
        self, output: OutputConfig, local: Sender, remote: list[RemoteSender], board: Board
    ) -> None:
        self._local = local
        self._remote = RemoteChannel(output.id, remote)
        self._output = output
        self._links: list[LinkConfig] = []  # that `_has_local_links` was computed for
        self._has_local_links = False
        self._words = board.words
        self._tapped_word = output.slot * WORDS + TAPPED

    @property
    def remote_channel(self) -> RemoteChannel:
        """The links to other machines."""
        return self._remote

    def _has_local(self) -> bool:
        """Return whether a link leads inside this machine; a change of links replaces the list."""
        links = self._output.links
        if links is not self._links:
            self._has_local_links = any(not link.machine for link in links)
            self._links = links
        return self._has_local_links

    def _is_local(self) -> bool:
        """Return whether a receiver or a tap on this machine needs the message."""
        if self._has_local():
            return True
        until = self._words[self._tapped_word]
        return until != 0 and until > time.monotonic_ns()

    def send(self, message: bytes, control: bytes = b"") -> None:
        if self._is_local():
            self._local.send(message)
        self._remote.put(message, control)

    def prepare(self) -> None:
        if self._has_local():
            self._local.prepare()

    def loan(self, size: int) -> Loan:
        if self._is_local():
            return _SharedLoan(self._remote, self._local.loan(size))
        return self._remote.loan(size)

    def close(self) -> None:
        self._local.close()

    def destroy(self) -> None:
        self._local.destroy()


class CompositeEngine:
    """All ports of one node: those of the machine's engine, and those of links with other machines."""

    def __init__(self, engine: Engine, config: NodeConfig, board: Board) -> None:
        """Wrap the engine of the machine."""
        keep_large_blocks()
        self._engine = engine
        self._board = board
        self._links = RemoteLinks(config, board)
        self._channels: dict[str, RemoteChannel] = {}  # by output
        # Outputs whose first link to another machine was added while the node ran.
        self._late: set[str] = set()
        self.wakes = engine.wakes
        self.in_flight = engine.in_flight

    def sender(self, output: OutputConfig) -> Sender:
        local = self._engine.sender(output)
        remote = self._links.senders(output)
        if not remote:
            return local
        sender = CompositeSender(output, local, remote, self._board)
        self._channels[output.id] = sender.remote_channel
        return sender

    def add_link(self, output: OutputConfig, link: LinkConfig) -> RemoteChannel | None:
        """Add a link to another machine; return the channel if it is the first one of the output.

        Raises `ConnectError`, `TransportError`.
        """
        sender = self._links.sender(output, link)
        if (channel := self._channels.get(output.id)) is not None:
            channel.add(sender)
            return None
        channel = self._channels[output.id] = RemoteChannel(output.id, [sender])
        self._late.add(output.id)
        return channel

    def remove_link(self, output_id: str, slot: int) -> bool:
        """Remove a link to another machine; return whether the output's channel went with it."""
        channel = self._channels.get(output_id)
        if channel is not None:
            channel.remove(slot)
        self._links.remove(slot)
        if channel is None or output_id not in self._late or channel.is_needed:
            return False
        del self._channels[output_id]
        self._late.discard(output_id)
        return True

    def start_links(self) -> None:
        """Start to accept links with other machines in a node that runs already."""
        self._links.connect(0.0, lambda: True)

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
