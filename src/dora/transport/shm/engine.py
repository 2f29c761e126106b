"""The engine for processes of one machine: links through shared memory, in Python.

Each sender has a pool of memory (`dora.transport.shm.pool`), and for each receiver a ring
(`dora.transport.shm.ring`) through which it passes blocks of that memory. A message is written once,
however many receivers it has. `dora.transport.shm.channel` says which files there are, and how both sides
find each other.

A sender alone keeps account of its blocks. A process that dies leaves its files: receivers read what it has
sent, and the daemon removes the files then (`remove_dead_processes`).
"""

from __future__ import annotations

import itertools
import logging
import os
import struct
from collections.abc import Callable
from typing import Final

from dora._ownership import UnsafeFile, open_own
from dora.errors import SharedMemoryFull, TransportError
from dora.transport.board import SENT, WORDS, Board
from dora.transport.forking import disown_after_fork, refuse
from dora.transport.interface import MAX_QUEUE, BadMessages, Receiver
from dora.transport.queues import SpilloverQueue, who_keeps
from dora.transport.shm import support
from dora.transport.shm.channel import (
    TAP,
    Channel,
    Presence,
    is_dead,
    links_folder,
    make_folder,
    setup_failed,
)
from dora.transport.shm.mapping import Mapping, attach, libc, make
from dora.transport.shm.pool import SMALL, Block, Pool
from dora.transport.shm.ring import (
    BLOCK,
    MAX_HELD,
    RingReader,
    RingWriter,
    WrongVersion,
    make_ring,
    open_ring,
    ring_bytes,
)
from dora.wire.message import ALIGNMENT, BODY_OFFSET, BODY_SIZE, Message, MessageError, unpack_header
from dora.wire.node_config import InputConfig, OutputConfig

_MAX_LOANS: Final = 8
_MOST_SEGMENTS: Final = 512  # of a sender, that a receiver keeps mapped

_numbers = itertools.count()  # of the ports of this process
_log = logging.getLogger("dora.transport")


class _Loan:
    """Memory for one message, see `dora.transport.interface.Loan`."""

    __slots__ = ("_block", "_sender", "address", "memory", "size")

    def __init__(self, sender: ShmSender, block: Block, size: int) -> None:
        self._sender = sender
        self._block: Block | None = block
        self.address = block.address
        self.memory = block.view
        self.size = size

    def send(self, control: bytes = b"") -> None:  # noqa: ARG002
        block = self._block
        assert block is not None
        # Those that have come since the loan was made. If there is no room for one, the loan is as before.
        self._sender.find_receivers()
        self._block = None
        self._sender.end_loan()
        self._sender.publish(block)

    def discard(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            self._sender.end_loan()
            self._sender.pool.put(block)

    def __del__(self) -> None:
        if self._block is not None:
            self.discard()


class _Former:
    """The ring of a receiver that has ended, while its process still holds blocks of it."""

    __slots__ = ("name", "process", "ring")

    def __init__(self, name: str, ring: RingWriter[Block]) -> None:
        self.name = name
        self.process = name.split(".")[3]
        self.ring = ring


class ShmSender:
    """The sending end of one output. Not for use by several threads at once."""

    def __init__(self, presence: Presence, folder: str, output: OutputConfig) -> None:
        self._presence: Presence | None = presence
        self._folder = folder
        self._output_id = output.id
        self._channel = Channel(folder, output.slot)
        self._changes = self._channel.changes
        self._seen = -1
        self._own = f"{presence.id}.{next(_numbers)}"
        self.pool = Pool(
            f"{self._channel.folder}/s.{self._own}.", output.id, self._reclaim, self._reclaim_from_taps
        )
        self._rings: dict[str, RingWriter[Block]] = {}  # by the names of the receivers
        self._targets: list[RingWriter[Block]] = []  # the same
        self._former: list[_Former] = []
        self._ready: Block | None = None  # see `prepare`
        self._loans = 0
        self._inherited = False  # this process was forked from the owner
        while self._seen != self._changes[0]:
            self._find_receivers()
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave the output to the parent, in a forked child process."""
        self._inherited = True
        self._seen = -1  # so that `send` and `loan` look for receivers
        self._find_receivers = refuse  # type: ignore[method-assign]
        self.prepare = lambda: None  # type: ignore[method-assign]  # it would take what came back to the parent

    def send(self, message: bytes, control: bytes = b"") -> None:  # noqa: ARG002
        if self._changes[0] != self._seen:
            self._find_receivers()
        size = len(message)
        block = self._ready
        if block is None or size > SMALL:
            block = self.pool.take(size)
        else:
            self._ready = None
        block.view[:size] = message
        self.publish(block)

    def prepare(self) -> None:
        """Reserve memory for the next small message."""
        if self._ready is None:
            try:
                self._ready = self.pool.take_small()
            except (SharedMemoryFull, TransportError):
                pass  # the next message raises the error, if it does not fit either

    def loan(self, size: int) -> _Loan:
        if self._changes[0] != self._seen:
            self._find_receivers()
        if self._loans >= _MAX_LOANS:
            raise TransportError(
                f"output `{self._output_id}` has {_MAX_LOANS} loans that were neither sent nor discarded"
            )
        block = self.pool.take(size)
        self._loans += 1
        return _Loan(self, block, size)

    def end_loan(self) -> None:
        self._loans -= 1

    def publish(self, block: Block) -> None:
        """Pass a block with a message to all receivers."""
        targets = self._targets
        block.uses = len(targets)
        if not targets:
            self.pool.put(block)
        for ring in targets:
            if not ring.push(block, block.code):
                self.pool.release(block)

    def close(self) -> None:
        """Send no more. Receivers read the files, and then the daemon removes them."""
        self._presence = None

    def destroy(self) -> None:
        self._presence = None
        if not self._inherited:
            for name in self._rings:
                self._channel.remove(self._ring_name(name))
            self.pool.close()
            self._channel.announce()

    # ------------------------------------------------------------------ receivers

    def find_receivers(self) -> None:
        """Look for changes among the receivers."""
        if self._changes[0] != self._seen:
            self._find_receivers()

    def _ring_name(self, receiver: str) -> str:
        _, process, number, *_ = receiver.split(".")
        return f"c.{self._own}.{process}.{number}"

    def _find_receivers(self) -> None:
        """Make a ring for each receiver that has come, and take back the blocks of those that have gone."""
        seen = self._changes[0]
        there = {name for name in self._channel.names() if name.startswith("r.")}
        for name in self._rings.keys() - there:
            ring = self._rings.pop(name)
            self._targets.remove(ring)
            ring.end()
            self._former.append(_Former(self._ring_name(name), ring))
        self._check_former()
        for name in there - self._rings.keys():
            self._connect(name)
        self._seen = seen

    def _connect(self, receiver: str) -> None:
        queue_size = int(receiver.split(".")[3])
        name = self._ring_name(receiver)
        making = f"{self._channel.folder}/t.{self._own}"
        self._channel.remove(f"t.{self._own}")  # if a signal handler has raised an exception here before
        try:
            mapping = make(making, ring_bytes(queue_size))
            ring = RingWriter(make_ring(mapping.view, mapping.address, queue_size), self.pool.release)
            os.rename(making, f"{self._channel.folder}/{name}")
        except OSError as error:
            if receiver.endswith(TAP):
                return  # an observer harms no sender: it gets nothing until files change again
            raise setup_failed(f"output `{self._output_id}`", error) from error
        self._rings[receiver] = ring
        self._targets = [*self._targets, ring]
        self._channel.announce()

    def _reclaim(self) -> None:
        for ring in self._targets:
            ring.reclaim()
        if self._former:
            self._check_former()

    def _reclaim_from_taps(self) -> None:
        for name, ring in self._rings.items():
            if name.endswith(TAP):
                ring.end()

    def _check_former(self) -> None:
        """Forget the rings of former receivers of which nothing is out any more."""
        for former in tuple(self._former):
            former.ring.end()
            if former.ring.is_out and is_dead(self._folder, former.process):
                former.ring.take_all()
            if not former.ring.is_out:
                self._former.remove(former)
                self._channel.remove(former.name)


class _Incoming:
    """A ring to this receiver, and the memory of its sender."""

    def __init__(self, folder: str, name: str, presence: Presence) -> None:
        """Raises ``OSError``, `UnsafeFile`, `WrongVersion`."""
        self.name = name
        _, process, number, *_ = name.split(".")
        self._segments_path = f"{folder}/s.{process}.{number}."
        self._mapping = attach(f"{folder}/{name}")
        self.ring = RingReader(open_ring(self._mapping.view, self._mapping.address))
        self.presence = presence
        self.segments: dict[int, Mapping] = {}

    def segment(self, number: int) -> Mapping:
        """Map a segment; raises `MessageError` if that is not possible."""
        if len(self.segments) >= _MOST_SEGMENTS:
            self.segments.clear()  # those in use stay mapped; the others may be gone
        try:
            mapping = self.segments[number] = attach(f"{self._segments_path}{number}")
        except (OSError, ValueError, UnsafeFile) as error:
            raise MessageError(f"the memory of a message cannot be used: {error}") from error
        return mapping


class _Held:
    """A block that the program holds until its last array is gone."""

    __slots__ = ("_cell", "_incoming", "_view")

    def __init__(self, incoming: _Incoming, view: memoryview, cell: int) -> None:
        self._incoming = incoming
        self._view = view  # keeps the memory mapped
        self._cell = cell

    def __del__(self) -> None:
        if not self._incoming.presence.inherited:
            self._incoming.ring.return_cell(self._cell)


class ShmReceiver:
    """The receiving end of one input, or a tap."""

    def __init__(self, presence: Presence, folder: str, item: InputConfig, *, tap: bool = False) -> None:
        self._presence: Presence | None = presence
        self._item = item
        self._bad = BadMessages(item.id)
        self._channel = Channel(folder, item.output_slot)
        self._changes = self._channel.changes
        self._seen = -1
        self._incoming: list[_Incoming] = []  # the oldest sender first
        self._copy_logged = False
        number = next(_numbers)
        self._own = f"{presence.id}.{number}"
        self._name = f"r.{self._own}.{min(item.queue_size, MAX_QUEUE)}{TAP if tap else ''}"
        os.close(open_own(f"{self._channel.folder}/{self._name}", os.O_RDWR | os.O_CREAT | os.O_EXCL))
        self._channel.announce()
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave the input to the parent, in a forked child process."""
        self._name = ""
        self.receive = refuse  # type: ignore[method-assign]
        self.has_messages = lambda: False  # type: ignore[method-assign]

    @property
    def held(self) -> int:
        """How many messages the program holds in shared memory."""
        return sum(MAX_HELD - len(incoming.ring.cells) for incoming in self._incoming)

    def receive(self) -> Message | None:
        if self._changes[0] != self._seen:
            self._find_senders()
        for incoming in self._incoming:
            while (word := incoming.ring.take()) >= 0:
                try:
                    return self._message(incoming, word)
                except (MessageError, struct.error) as error:  # damaged, or from another program
                    self._bad.add(error)
        return None

    def has_messages(self) -> bool:
        if self._changes[0] != self._seen:
            self._find_senders()
        for incoming in self._incoming:  # noqa: SIM110 - a generator costs as much as the rest
            if incoming.ring.has_messages():
                return True
        return False

    def release(self) -> None:
        """Nothing to do: the next process has a queue of its own already."""

    def close(self) -> None:
        """Stop receiving. Messages that the program holds stay valid."""
        if not self._name:
            return
        self.receive = lambda: None  # type: ignore[method-assign]
        self.has_messages = lambda: False  # type: ignore[method-assign]
        self._incoming = []
        self._presence = None  # what the program holds refers to it
        self._channel.remove(self._name)
        self._channel.announce()
        self._name = ""

    def _message(self, incoming: _Incoming, word: int) -> Message:
        """Make a message of the block in a slot, and give the slot back; raises `MessageError`."""
        ring = incoming.ring
        cell = -1
        try:
            code = ring.words[word + BLOCK]
            segment = incoming.segments.get(code >> 32) or incoming.segment(code >> 32)
            view = segment.view
            begin = (code & 0xFFFFFFFF) * ALIGNMENT
            header = unpack_header(view, begin)
            offset = header[BODY_OFFSET]
            size = offset + header[BODY_SIZE]
            end = begin + size
            if size <= SMALL:
                return Message(view[begin:end].tobytes(), 0, None, header)
            if end > segment.size:
                raise MessageError(f"{size} bytes are more than its memory has")
            if not ring.cells:
                self._log_copy(size)
                return Message(view[begin:end].tobytes())
            head = view[begin : begin + offset].tobytes()
            cell = ring.cells.pop()
            return Message(head, segment.address + begin, _Held(incoming, view, cell), header)
        finally:
            ring.give_back(word, cell)

    def _find_senders(self) -> None:
        """Open the rings that are new, and forget those whose sender is gone and that are empty."""
        seen = self._changes[0]
        there = [
            name
            for name in self._channel.names()
            if name.startswith("c.") and name.endswith(f".{self._own}")
        ]
        known = {incoming.name: incoming for incoming in self._incoming}
        former = [each for name, each in known.items() if name not in there and each.ring.has_messages()]
        found = []
        for name in there:
            if (incoming := known.get(name)) is None:
                assert self._presence is not None
                try:
                    incoming = _Incoming(self._channel.folder, name, self._presence)
                except FileNotFoundError:
                    continue
                except WrongVersion:
                    raise TransportError(
                        f"input `{self._item.id}`: its source runs another version of dora; all nodes of a "
                        "dataflow have to run the same one"
                    ) from None
                except OSError as error:
                    raise setup_failed(f"input `{self._item.id}`", error) from error
            found.append(incoming)
        self._incoming = [*former, *found]
        self._seen = seen

    def _log_copy(self, size: int) -> None:
        if not self._copy_logged:
            self._copy_logged = True
            _log.warning(
                "input `%s`: %d messages are kept by %s; further ones are copied out of shared memory "
                "(this one: %d bytes)",
                self._item.id,
                MAX_HELD,
                who_keeps(self._item),
                size,
            )


class ShmEngine:
    """All ports of one node of a dataflow."""

    wakes = False
    in_flight = False

    def __init__(self, prefix: str, board: Board) -> None:
        """Raises `TransportError`, `SharedMemoryFull`, `UnsafeFile`."""
        self._board = board
        self._folder = links_folder(prefix)
        self._presence: Presence | None = join(self._folder, "this node")

    def _own_presence(self) -> Presence:
        presence = self._presence
        if presence is None:
            raise TransportError("this node is closed")
        if presence.inherited:
            refuse()
        return presence

    def sender(self, output: OutputConfig) -> ShmSender:
        presence = self._own_presence()
        try:
            return ShmSender(presence, self._folder, output)
        except OSError as error:
            raise setup_failed(f"output `{output.id}`", error) from error

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> Receiver:  # noqa: ARG002
        receiver = open_port(self._own_presence(), self._folder, item)
        # Under back-pressure the sender never exceeds MAX_QUEUE.
        if item.queue_size > MAX_QUEUE and item.policy == "drop_oldest":
            words, word = self._board.words, item.output_slot * WORDS + SENT
            return SpilloverQueue(receiver, item.queue_size, lambda: words[word])
        return receiver

    def connect(self, timeout: float, interrupted: Callable[[], bool] = lambda: False) -> None:
        """Nothing to wait for: a sender finds every receiver that exists when it sends."""

    def close(self) -> None:
        """Leave the dataflow, once the program holds no more messages of others."""
        self._presence = None


def open_port(presence: Presence, folder: str, item: InputConfig, *, tap: bool = False) -> ShmReceiver:
    """Open an input or a tap; raises as `join`, and `WrongProcess`."""
    if presence.inherited:
        refuse()
    try:
        return ShmReceiver(presence, folder, item, tap=tap)
    except OSError as error:
        raise setup_failed(f"{'output' if tap else 'input'} `{item.id}`", error) from error


def warm_up() -> None:
    """Make what every node makes at its start, for processes that are forked then."""
    libc()


def join(folder: str, what: str) -> Presence:
    """Show that this process takes part; raises `TransportError`, `SharedMemoryFull`, `UnsafeFile`."""
    if fault := support.fault():
        raise TransportError(f"the engine shm {fault}")
    try:
        make_folder(folder)
        return Presence(folder)
    except OSError as error:
        raise setup_failed(what, error) from error
