"""The engine for processes of one machine: links through shared memory, on iceoryx2.

One output is one iceoryx2 service with one publisher. Each of its links is a subscriber whose buffer is the
queue of the link, with *safe overflow*: a new message replaces the oldest. The memory pool of a publisher
is sparse: it takes memory only for messages in flight.

Three properties of iceoryx2 0.10 shape this module:

* A publisher that is destroyed destroys its undelivered samples too; one whose process ends does not.
  Publishers are therefore never destroyed: a closed one is leaked on purpose, and the daemon removes what
  dead processes leave behind (`remove_dead_nodes`) once it has been read. A process that joins its dataflow
  again, as a notebook does, takes over the publishers and the node that it closed.
* A subscriber may hold only a limited number of samples. Small messages are copied on arrival and do not
  count; a program that keeps many large arrays gets copies in ordinary memory after `MAX_HELD`.
* Memory is reserved, not allocated. If /dev/shm is full, touching a new page kills the process with
  SIGBUS. Each chunk is therefore populated once with ``madvise(MADV_POPULATE_WRITE)``, which reports the
  same condition as an error. iceoryx2 itself touches the first page of a new chunk, so a chunk that would
  take the last free memory is refused and its pages are freed.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import operator
import os
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from dora._ownership import UnsafeFile, check_folder, close_to_others, refuse_foreign_objects
from dora.errors import SharedMemoryFull, TransportError, WrongProcess
from dora.transport.board import SENT, WORDS, Board
from dora.transport.forking import RefusingResource, disown_after_fork, leak, refuse
from dora.transport.interface import MAX_QUEUE, BadMessages, Receiver
from dora.transport.queues import CopyWarning, SpilloverQueue
from dora.transport.shm.lazy_flatbuffers import import_iceoryx2
from dora.transport.shm.room import RESERVE, free_bytes, full, no_room_to_start
from dora.wire.message import ALIGNMENT, BODY_OFFSET, BODY_SIZE, Message, MessageError, unpack_header
from dora.wire.node_config import InputConfig, OutputConfig

T = TypeVar("T")

SMALL_MESSAGE: Final = 8192  # bytes; up to this size a message is copied on arrival
MAX_HELD: Final = 32  # large messages per input that the program may hold before they are copied
_MAX_PUBLISHERS: Final = 4  # of one node: a process, its replacement, two dead ones (`dora.daemon.cleanup`)
_MAX_LOANS: Final = 8  # of an output at a time; further ones are refused, so forgotten ones show
_INITIAL_CHUNK: Final = SMALL_MESSAGE  # no chunk is smaller, so a small message populates it whole
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MADV_POPULATE_WRITE: Final = 23
_MADV_REMOVE: Final = 9
_NODE_COUNT: Final = ".global_mgmt"  # ends the name of the file in which iceoryx2 counts its nodes

# Chunks are reused, so a view of each is created once: a call through ctypes costs three times as much, and
# much more with cold caches.
_MAX_VIEWS: Final = 8192  # then all are made anew: some are of chunks that are gone

_copy_out = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)


def _view(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


# By name: inside a class, a leading double underscore would be mangled.
_assume_init = operator.methodcaller("__assume_init")


_SHARED_MEMORY: Final = "/dev/shm"
_iox: Any = None


def load_iceoryx2() -> Any:
    """Return the package, which the first call imports."""
    global _iox
    if _iox is None:
        _iox = import_iceoryx2()
        _iox.set_log_level(_iox.LogLevel.Fatal)
    return _iox


def make_node(run_dir: str, prefix: str) -> Any:
    """Create an iceoryx2 node for the run; raises `UnsafeFile` if another user has interfered."""
    check_folder(run_dir)
    refuse_foreign_objects(_SHARED_MEMORY, prefix, _NODE_COUNT)  # what creating a node opens
    node = node_builder(run_dir, prefix).create(load_iceoryx2().ServiceType.Ipc)
    refuse_foreign_objects(_SHARED_MEMORY, prefix)  # another user may have been faster
    _close_to_others(prefix)
    return node


def node_builder(run_dir: str, prefix: str) -> Any:
    """Return what creates an iceoryx2 node for the run."""
    iox = load_iceoryx2()
    config = iox.config.default()
    config.global_cfg.root_path = iox.Path.new(f"{run_dir}/iox")
    config.global_cfg.prefix = iox.FileName.new(prefix)
    # By default each new node examines all others, and a node that opens a channel removes what dead ones
    # left, unread messages too. The daemon cleans up once these are read (`remove_dead_nodes`).
    config.global_cfg.node.cleanup_dead_nodes_on_creation = False
    config.global_cfg.node.cleanup_dead_nodes_on_destruction = False
    config.global_cfg.service.cleanup_dead_nodes_on_open = False
    return iox.NodeBuilder.new().config(config).signal_handling_mode(iox.SignalHandlingMode.Disabled)


def warm_up() -> None:
    """Load the package and make what every node makes at its start, for processes that are forked then."""
    node_builder(f"{_SHARED_MEMORY}/none", "none")


def _close_to_others(prefix: str) -> None:
    """Make the file in which iceoryx2 counts its nodes unwritable for other users."""
    try:
        names = os.listdir(_SHARED_MEMORY)
    except OSError:
        return  # not Linux
    for name in names:
        if name.startswith(prefix) and name.endswith(_NODE_COUNT):
            try:
                close_to_others(f"{_SHARED_MEMORY}/{name}")
            except OSError:
                pass  # just removed


def remove_dead_nodes(run_dir: str, prefix: str) -> None:
    """Remove the resources of dead processes of a run, including their unread messages.

    Messages that a living receiver has already received stay valid.
    """
    try:
        node = make_node(run_dir, prefix)
        for _ in range(5):  # a clean-up may fail once and succeed the next time
            if not node.try_cleanup_dead_nodes().failed_cleanups:
                break
    except Exception as error:
        raise TransportError(f"cleaning up after a dead node failed: {error!r}") from error


_leaked: dict[str, list[Any]] = {}  # run directory → objects that are leaked until the end of the run


# Closed by this process, and free for its next use: nothing is destroyed, and room is limited.
_closed_nodes: dict[str, list[Any]] = {}  # by run directory
_closed_senders: dict[tuple[str, str], IceoryxSender] = {}  # by run directory and service


def _leak_until_end(run_dir: str, thing: Any) -> None:
    """Keep an object from being destroyed when the process exits; see the docstring of the module."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
    _leaked.setdefault(run_dir, []).append(thing)


def _release_ended() -> None:
    """Free the leaked objects of runs that have ended, for processes that take part in several runs."""
    for run_dir in list(_leaked):
        if not os.path.isdir(run_dir):
            _closed_nodes.pop(run_dir, None)
            for key in [key for key in _closed_senders if key[0] == run_dir]:
                del _closed_senders[key]
            for thing in _leaked.pop(run_dir, ()):
                ctypes.pythonapi.Py_DecRef(ctypes.py_object(thing))


class _SampleLoan:
    __slots__ = ("_sample", "address", "memory", "size")

    def __init__(self, sample: Any, address: int, memory: memoryview, size: int) -> None:
        self._sample = sample
        self.address = address
        self.memory = memory
        self.size = size

    def send(self, control: bytes = b"") -> None:  # noqa: ARG002
        sample, self._sample = self._sample, None
        _assume_init(sample).send()

    def discard(self) -> None:
        self._sample = None


def _disown_loans() -> None:
    """Keep a forked child process from sending or freeing the loans that it has inherited.

    The collector knows all of them, so a loan costs nothing to keep track of.
    """
    for loan in gc.get_objects():
        if type(loan) is _SampleLoan and loan._sample is not None:
            leak(loan._sample)
            loan._sample = RefusingResource()


class IceoryxSender:
    """The publisher of one output. Not for use by several threads at once."""

    def __init__(self, service: Any, output: OutputConfig, run_dir: str) -> None:
        iox = load_iceoryx2()
        self._output_id = output.id
        self._key = run_dir, output.service
        self._publisher = (
            service.publisher_builder()
            .initial_max_slice_len(_INITIAL_CHUNK)
            .allocation_strategy(iox.AllocationStrategy.PowerOfTwo)
            .max_loaned_samples(_MAX_LOANS + 1)
            .backpressure_strategy(iox.BackpressureStrategy.DiscardData)
            .create()
        )
        self._loan = getattr(self._publisher, "__loan_slice_uninit")
        self._views: dict[int, memoryview] = {}  # address → writable bytes, populated
        self._chunk = _INITIAL_CHUNK
        self._ready: list[tuple[memoryview, Any]] = []  # at most one, see `prepare`
        self._inherited = False  # this process was forked from the owner
        _leak_until_end(run_dir, self._publisher)
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave the publisher to the parent, in a forked child process."""
        leak(self._publisher, self._loan, self._ready)
        self._ready = []
        self._loan = refuse
        self._inherited = True

    def send(self, message: bytes, control: bytes = b"") -> None:  # noqa: ARG002
        size = len(message)
        if size <= SMALL_MESSAGE and self._ready:
            view, sample = self._ready.pop()
        else:
            view, sample = self._take(size)
        view[:size] = message
        sample.send()

    def prepare(self) -> None:
        """Reserve memory for the next small message."""
        if self._ready:
            return
        try:
            self._ready.append(self._take(SMALL_MESSAGE))
        except (SharedMemoryFull, TransportError, WrongProcess):
            pass  # the next message raises the error, if it does not fit either

    def _take(self, size: int) -> tuple[memoryview, Any]:
        """Return memory for a message, and its sample."""
        try:
            sample = self._loan(size)
        except WrongProcess:
            raise
        except Exception as error:
            raise self._loan_failed(size, error) from error
        address = sample.payload_ptr
        view = self._views.get(address)
        if view is None or len(view) < size:
            view = self._populate(address, max(size, SMALL_MESSAGE))
        return view, _assume_init(sample)

    def loan(self, size: int) -> _SampleLoan:
        try:
            sample = self._loan(size)
        except WrongProcess:
            raise
        except Exception as error:
            raise self._loan_failed(size, error) from error
        address = sample.payload_ptr
        view = self._views.get(address)
        if view is None or len(view) < size:
            view = self._populate(address, size)
        return _SampleLoan(sample, address, view, size)

    def close(self) -> None:
        """Leave the publisher to the next sender of this process; see the docstring of the module."""
        if not self._inherited:
            _closed_senders[self._key] = self

    def destroy(self) -> None:
        if self._inherited:
            return
        _closed_senders.pop(self._key, None)
        self._ready.clear()
        self._publisher.delete()

    def _populate(self, address: int, size: int) -> memoryview:
        self._views.pop(address, None)  # its memory is gone if there is no room for more
        _populate_pages(address, size, self._output_id)
        view = _view(address, size)
        if size > self._chunk:
            # The pool has moved to a segment with larger chunks. The former segment is unmapped, and
            # new memory may get its addresses.
            self._chunk = 1 << (size - 1).bit_length()
            self._views.clear()
        elif len(self._views) >= _MAX_VIEWS:
            self._views.clear()
        self._views[address] = view
        return view

    def _loan_failed(self, size: int, error: Exception) -> Exception:
        if "ExceedsMaxLoans" in repr(error):
            return TransportError(
                f"output `{self._output_id}` has {_MAX_LOANS} loans that were neither sent nor discarded"
            )
        free = free_bytes()
        if free is not None and free < size:
            return full(self._output_id, size, free)
        return TransportError(f"output `{self._output_id}`: no memory for {size} bytes: {error!r}")


class _HeldSample:
    """A large sample that the program holds, counted by its receiver until the last array is gone."""

    __slots__ = ("_receiver", "_sample")

    def __init__(self, sample: Any, receiver: IceoryxReceiver) -> None:
        self._sample = sample
        self._receiver = receiver
        receiver.held += 1

    def __del__(self) -> None:
        self._receiver.held -= 1
        if self._receiver.inherited:
            leak(self._sample)


class IceoryxReceiver:
    """The subscriber of one input."""

    def __init__(self, service: Any, item: InputConfig) -> None:
        self._item = item
        self._bad = BadMessages(item.id)
        self._subscriber = (
            service.subscriber_builder().buffer_size(min(item.queue_size, MAX_QUEUE)).create()
        )
        self._receive = self._subscriber.receive
        self.has_messages: Callable[[], bool] = self._subscriber.has_samples
        self._views: dict[int, memoryview] = {}  # address → the first bytes of a chunk
        self.held = 0
        self.inherited = False  # this process was forked from the owner
        self._copy_warning = CopyWarning(item)
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave the subscriber and its samples to the parent, in a forked child process."""
        leak(self._subscriber, self._receive, self.has_messages)
        self.inherited = True
        self._receive = refuse
        self.has_messages = lambda: False

    def receive(self) -> Message | None:
        while True:
            sample = self._receive()
            if sample is None:
                return None
            try:
                address = sample.payload_ptr
                view = self._views.get(address)
                if view is None:
                    view = self._views[address] = _view(address, SMALL_MESSAGE)
                    if len(self._views) > _MAX_VIEWS:
                        self._views.clear()
                header = unpack_header(view)
                offset = header[BODY_OFFSET]
                size = offset + header[BODY_SIZE]
                if size <= SMALL_MESSAGE:
                    return Message(view[:size].tobytes(), 0, None, header)  # by name is slower
                if size > sample.header.number_of_elements:
                    raise MessageError(f"{size} bytes are more than its memory has")
                if self.held >= MAX_HELD:
                    self._copy_warning.give(size, self.held)
                    return Message(_copy_out(address, size))
                head = view[:offset].tobytes() if offset <= SMALL_MESSAGE else _copy_out(address, offset)
                return Message(head, address, _HeldSample(sample, self), header)
            except MessageError as error:  # from a process that is not a node, or damaged
                self._bad.add(error)

    def close(self) -> None:
        """Free the queue. Samples that the program holds stay valid."""
        if self.inherited:
            return
        self._receive = lambda: None
        self.has_messages = lambda: False
        self._subscriber.delete()


class IceoryxEngine:
    """All ports of one node of a dataflow."""

    wakes = False

    def __init__(self, run_dir: str, prefix: str, board: Board) -> None:
        self._board = board
        self._run_dir = run_dir
        self._inherited = False  # this process was forked from the owner
        _release_ended()
        if closed := _closed_nodes.get(run_dir):
            self._node = closed.pop()
        else:
            try:
                self._node = make_node(run_dir, prefix)
            except Exception as error:
                raise _setup_failed("this node", error) from error
            # The node owns the file that tells the daemon whether the process lives.
            _leak_until_end(run_dir, self._node)
        disown_after_fork(self)

    def disown(self) -> None:
        """Leave all resources to the parent, in a forked child process, even after the end of its run."""
        leak(self._node)
        _leaked.clear()
        _closed_nodes.clear()
        _closed_senders.clear()
        _disown_loans()
        self._inherited = True

    def sender(self, output: OutputConfig) -> IceoryxSender:
        if self._inherited:
            refuse()
        closed = _closed_senders.pop((self._run_dir, output.service), None)
        if closed is not None:
            return closed
        service = open_channel(self._node, output.service, output.max_queue_size, output.max_receivers)
        try:
            return _with_room(self._node, lambda: IceoryxSender(service, output, self._run_dir))
        except Exception as error:
            raise _setup_failed(f"output `{output.id}`", error) from error

    def receiver(self, item: InputConfig, arrived: Callable[[], None]) -> Receiver:  # noqa: ARG002
        if self._inherited:
            refuse()
        service = open_channel(self._node, item.service, item.max_queue_size, item.max_receivers)
        try:
            receiver = _with_room(self._node, lambda: IceoryxReceiver(service, item))
        except Exception as error:
            raise _setup_failed(f"input `{item.id}`", error) from error
        # Under back-pressure the sender never exceeds MAX_QUEUE.
        if item.queue_size > MAX_QUEUE and item.queue_policy == "drop_oldest":
            return SpilloverQueue(receiver, item.queue_size, self._sent_by(item.output_slot))
        return receiver

    def _sent_by(self, output_slot: int) -> Callable[[], int]:
        words, word = self._board.words, output_slot * WORDS + SENT
        return lambda: words[word]

    def close(self) -> None:
        """Leave the node to the next engine of this process; see the docstring of the module."""
        if not self._inherited:
            _closed_nodes.setdefault(self._run_dir, []).append(self._node)


def open_channel(node: Any, name: str, max_queue_size: int, max_receivers: int) -> Any:
    """Open or create the channel of an output; both ends may do that at the same time."""
    iox = load_iceoryx2()
    # While the other end creates it, iceoryx2 raises, as for a lasting fault. So this tries again for 5 s.
    deadline = time.monotonic() + 5.0
    while True:
        builder = (
            node.service_builder(iox.ServiceName.new(name))
            .publish_subscribe(iox.Slice[ctypes.c_uint8])
            .payload_alignment(iox.Alignment.new(ALIGNMENT))
            .enable_safe_overflow(True)
            .history_size(0)
            .subscriber_max_buffer_size(min(max_queue_size, MAX_QUEUE))
            .subscriber_max_borrowed_samples(MAX_HELD + 2)
            .max_publishers(_MAX_PUBLISHERS)
            .max_subscribers(max_receivers)
            .max_nodes(max_receivers + _MAX_PUBLISHERS)
        )
        try:
            return _with_room(node, builder.open_or_create)
        except Exception as error:
            if time.monotonic() > deadline:
                raise _setup_failed(f"channel `{name}`", error) from error
            time.sleep(0.002)  # about as long as the other end takes to create it


def _with_room(node: Any, make: Callable[[], T]) -> T:
    """Make a part of a channel. If dead nodes take all its room, they go first, with their messages.

    That is so if many receivers of an output die at the same time: the daemon cleans up a little later.
    """
    try:
        return make()
    except Exception as error:
        if "ExceedsMaxNumberOfNodes" not in repr(error) and "ExceedsMaxSupported" not in repr(error):
            raise
        node.try_cleanup_dead_nodes()
        return make()


def _setup_failed(what: str, error: Exception) -> Exception:
    if isinstance(error, (SharedMemoryFull, TransportError, UnsafeFile)):
        return error
    free = free_bytes()
    if free is not None and free < 1 << 20:
        return no_room_to_start(what, free, "iceoryx2")
    return TransportError(f"{what}: iceoryx2 cannot set it up: {error!r}")


_madvise: Any = None


def _populate_pages(address: int, size: int, what: str) -> None:
    """Allocate the pages of a chunk; raises `SharedMemoryFull` where a write would be a SIGBUS."""
    global _madvise
    if _madvise is None:
        _madvise = ctypes.CDLL(None, use_errno=True).madvise
        _madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    start = address & -_PAGE
    before = free_bytes()
    if before is not None and before < size:  # trying would take the rest from other processes
        raise full(what, size, before)
    if _madvise(start, address + size - start, _MADV_POPULATE_WRITE) == 0:
        free = free_bytes()
        if free is None or before is None or free >= min(before, RESERVE):
            return
        _free_pages(address, size)
        raise full(what, size + RESERVE, free_bytes() or 0)
    code = ctypes.get_errno()
    if code in (errno.EFAULT, errno.ENOMEM):
        _free_pages(address, size)
        raise full(what, size, free_bytes() or 0)
    # EINVAL: a kernel before 5.14, or macOS. Only the number of free bytes is known then.
    free = free_bytes()
    if free is not None and free < size:
        raise full(what, size, free)


def _free_pages(address: int, size: int) -> None:
    """Free the pages that lie completely inside a chunk; other chunks share the rest."""
    start, end = -(-address // _PAGE) * _PAGE, (address + size) & -_PAGE
    if start < end:
        _madvise(start, end - start, _MADV_REMOVE)
