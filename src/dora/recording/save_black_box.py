"""The process that makes a recording of a black box: ``python -m dora.recording.save_black_box ORDER``.

``ORDER`` is JSON, a `SaveOrder`. Standard output gets a `SavedBlackBox`. It reads shared memory that nodes
write meanwhile, so it is a process of its own; and it also saves what a killed run has left behind.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

import msgspec

from dora._shared_folders import make_folder
from dora._version import __version__
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.reader import LogReader
from dora.daemon.logs.writer import LogFiles
from dora.dataflow.model import Dataflow
from dora.errors import DoraError
from dora.observe.load import Load
from dora.observe.networks import network_rates
from dora.observe.rates import Counters, rates
from dora.observe.snapshot import Snapshot, node_snapshots
from dora.observe.snapshot_json import as_json
from dora.recording.mcap.channels import (
    LOG_CHANNEL,
    STATE_CHANNEL,
    ChannelTable,
    ContextMessage,
    order_channel,
)
from dora.recording.mcap.format import SUFFIX, End, RecordingStart
from dora.recording.mcap.writer import MessageWriter, RecordingFailed, RecordingWriter
from dora.recording.recorder.context import entry_message, failed_nodes, fingerprints, pack_log
from dora.recording.recorder.options import unused
from dora.recording.recorder.sinks import Expected, topic_ends
from dora.transport.board import SENT, WORDS, Board
from dora.transport.shm.overwriting_ring import read_ring
from dora.wire.black_box import (
    LARGE,
    ORDER,
    RUN,
    START,
    BlackBoxStart,
    JournalState,
    KeptOutputView,
    RawState,
    RunEntry,
    SavedBlackBox,
    SaveOrder,
    decode_run_entry,
    decode_start,
)
from dora.wire.daemon_protocol import Inspection
from dora.wire.decoders import DecodeError, from_json, from_plain, msgpack_decoder
from dora.wire.event_log import EntryKind, entries, pack_entry
from dora.wire.journal import Values
from dora.wire.message import Message, MessageError
from dora.wire.untrusted import UntrustedMessage

_LOG_BYTES: Final = 4 << 20  # of each log file, at its end, where the last seconds are: a log may be long
_ORDER_PIECE: Final = 64 << 10  # bytes of one message with the order of events
_PART: Final = ".part"  # ends the name of a file that is being written
# Seconds after its last write until it belongs to a killed process; not all disks know the lock.
_ABANDONED: Final = 60.0
_NICE: Final = 5  # the dataflow goes first
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_decode = msgpack_decoder(Inspection)


class KeptMessage(NamedTuple):
    """A message of the black box, in the order of sending."""

    time_ns: int
    slot: int
    sequence: int
    message: Message


class KeptBox:
    """The contents of the rings of a black box, from the last seconds before ``now_ns``."""

    def __init__(self, folder: str, now_ns: int | None = None) -> None:
        """Read everything; ``now_ns`` None: the newest that is there. Raises ``OSError``, `DecodeError`."""
        self.folder = folder
        with open(f"{folder}/{START}", "rb") as file:
            self.start: BlackBoxStart = decode_start(file.read())
        self.sent = self._read_sent()  # first: what is sent meanwhile is not missing
        found = [kept for output in self.start.outputs for kept in self._messages(output)]
        run = list(_run_entries(f"{folder}/{RUN}"))
        newest = max(
            (kept.time_ns for kept in found),
            default=max((_time_of(entry) for entry in run), default=time.time_ns()),
        )
        self.end_ns = newest if now_ns is None else now_ns
        self.begin_ns = self.end_ns - self.start.duration_ns
        self.messages = sorted(
            (kept for kept in found if kept.time_ns >= self.begin_ns), key=lambda kept: kept[:3]
        )
        self.states = [entry for entry in run if isinstance(entry, RawState)]
        if not self.sent and self.states:  # the board is gone
            words = memoryview(self.states[-1].board).cast("Q")
            slots = (output.slot for output in self.start.outputs)
            self.sent = {slot: words[slot * WORDS + SENT] for slot in slots if slot * WORDS < len(words)}
        self.journal = [entry.entry for entry in run if isinstance(entry, JournalState)]

    def _messages(self, output: KeptOutputView) -> Iterator[KeptMessage]:
        for name in (str(output.slot), f"{output.slot}{LARGE}"):
            try:
                ring = read_ring(f"{self.folder}/{name}")
            except OSError:
                continue  # there was no memory for it
            for data in ring:
                try:
                    message = UntrustedMessage(data)
                    if message.body_offset + message.body_size <= len(data):
                        yield KeptMessage(message.time_ns, output.slot, message.sequence, message)
                except MessageError:
                    continue  # overwritten while it was read

    def orders(self) -> Iterator[ContextMessage]:
        """Yield the order of events of each node, from its first entry that is there."""
        for node_id, inputs in self.start.inputs.items():
            try:
                ring = read_ring(f"{self.folder}/{ORDER}/{node_id}")
            except OSError:
                continue
            kept = [entry for data in ring for entry in entries(data) if entry.time_ns >= self.begin_ns]
            if not kept:
                continue
            channel, time_ns, kept_data = order_channel(node_id), kept[0].time_ns, b""
            if kept[0].kind != EntryKind.BEGIN:
                kept_data = pack_entry(EntryKind.BEGIN, 0, time_ns, 0, msgspec.msgpack.encode(inputs))
            for entry in kept:
                kept_data += pack_entry(*entry)
                if len(kept_data) >= _ORDER_PIECE:
                    yield channel, time_ns, kept_data
                    kept_data, time_ns = b"", entry.time_ns
            if kept_data:
                yield channel, time_ns, kept_data

    def context(self) -> Iterator[ContextMessage]:
        """Yield what a recording says beside messages."""
        first: dict[str, ContextMessage] = {}  # node → its parameters at the beginning
        last: dict[str, object] = {}
        later = []
        for entry in self.journal:
            content = entry.content
            if isinstance(content, Values):
                if entry.time_ns < self.begin_ns or content.node not in first:
                    channel, _, data = entry_message(entry)
                    first[content.node] = channel, max(entry.time_ns, self.begin_ns), data
                elif content.values != last.get(content.node):
                    later.append(entry_message(entry))
                last[content.node] = content.values
            elif entry.time_ns >= self.begin_ns:
                later.append(entry_message(entry))
        yield from first.values()
        yield from later
        states = (state for state in self.states if state.time_ns >= self.begin_ns - 2 * 10**9)
        for time_ns, data in states_of(self.start.name, states):
            if time_ns >= self.begin_ns:
                yield STATE_CHANNEL, time_ns, data
        yield from self.orders()
        logs = LogReader(self.start.log_directory)
        logs.begin_near_end(_LOG_BYTES)
        for item in logs.entries():
            if item.timestamp_ns >= self.begin_ns:
                yield LOG_CHANNEL, item.timestamp_ns, pack_log(item)
        logs.close()

    def _read_sent(self) -> dict[int, int]:
        """Return how many messages each output has sent, by slot; nothing without the board."""
        try:
            board = Board.open(self.start.board)
        except OSError:
            return {}
        sent = {output.slot: board.get(output.slot, SENT) for output in self.start.outputs}
        board.close()
        return sent


def _run_entries(path: str) -> Iterator[RunEntry]:
    try:
        ring = read_ring(path)
    except OSError:
        return
    for data in ring:
        try:
            yield decode_run_entry(zlib.decompress(data))
        except (zlib.error, DecodeError):
            continue  # overwritten while it was read


def _time_of(entry: RunEntry) -> int:
    return entry.time_ns if isinstance(entry, RawState) else entry.entry.time_ns


def save(box: KeptBox, path: str) -> SavedBlackBox:
    """Write a recording of a black box; a problem is in the result."""
    start = box.start
    part = path + _PART  # nobody shall open half a file
    try:
        if os.path.lexists(path):
            return SavedBlackBox(problem=f"{path} exists already")
        writer = RecordingWriter(part, ChannelTable(), force=True)
    except DoraError as error:
        return SavedBlackBox(problem=str(error))
    try:
        writer.begin(_recording_start(box), start.descriptor)
        messages = MessageWriter(writer)
        for item in sorted(box.context(), key=lambda item: item[1]):
            messages.add_context(item)
        outputs = {output.slot: output for output in start.outputs}
        for kept in box.messages:
            output = outputs[kept.slot]
            messages.add(output.name, kept.time_ns, kept.message, output.type)
        messages.flush()
        last = {name: span.last for name, span in messages.spans.items()}
        expected = {
            output.name: Expected(0, max(box.sent.get(output.slot, 0), last.get(output.name, 0)))
            for output in start.outputs
        }
        topics = topic_ends(expected, messages.spans, from_start=False)
        complete = not any(topic.lost for topic in topics.values())
        failed = sorted(set(failed_nodes(box.journal)))
        end = End(complete=complete, stopped=box.end_ns, reason="saved", topics=topics, failed=failed)
        writer.finish(end)
        os.rename(part, path)
    except RecordingFailed as error:
        return SavedBlackBox(problem=str(error).replace(part, path))
    finally:
        writer.close()
        with suppress(FileNotFoundError):  # it has its name
            os.unlink(part)  # it would take the last room, and the black box still has everything
    return SavedBlackBox(path, len(box.messages), end.lost, writer.size)


def _recording_start(box: KeptBox) -> RecordingStart:
    start = box.start
    dataflow = from_plain(start.model, Dataflow)
    return RecordingStart(
        dora=__version__,
        dataflow_id=start.dataflow_id,
        name=start.name,
        file=start.file,
        working_dir=start.working_dir,
        started=box.begin_ns,
        last_seconds=start.duration_ns / 1e9,
        nodes=list(start.inputs),
        topics=[output.name for output in start.outputs],
        host=platform.node(),
        python=platform.python_version(),
        sources=fingerprints(dataflow, before_ns=start.started),
    )


def _folder(start: BlackBoxStart) -> str:
    """Return the folder of the files of a run, which is made; raises `DoraError`."""
    try:
        make_folder(start.directory, below=start.working_dir)
    except OSError as error:
        raise DoraError(f"{start.directory} cannot be made: {error.strerror}") from None
    return start.directory


@contextmanager
def _one_at_a_time(folder: str) -> Iterator[None]:
    """Wait until no other process saves into this folder: two in one second would take one name."""
    lock = -1
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        pass  # its disk knows no locks
    try:
        yield
    finally:
        if lock >= 0:
            os.close(lock)


def _next_path(start: BlackBoxStart, reason: str) -> str:
    """Return a name for a file of the run, and remove what killed savers have left of theirs."""
    for part in _files_of(start, SUFFIX + _PART):
        if time.time() - os.path.getmtime(part) > _ABANDONED:
            os.unlink(part)
    return unused(f"{start.directory}/{time.strftime('%Y%m%d-%H%M%S')}-{reason}{SUFFIX}")


def _remove_surplus(start: BlackBoxStart) -> None:
    """Remove the oldest files that are too many, now that there is a newer one."""
    with suppress(OSError):  # a user has removed one meanwhile; the next save comes here, too
        there = sorted(_files_of(start, SUFFIX), key=os.path.getmtime)
        for old in there[: max(len(there) - start.files, 0)]:
            os.unlink(old)


def _files_of(start: BlackBoxStart, end: str) -> list[str]:
    return [f"{start.directory}/{name}" for name in os.listdir(start.directory) if name.endswith(end)]


def carry_out(order: SaveOrder) -> SavedBlackBox:
    """Save what an order asks for."""
    try:
        box = KeptBox(order.folder, None if order.dead else time.time_ns())
        if not (box.messages or order.asked):
            return SavedBlackBox()  # nothing was sent, and the log says what happened
        if order.path:  # no lock: the name is given, and a look back holds this folder locked itself
            return save(box, order.path)
        with _one_at_a_time(_folder(box.start)):
            saved = save(box, _next_path(box.start, order.reason))
            if saved.path:
                _remove_surplus(box.start)
            return saved
    except DoraError as error:
        return SavedBlackBox(problem=str(error))
    except OSError as error:
        return SavedBlackBox(problem=f"{error.filename or order.folder}: {error.strerror}")
    except MemoryError:
        return SavedBlackBox(problem="there is no memory to read it")


def _lock(folder: str) -> bool:
    """Lock the folder of a killed run until this process ends; return whether nobody else saves it."""
    try:
        lock = os.open(f"{folder}/{START}", os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _log_problem(folder: str, problem: str) -> None:
    """Write to the log of a killed run why its last seconds are not saved."""
    try:
        with open(f"{folder}/{START}", "rb") as file:
            start: BlackBoxStart = decode_start(file.read())
    except (OSError, DecodeError):
        return  # nobody knows which run that was
    logs = LogFiles(start.log_directory)
    text = f"the last seconds before the run was killed could not be saved: {problem}"
    logs.write(LogEntry(time.time_ns(), "error", None, text, "daemon"))
    logs.close()


def main(arguments: Iterable[str] = sys.argv[1:]) -> None:
    """Save, and report it."""
    (text,) = arguments
    order = from_json(text, SaveOrder)
    os.nice(_NICE)
    if order.dead and not _lock(order.folder):
        return
    saved = carry_out(order)
    if order.dead and saved.problem:
        _log_problem(order.folder, saved.problem)  # and the folder stays: the next start tries once more
    elif order.dead:
        shutil.rmtree(order.folder, ignore_errors=True)
    sys.stdout.buffer.write(msgspec.msgpack.encode(saved))


def states_of(name: str, kept: Iterable[RawState]) -> Iterator[tuple[int, bytes]]:
    """Yield the time, in nanoseconds since the Unix epoch, and the JSON of each state but the first."""
    before = None
    for state in kept:
        inspection = _decode(state.inspection)
        words = memoryview(state.board).cast("Q")
        now = msgspec.structs.replace(Counters(inspection, words).read(), time_ns=state.monotonic_ns)
        if before is not None:
            last, last_state = before[0].with_slots_of(now), before[1]
            outputs, links = rates(inspection, last, now)
            seconds = max(now.time_ns - last.time_ns, 1) / 1e9
            nodes = node_snapshots(inspection, name, outputs, links, _loads(last_state, state))
            networks = network_rates(inspection.machine, last.networks, now.networks, seconds)
            yield state.time_ns, as_json(Snapshot(inspection.machine, nodes, links, networks))
        before = now, state


def _loads(before: RawState, state: RawState) -> dict[int, Load]:
    """Return the load of each process, as proc(5) describes its files stat and statm."""
    seconds = max(state.monotonic_ns - before.monotonic_ns, 1) / 1e9
    loads = {}
    for pid, (stat, statm) in state.processes.items():
        cpu = _cpu_seconds(stat)
        last = before.processes.get(pid)
        percent = 0.0 if last is None else max(0.0, (cpu - _cpu_seconds(last[0])) / seconds * 100)
        loads[pid] = Load(percent, int(statm.split()[1]) * _PAGE, cpu_seconds=cpu)
    return loads


def _cpu_seconds(stat: bytes) -> float:
    fields = stat.rpartition(b")")[2].split()  # behind the name, which may have blanks
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()
