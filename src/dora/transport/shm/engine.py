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
import os
import struct
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from dora._ownership import UnsafeFile, check_folder, open_own
from dora.errors import SharedMemoryFull, TransportError
from dora.transport import semaphore_support
from dora.transport.board import SENT, WORDS, Board
from dora.transport.forking import disown_after_fork, refuse
from dora.transport.interface import MAX_QUEUE, BadMessages, Receiver
from dora.transport.mapping import Mapping, attach, libc, make
from dora.transport.queues import CopyWarning, SpilloverQueue
from dora.transport.shm.channel import (
    TAP,
    Channel,
    Presence,
    is_dead,
    is_receiver,
    links_folder,
    setup_failed,
)
from dora.transport.shm.pool import SMALL, Block, Pool
from dora.transport.shm.ring import (
    BLOCK,
    CELL,
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

_MAX_LOANS: Final = 8  # of an output at a time; further ones are refused, so forgotten ones show
_MOST_SEGMENTS: Final = 512  # of a sender, that a receiver keeps mapped: each new one has a new number

_numbers = itertools.count()  # of the ports of this process


class _BlockLoan:
    """Memory for one message, see `dora.transport.interface.Loan`."""

    __slots__ = ("_sender", "address", "block", "memory", "size")

    def __init__(self, sender: ShmSender, block: Block, size: int) -> None:
        self._sender = sender
        self.block: Block | None = block
        self.address = block.address
        self.memory = block.view
        self.size = size
        sender.lent.add(block)

    def send(self, control: bytes = b"") -> None:  # noqa: ARG002
        self._sender.send_loan(self)

    def discard(self) -> None:
        """Give the memory back; another thread may be sending."""
        block, self.block = self.block, None
        if block is not None:
            self._sender.discarded.append(block)

    def __del__(self) -> None:
        try:
            if self.block is not None:
                self.discard()
        except AttributeError:
            pass  # a signal handler has raised an exception before there was a block


class _Former:
    """The ring of a receiver that has ended, while its process still holds blocks of it."""

    __slots__ = ("name", "process", "ring")

    def __init__(self, name: str, ring: RingWriter[Block]) -> None:
        self.name = name
        self.process = name.split(".")[3]
        self.ring = ring


class ShmSender:
    """The sending end of one output. Not for use by several threads at once, except `Loan.discard`.

    A signal handler may raise an exception anywhere in it. Then `_seen` is reset, and the next message puts
    the account in order: a block that no ring and no loan has is idle.
    """

    def __init__(self, presence: Presence, folder: str, output: OutputConfig) -> None:
        self._presence: Presence | None = presence
        self._folder = folder
        self._output_id = output.id
        self._channel = Channel(folder, output.slot, presence.id)
        self._changes = self._channel.changes
        self._seen = -1  # the value of `_changes` at the last look; -1: the account may be wrong
        self._own = f"{presence.id}.{next(_numbers)}"
        self.pool = Pool(
            f"{self._channel.folder}/s.{self._own}.", output.id, self._reclaim, self._reclaim_from_taps
        )
        self._rings: dict[str, RingWriter[Block]] = {}  # by the names of the receivers
        self._targets: list[RingWriter[Block]] = []  # the same
        self._former: dict[str, _Former] = {}  # by the names of the receivers
        self._ready: Block | None = None  # see `prepare`
        self.lent: set[Block] = set()  # of loans that were neither sent nor discarded
        self.discarded: deque[Block] = deque()  # of `lent`, by any thread
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
        try:
            if self._changes[0] != self._seen:
                self._find_receivers()
            size = len(message)
            block = self._ready
            if block is None or size > SMALL:
                block = self.pool.take(size)
            else:
                self._ready = None
            block.view[:size] = message
            self._publish(block)
        except BaseException:
            self._seen = -1
            raise

    def prepare(self) -> None:
        """Reserve memory for the next small message."""
        if self._ready is None:
            try:
                self._ready = self.pool.take_small()
            except (SharedMemoryFull, TransportError):
                pass  # the next message raises the error, if it does not fit either
            except BaseException:
                self._seen = -1
                raise

    def loan(self, size: int) -> _BlockLoan:
        try:
            if self._changes[0] != self._seen:
                self._find_receivers()
            if len(self.lent) >= _MAX_LOANS:
                self._take_discarded()
                if len(self.lent) >= _MAX_LOANS:
                    raise TransportError(
                        f"output `{self._output_id}` has {_MAX_LOANS} loans that were neither sent nor "
                        "discarded"
                    )
            return _BlockLoan(self, self.pool.take(size), size)
        except BaseException:
            self._seen = -1
            raise

    def send_loan(self, loan: _BlockLoan) -> None:
        try:
            if self._changes[0] != self._seen:  # receivers may have come since the loan was made
                self._find_receivers()
            block, loan.block = loan.block, None
            assert block is not None
            self.lent.discard(block)
            self._publish(block)
        except BaseException:
            self._seen = -1
            raise

    def _publish(self, block: Block) -> None:
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

    def _ring_name(self, receiver: str) -> str:
        _, process, number, *_ = receiver.split(".")
        return f"c.{self._own}.{process}.{number}"

    def _find_receivers(self) -> None:
        """Make a ring for each receiver that has come, and take back the blocks of those that have gone."""
        if self._seen < 0:
            self._put_in_order()
        # Before the folder is listed: a change after the listing is another number.
        seen = self._changes[0]
        if (names := self._channel.names()) is not None:
            there = {name for name in names if is_receiver(name)}
            for name in self._rings.keys() - there:
                self._former[name] = _Former(self._ring_name(name), self._rings[name])
                del self._rings[name]
            self._targets = list(self._rings.values())
            self._check_former()
            for name in there - self._rings.keys():
                self._connect(name)
            self._targets = list(self._rings.values())
        self._seen = seen

    def _connect(self, receiver: str) -> None:
        queue_size = int(receiver.split(".")[3])
        name = self._ring_name(receiver)
        making = f"{self._channel.folder}/t.{self._own}"
        self._channel.remove(f"t.{self._own}")  # if a signal handler has raised an exception here before
        try:
            mapping = make(making, ring_bytes(queue_size))
            ring = RingWriter(make_ring(mapping.view, mapping.address, queue_size), self.pool.release)
            # Known before it is renamed: an exception of a signal handler in between loses no ring in use.
            # Complete before it is renamed: that is when the receiver finds it.
            self._rings[receiver] = ring
            os.rename(making, f"{self._channel.folder}/{name}")
        except BaseException as error:
            if os.path.exists(making):  # else the receiver uses the ring
                self._rings.pop(receiver, None)
            if not isinstance(error, OSError):
                raise
            if receiver.endswith(TAP):
                return  # an observer harms no sender: it gets nothing until files change again
            raise setup_failed(f"output `{self._output_id}`", error) from error
        self._channel.announce()

    def _reclaim(self) -> None:
        for ring in self._targets:
            ring.reclaim()
        if self._former:
            self._check_former()
        if self.discarded:
            self._take_discarded()

    def _take_discarded(self) -> None:
        while self.discarded:
            block = self.discarded[0]
            self.lent.discard(block)
            del self.discarded[0]
            self.pool.put(block)

    def _reclaim_from_taps(self) -> None:
        for name, ring in self._rings.items():
            if name.endswith(TAP):
                ring.end()

    def _check_former(self) -> None:
        """Forget the rings of former receivers of which nothing is out any more."""
        for name, former in tuple(self._former.items()):
            former.ring.end()
            if former.ring.is_out and is_dead(self._folder, former.process):
                former.ring.take_all()
            if not former.ring.is_out:
                self._channel.remove(former.name)
                del self._former[name]

    def _put_in_order(self) -> None:
        """Find out anew who has which block, after an exception in the middle of a method."""
        while self.discarded:
            self.lent.discard(self.discarded[0])
            del self.discarded[0]
        used = Counter(self.lent)
        for ring in {*self._rings.values(), *(former.ring for former in self._former.values())}:
            ring.recover()
            used.update(ring.blocks())
        if self._ready is not None:
            used[self._ready] += 1
        self.pool.recount(used)


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


class _HeldBlock:
    """A block that the program holds until its last array is gone."""

    __slots__ = ("_cell", "_incoming", "_view")

    def __init__(self, incoming: _Incoming, view: memoryview, word: int) -> None:
        """``word``: the first one of the slot that has the block. A cell must be free."""
        self._incoming = incoming
        self._view = view  # keeps the memory mapped
        # No call from here on: a signal handler may raise an exception there.
        ring = incoming.ring
        self._cell = cell = ring.cells[-1]
        del ring.cells[-1]
        ring.words[word + CELL] = cell + 1

    def __del__(self) -> None:
        try:
            cell = self._cell
        except AttributeError:
            return  # a signal handler has raised an exception before there was one
        if not self._incoming.presence.inherited:
            self._incoming.ring.return_cell(cell)


class ShmReceiver:
    """The receiving end of one input, or a tap."""

    def __init__(self, presence: Presence, folder: str, item: InputConfig, *, tap: bool = False) -> None:
        self._presence: Presence | None = presence
        self._item = item
        self._bad = BadMessages(item.id)
        self._channel = Channel(folder, item.output_slot, presence.id)
        self._changes = self._channel.changes
        self._seen = -1
        self._incoming: list[_Incoming] = []  # the oldest sender first
        self._copy_warning = CopyWarning(item)
        number = next(_numbers)
        self._own = f"{presence.id}.{number}"
        self._name = f"r.{self._own}.{min(item.queue_size, MAX_QUEUE)}{TAP if tap else ''}"
        os.close(open_own(f"{self._channel.folder}/{self._name}", os.O_RDWR | os.O_CREAT | os.O_EXCL))
        self._channel.announce()  # after the file is there: senders look for it now
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
        try:
            if self._changes[0] != self._seen:
                self._find_senders()
            for incoming in self._incoming:
                while (word := incoming.ring.take()) >= 0:
                    try:
                        return self._message(incoming, word)
                    except (MessageError, struct.error) as error:  # damaged, or from another program
                        self._bad.add(error)
            return None
        except BaseException:  # from a signal handler, maybe
            self._seen = -1  # `_find_senders` puts the message back
            raise

    def has_messages(self) -> bool:
        if self._changes[0] != self._seen:
            self._find_senders()
        for incoming in self._incoming:  # noqa: SIM110 - a generator costs as much as the rest
            if incoming.ring.has_messages():
                return True
        return False

    def close(self) -> None:
        """Stop receiving. Messages that the program holds stay valid."""
        if not self._name:
            return
        self.receive = lambda: None  # type: ignore[method-assign]
        self.has_messages = lambda: False  # type: ignore[method-assign]
        self._incoming = []
        self._presence = None  # what the program holds refers to it
        self._channel.remove(self._name)
        self._channel.announce()  # after the file is gone, so that senders take back what was here
        self._name = ""

    def _message(self, incoming: _Incoming, word: int) -> Message:
        """Make a message of the block in a slot, and give the slot back; raises `MessageError`."""
        ring = incoming.ring
        try:
            code = ring.words[word + BLOCK]
            segment = incoming.segments.get(code >> 32) or incoming.segment(code >> 32)
            view = segment.view
            begin = (code & 0xFFFFFFFF) * ALIGNMENT
            header = unpack_header(view, begin)
            offset = header[BODY_OFFSET]
            size = offset + header[BODY_SIZE]
            end = begin + size
            if end > segment.size:
                raise MessageError(f"{size} bytes are more than its memory has")
            if size <= SMALL:
                return Message(view[begin:end].tobytes(), 0, None, header)
            if not ring.cells:
                self._copy_warning.give(size, MAX_HELD)
                return Message(view[begin:end].tobytes())
            head = view[begin : begin + offset].tobytes()
            return Message(head, segment.address + begin, _HeldBlock(incoming, view, word), header)
        finally:
            ring.give_back(word)

    def _find_senders(self) -> None:
        """Open the rings that are new, and forget those whose sender is gone and that are empty."""
        for each in self._incoming:
            each.ring.put_back()
        # Before the folder is listed, as in `_find_receivers`.
        seen = self._changes[0]
        if (names := self._channel.names()) is None:
            self._seen = seen
            return
        there = [name for name in names if name.startswith("c.") and name.endswith(f".{self._own}")]
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


class ShmEngine:
    """All ports of one node of a dataflow."""

    wakes = False

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
        if item.queue_size > MAX_QUEUE and item.queue_policy == "drop_oldest":
            words, word = self._board.words, item.output_slot * WORDS + SENT
            return SpilloverQueue(receiver, item.queue_size, lambda: words[word])
        return receiver

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
    if fault := semaphore_support.fault():
        raise TransportError(f"the engine shm {fault}")
    try:
        check_folder(folder)
        return Presence(folder)
    except OSError as error:
        raise setup_failed(what, error) from error
