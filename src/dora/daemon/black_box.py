"""The black box of a run: its last seconds, in shared memory, and how they become files.

Nodes write what they send, and the order in which they take events, into rings that nobody reads
(`dora.transport.shm.overwriting_ring`). The daemon gives the rings memory, and once a second writes to its
own: what happened, and the state of all nodes and links. When something happens that is worth a file, it
starts a process that reads the rings (`dora.recording.save_black_box`). So a fault there harms neither the
run nor the daemon.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from typing import Final

import msgspec

from dora._paths import SHARED_MEMORY
from dora.daemon.event_loop import READ, Loop
from dora.daemon.guardian import box_of
from dora.daemon.journal import Journal
from dora.daemon.logs.entry import WriteLog
from dora.daemon.processes.process import reap
from dora.dataflow.layout import Plan, RunContext, text_outputs
from dora.dataflow.model import Dataflow
from dora.errors import DoraError
from dora.transport.board import BYTES, SENT, WORDS
from dora.transport.fence import FENCED
from dora.transport.shm.overwriting_ring import OverwritingRing, OverwritingWriter
from dora.transport.shm.room import free_bytes
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
    decode_saved,
)
from dora.wire.daemon_protocol import Inspection
from dora.wire.journal import JournalEntry, Mark
from dora.wire.node_config import WriteEventLog

MEMORY: Final = 64 << 20  # bytes: ten minutes of JPEG pictures of 100 kB at one a second
_SHARE_OF_MACHINE: Final = 50  # it takes at most this part of the machine's memory: 2 %
_SHARE_OF_FREE: Final = 4  # and this part of the free shared memory; the rest is for messages
# Bytes of a ring of messages, until it needs more. A smaller ring may overwrite the first second of a run
# before the daemon looks.
_FIRST_ROOM: Final = 256 << 10
_GROWTH: Final = 4  # how many times as much room a ring gets
_ORDER_ROOM: Final = 32 << 10
_RUN_SHARE: Final = 16  # the ring of the daemon takes this part of the memory
_LEAST: Final = 8 << 10  # bytes of a ring; with less, an output is left out
_HEADS: Final = 4 << 10  # bytes of a message besides its payload, roughly

TICK: Final = 1.0  # seconds; a look at a run of three nodes takes the daemon 0.8 ms
_AFTER: Final = 1.0  # seconds after a failure that are saved with it: what it has led to
_REPEAT: Final = 10.0  # seconds after which the parameters are written again: the ring overwrites them
# Seconds between two files that nobody has asked for: a node that fails again and again would replace the
# file of the first failure, because only some files of a run stay.
_PAUSE: Final = 10.0
_PART: Final = 256 << 10  # bytes of a file that are sent at once: the thread of the daemon reads them
_PATIENCE: Final = 30.0  # seconds for a file at the end of the run; then its process is killed

Answer = Callable[[SavedBlackBox], None]


class _Ring:
    """A ring of the black box, and how fast it fills."""

    def __init__(self, path: str, room: int, most: int, *, large: bool = False, slot: int = -1) -> None:
        self.ring = OverwritingRing(path, room, most)
        self.large = large
        self.slot = slot  # of the output; -1: it is of no output
        self.begin = self._lap_begun = time.monotonic()
        self._laps = self._filled = 0

    def is_too_short(self, now: float, seconds: float) -> bool:
        """Whether it needs room before the next look, because it holds less than so many seconds."""
        ring = self.ring
        if not ring.is_used:
            self._lap_begun = now
            return False
        if self._laps != ring.laps:
            short = now - self._lap_begun < seconds
            self._laps, self._lap_begun, self._filled = ring.laps, now, ring.filled
            return short
        since, self._filled = ring.filled - self._filled, ring.filled
        # Twice as much may come until the next look: a node that starts sends in a part of the first one.
        return ring.needs_room(2 * since) and now - self._lap_begun < seconds


def machine_memory() -> int:
    """Return how many bytes of memory this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def default_memory() -> int:
    """Return how many bytes a black box takes at most, if the dataflow does not say."""
    return min(MEMORY, machine_memory() // _SHARE_OF_MACHINE)


class BlackBox:
    """The black box of one run, for the thread of the daemon."""

    def __init__(
        self,
        dataflow: Dataflow,
        plan: Plan,
        context: RunContext,
        seconds: float | None,
        directory: str,
        name: str,
        *,
        words: memoryview,
        loop: Loop,
        journal: Journal,
        inspect: Callable[[], Inspection],
        is_open: Callable[[], bool],
        resume: Callable[[WriteEventLog], None],
        log: WriteLog,
    ) -> None:
        """Make the rings; without memory, or elsewhere than on Linux, it is off.

        ``seconds``: of the options; 0: off, None: as the dataflow says. ``directory``: of the logs.
        ``inspect`` returns the state of the run, ``is_open`` whether all nodes were ready. ``resume`` sends
        a frame to all nodes.
        """
        self._saved: list[str] = []
        self._working_dir = dataflow.working_dir
        self._settings = settings = dataflow.black_box
        self._loop, self._journal, self._words = loop, journal, words
        self._inspect, self._is_open, self._resume, self._log = inspect, is_open, resume, log
        self._context, self._name = context, name
        self._directory = directory
        self._started = time.time_ns()
        self._duration = settings.duration_ns / 1e9 if seconds is None else seconds
        self._rings: dict[str, _Ring] = {}
        self._writer: OverwritingWriter | None = None
        self._savers: dict[int, _Saver] = {}  # by descriptor
        self._due: float | None = None  # when a file is saved by itself
        self._reason = ""
        self._last_save = -math.inf
        self._values_due = 0.0
        self._sent: dict[int, int] = {}  # slot → messages of an output that saves
        self.folder = ""
        is_on = bool(self._duration) and (settings.enabled or seconds is not None)
        if not is_on or not FENCED or sys.platform != "linux" or not os.path.isdir(SHARED_MEMORY):
            return
        self._left = self._memory()
        self._large_left = self._large_room = self._left * 3 // 4
        self.folder = box_of(context.prefix)
        try:
            os.mkdir(self.folder, 0o700)
            os.mkdir(f"{self.folder}/{ORDER}", 0o700)
            self._add(RUN, max(self._left // _RUN_SHARE, _LEAST), grows=False)
            self._writer = OverwritingWriter(f"{self.folder}/{RUN}")
            self.follow(dataflow, plan)
        except OSError as error:  # the run goes on without it
            self.folder = ""
            log("warn", None, f"there is no memory for the black box: {error.strerror}")
            return
        journal.on_entry = self._on_entry
        for entry in journal.entries(0).entries:
            self._write(JournalState(entry))

    @property
    def saved(self) -> list[str]:
        """The files that are there, oldest first; without files for which a path was given."""
        return [path for path in self._saved if os.path.exists(path)]

    def _memory(self) -> int:
        free = (free_bytes() or 0) // _SHARE_OF_FREE
        return min(self._settings.memory or default_memory(), free)

    # ----------------------------------------------------------------------- rings

    def follow(self, dataflow: Dataflow, plan: Plan) -> None:
        """Keep the outputs and nodes of this dataflow from now on; raises ``OSError``."""
        if not self.folder:
            return
        kept: list[KeptOutputView] = []
        self._saving = []
        for node in dataflow.nodes:
            config = plan.configs.get(node.id)
            if config is None:
                continue
            texts = text_outputs(node)
            for output in config.outputs:
                output_name = f"{node.id}/{output.id}"
                if output_name in self._settings.save_on:
                    self._saving.append((output_name, output.slot))
                if output.id not in texts and self._settings.keeps(output_name):
                    kept.append(KeptOutputView(output_name, output.slot, output.type))
        names = [*(str(item.slot) for item in kept), *(f"{ORDER}/{node_id}" for node_id in plan.configs)]
        new = [name for name in names if name not in self._rings]
        room = min(_FIRST_ROOM, self._left // 2 // max(len(new), 1))
        for name in new:
            order = name.startswith(ORDER)
            first = min(room, _ORDER_ROOM) if order else room
            if first >= _LEAST:
                self._add(name, first, slot=-1 if order else int(name))
                if not order:
                    self._add(name + LARGE, 1, slot=int(name), large=True)
        self._lines = plan.lines
        self._write_start(dataflow, plan, kept)

    def _add(
        self, name: str, room: int, *, slot: int = -1, large: bool = False, grows: bool = True
    ) -> None:
        room = max(room, os.sysconf("SC_PAGE_SIZE"))
        most = (self._settings.memory or default_memory()) if grows else room
        self._rings[name] = _Ring(f"{self.folder}/{name}", room, max(most, room), large=large, slot=slot)
        self._left -= self._rings[name].ring.room

    def _write_start(self, dataflow: Dataflow, plan: Plan, kept: list[KeptOutputView]) -> None:
        context = self._context
        start = BlackBoxStart(
            dataflow_id=context.dataflow_id,
            name=self._name or dataflow.file_stem,
            file=dataflow.file,
            working_dir=dataflow.working_dir,
            machine=context.placement.machine,
            started=self._started,
            duration_ns=int(self._duration * 1e9),
            directory=f"{self._directory}/black-box",
            log_directory=self._directory,
            files=self._settings.files,
            board=context.board,
            outputs=kept,
            inputs={
                node_id: {item.id: item.source for item in config.inputs}
                for node_id, config in plan.configs.items()
            },
            descriptor=msgspec.json.encode(dataflow.descriptor, enc_hook=str),
            model=msgspec.to_builtins(dataflow),
        )
        path = f"{self.folder}/{START}"
        # A process that saves may read it at any moment, so it is never there in part.
        new = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(new, "wb") as file:
            file.write(msgspec.msgpack.encode(start))
        os.replace(f"{path}.new", path)

    @property
    def frame(self) -> WriteEventLog | None:
        """The frame for a node that starts; None if the black box is off."""
        return WriteEventLog(black_box=self.folder) if self.folder else None

    def start(self) -> None:
        """Begin to look once a second."""
        if self.folder:
            self._write_state()  # rates follow from two states: a run that soon fails has one, too
            self._loop.call_later(TICK, self._tick)

    def _tick(self) -> None:
        now = time.monotonic()
        self._loop.call_later(TICK, self._tick)
        self._write_state()
        if now >= self._values_due:
            self._values_due = now + _REPEAT
            for entry in self._journal.entries(0).entries:
                self._write(JournalState(entry))
        large = sum(1 for ring in self._rings.values() if ring.large and ring.ring.is_used)
        for ring in self._rings.values():
            if ring.is_too_short(now, self._duration):
                self._grow(ring, self._large_room // max(large, 1))
        # Apart from the ring of the daemon, which goes on writing whatever that says.
        is_paused = any(ring.ring.is_paused for name, ring in self._rings.items() if name != RUN)
        if is_paused and self.frame is not None:
            self._resume(self.frame)
        for name, slot in self._saving:
            sent = self._words[slot * WORDS + SENT]
            if sent > self._sent.setdefault(slot, 0):
                self._sent[slot] = sent
                self._journal.mark("note", name.partition("/")[0], f"`{name}` has sent a message")
                self._plan_save("output")

    def _grow(self, ring: _Ring, most: int) -> None:
        """Enlarge a ring while there is memory, one for large messages to at most ``most`` bytes."""
        room = ring.ring.room
        wanted = _GROWTH * room
        if ring.large:
            base = ring.slot * WORDS
            sent = self._words[base + SENT]
            wanted = max(wanted, 2 * (self._words[base + BYTES] // max(sent, 1) + _HEADS))
            wanted = min(wanted, most, room + self._large_left)
        wanted = min(wanted, room + self._left)
        if wanted > room and ring.ring.grow(wanted):
            self._left -= ring.ring.room - room
            if ring.large:
                self._large_left -= ring.ring.room - room

    # ----------------------------------------------------------------------- what the daemon writes

    def _write(self, entry: RunEntry) -> None:
        assert self._writer is not None
        self._writer.write(zlib.compress(msgspec.msgpack.encode(entry), 1))

    def _write_state(self) -> None:
        inspection = self._inspect()
        processes = {}
        for node in inspection.nodes:
            if node.pid is not None and (files := _process_files(node.pid)) is not None:
                processes[node.pid] = files
        self._write(
            RawState(
                time.time_ns(),
                time.monotonic_ns(),
                msgspec.msgpack.encode(inspection),
                self._words[: self._lines * WORDS].tobytes(),
                processes,
            )
        )

    def _on_entry(self, entry: JournalEntry, save: bool) -> None:
        self._write(JournalState(entry))
        mark = entry.content
        if isinstance(mark, Mark) and (save or mark.kind in ("failed", "safe_state")) and self._is_open():
            self._plan_save(mark.kind.replace("_", "-"))

    # ----------------------------------------------------------------------- files

    def _plan_save(self, reason: str) -> None:
        """Save in a second, or at the end of the pause after the last file."""
        if self._due is None:
            self._due = max(time.monotonic() + _AFTER, self._last_save + _PAUSE)
            self._reason = reason
            self._loop.call_at(self._due, self._save_if_due)

    def _save_if_due(self) -> None:
        if self._due is not None:
            self._save_by_itself()

    def _save_by_itself(self) -> None:
        self._due, self._last_save = None, time.monotonic()

        def note(saved: SavedBlackBox) -> None:
            if saved.path:
                self._saved.append(saved.path)
                where = os.path.relpath(saved.path, self._working_dir)
                self._log("info", None, f"the last seconds are saved in {where}")
            if saved.problem:
                self._log("warn", None, f"the last seconds could not be saved: {saved.problem}")

        self._start_saver(SaveOrder(self.folder, reason=self._reason), note)

    def save(self, path: str, note: str, answer: Answer) -> None:
        """Write a file now; ``answer`` is called once it is there. ``path``: "" for a name of the time."""
        if not self.folder:
            answer(SavedBlackBox(problem="the black box of this dataflow is off"))
            return
        if note:
            self._journal.mark("note", None, note)
        elif not path:
            self._journal.mark("saved", None, "saved by a user")
        self._write_state()  # the last one may be a second old

        def keep(saved: SavedBlackBox) -> None:
            if saved.path and not path:
                self._saved.append(saved.path)
            answer(saved)

        self._start_saver(SaveOrder(self.folder, path=path, asked=True), keep)

    def read_saved(self, path: str, offset: int) -> bytes | None:
        """Return a part of a file of this run, None if it is none."""
        if path not in self._saved:
            return None
        try:
            with open(path, "rb") as file:
                file.seek(max(offset, 0))
                return file.read(_PART)
        except OSError:
            return None  # a newer file has replaced it, or the user has removed it

    def _start_saver(self, order: SaveOrder, answer: Answer) -> None:
        try:
            saver = _Saver(order, answer)
        except OSError as error:
            answer(SavedBlackBox(problem=f"no process can be started for it: {error.strerror}"))
            return
        self._savers[saver.fd] = saver
        self._loop.watch(saver.fd, READ, lambda _: self._read(saver))

    def _read(self, saver: _Saver) -> None:
        if not saver.read():
            self._loop.unwatch(saver.fd)
            del self._savers[saver.fd]
            saver.finish()

    def finish(self) -> None:
        """Write what is still to be saved, and wait for it, at most `_PATIENCE` seconds."""
        if not self.folder:
            return
        if self._due is not None:
            self._write_state()
            self._save_by_itself()
        deadline = time.monotonic() + _PATIENCE
        while self._savers and time.monotonic() < deadline:
            self._loop.run_once(deadline)
        for saver in self._savers.values():
            self._loop.unwatch(saver.fd)
            saver.give_up(f"it took more than {_PATIENCE:g} s")
        self._savers.clear()

    def close(self) -> None:
        """End processes that still save."""
        for saver in self._savers.values():
            saver.kill()


class _Saver:
    """The process that writes a file."""

    def __init__(self, order: SaveOrder, answer: Answer) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "dora.recording.save_black_box", msgspec.json.encode(order).decode()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at a terminal must not end it
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        self.fd = self._stdout.fileno()
        self._answer = answer
        self._data = b""

    def read(self) -> bool:
        """Read what it says; return False at its end."""
        data = os.read(self.fd, 1 << 16)
        self._data += data
        return bool(data)

    def finish(self) -> None:
        self._stdout.close()
        reap(self._process)
        try:
            saved = decode_saved(self._data)
        except (msgspec.DecodeError, DoraError):
            saved = SavedBlackBox(problem="the process that writes it has failed")
        self._answer(saved)

    def give_up(self, problem: str) -> None:
        self.kill()
        self._answer(SavedBlackBox(problem=problem))

    def kill(self) -> None:
        self._process.kill()
        self._stdout.close()
        reap(self._process)


def _process_files(pid: int) -> tuple[bytes, bytes] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat, open(f"/proc/{pid}/statm", "rb") as statm:
            return stat.read(), statm.read()
    except OSError:
        return None  # it has just ended
