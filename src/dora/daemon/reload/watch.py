"""Watches saved files, and finds the nodes and operators that run them.

On Linux, the kernel reports at once that a file was saved. Files are polled twenty times a second as well.
That costs microseconds per file, and works on every system and file system, also on shared folders of
virtual machines and containers, where the kernel sends no notifications. Both work whether an editor saves
in place or renames a new file over the old one.
"""

from __future__ import annotations

import ctypes
import glob
import os
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Final

from dora.daemon.event_loop import READ, Loop, Timer
from dora.daemon.logs.entry import WriteLog
from dora.daemon.reload.imports import CodeFiles, Sources, code_of, is_of_a_project
from dora.daemon.supervisor.events import CodeChanged
from dora.dataflow.model import Dataflow

Signature = tuple[int, int, int]  # differs after a file was saved
_CLOSE_WRITE: Final = 0x8  # see inotify(7)
_MOVED_TO: Final = 0x80
_EVENT: Final = struct.Struct("iIII")
_BUFFER: Final = 1 << 16  # bytes of events that one read takes; the next one takes the rest


def signature(path: str) -> Signature | None:
    """Return the signature of a file, None if there is none now."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class FileWatch:
    """Files and their last signatures.

    A change is reported once the signature is the same twice in a row, and only together with all other
    files that are being saved, so no program starts with half a file or half of a "save
    all". A file that is gone has not changed until it exists again.
    """

    def __init__(self) -> None:
        self._known: dict[str, Signature | None] = {}
        self._unstable: dict[str, Signature] = {}
        self._stable: set[str] = set()

    @property
    def has_unstable(self) -> bool:
        """Whether a file has changed that was not reported yet."""
        return bool(self._unstable)

    def watch(self, files: Iterable[str]) -> None:
        """Watch these files. Those watched already keep their last signature."""
        before = self._known
        self._known = {path: before[path] if path in before else signature(path) for path in files}
        self._unstable = {path: seen for path, seen in self._unstable.items() if path in self._known}

    def poll(self, files: Iterable[str] | None = None) -> frozenset[str]:
        """Return the files that were saved, each once per change. Look at all of them, or at some."""
        for path in self._known if files is None else self._known.keys() & set(files):
            known, now = self._known[path], signature(path)
            if now is None or now == known:
                self._unstable.pop(path, None)
            elif self._unstable.get(path) == now:
                del self._unstable[path]
                self._known[path] = now
                self._stable.add(path)
            else:
                self._unstable[path] = now
        if self._unstable:
            return frozenset()
        stable, self._stable = frozenset(self._stable), set()
        return stable


POLL_EVERY = 0.05  # seconds
STABLE_FOR = 0.04  # seconds for which a signature has to stay the same: a polled file may be half written
# Seconds between files that are saved together, if the kernel reports them. They are shorter than
# `STABLE_FOR`, because it reports a file when the writer has closed it.
TOGETHER = 0.02

_Owner = tuple[str, str]  # node id, operator id ("" for a node that is a program)


class HotReload:
    """Watches the Python files of a dataflow and finds the nodes and operators with new code.

    Watched are scripts, programs that are Python scripts (such as those that pip makes), operators, and
    the modules of the project that they import. ``nodes`` are the ids of nodes with watched code.
    ``on_change`` gets one event per node.
    """

    def __init__(
        self,
        dataflow: Dataflow,
        loop: Loop,
        on_change: Callable[[CodeChanged], None],
        write_log: WriteLog,
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._write_log = write_log
        self._file = dataflow.file
        self._sources = Sources()
        self._files = FileWatch()
        self._notifications = SaveNotifications()
        self._saved: set[str] = set()  # files that were reported by the kernel
        self._timer: Timer | None = None
        self.follow(dataflow)

    def follow(self, dataflow: Dataflow) -> None:
        """Watch the code of another dataflow from now on."""
        self._programs: dict[_Owner, CodeFiles] = {}
        # Nodes whose old code ends before the new code starts. Their new code is compiled first.
        self._compiled: set[str] = set()
        for node in dataflow.nodes:
            if node.hot_reload == "never":
                continue
            if node.hot_reload == "replace" and node.python is None:
                self._compiled.add(node.id)
            for operator_id, main, roots in code_of(node, dataflow):
                program = CodeFiles(main, roots, self._sources)
                # An installed program is of interest only if it runs files of a project.
                if is_of_a_project(os.path.dirname(main)) or len(program.files) > 1:
                    self._programs[node.id, operator_id] = program
        self.nodes = frozenset(node_id for node_id, _ in self._programs)
        self._watch()

    def start(self) -> None:
        """Watch the files from now on, in the loop's thread."""
        self._loop.call_later(POLL_EVERY, self._poll)
        if self._notifications.fileno() >= 0:
            self._loop.watch(self._notifications.fileno(), READ, lambda _: self._on_saved())

    def close(self) -> None:
        """End the watch, when the loop has ended."""
        self._notifications.close()

    def _watch(self) -> None:
        programs = self._programs.values()
        files = {file for program in programs for file in program.files | program.missing}
        if self._file is not None:
            files.add(self._file)
        self._files.watch(files)
        self._notifications.watch(files)

    def _on_saved(self) -> None:
        saved = self._notifications.saved()
        if saved:
            self._saved |= saved
            self._look(saved)  # notes the signatures; the second look finds them unchanged
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(TOGETHER, self._look_at_saved)

    def _look_at_saved(self) -> None:
        saved, self._saved = self._saved, set()
        self._look(saved)

    def _look(self, files: Iterable[str] | None = None) -> None:
        if changed := self._files.poll(files):
            self._report(changed)

    def _poll(self) -> None:
        self._look()
        pause = STABLE_FOR if self._files.has_unstable else POLL_EVERY
        self._loop.call_later(pause, self._poll)

    def _report(self, changed: frozenset[str]) -> None:
        for file in changed:
            _forget_bytecode(file)
        self._sources.read_again(changed)
        events: dict[str, CodeChanged] = {}
        for (node_id, operator_id), program in self._programs.items():
            stale = program.stale(changed)
            if not stale:
                continue
            program.follow()
            if node_id in self._compiled and (fault := _first_fault(program.files)):
                self._write_log(
                    "error", node_id, f"the new code does not start, the old code goes on: {fault}"
                )
                continue
            before = events.get(node_id, CodeChanged(node_id))
            if operator_id:
                modules = (*before.modules, *sorted(stale - {program.main}))
                operators = (*before.operators, operator_id)
                events[node_id] = CodeChanged(node_id, operators, tuple(dict.fromkeys(modules)))
            else:
                events[node_id] = before
        self._watch()
        if self._file in changed:
            text = "the dataflow file has changed; the change takes effect with the next `dora run`"
            self._write_log("info", None, text)
        for event in events.values():
            self._on_change(event)


def _first_fault(files: Iterable[str]) -> str:
    """Return the syntax error of one of the files, "" if there is none."""
    for path in sorted(files):
        try:
            with open(path, "rb") as file:
                compile(file.read(), path, "exec", dont_inherit=True)
        except SyntaxError as error:
            return f"SyntaxError: {error.msg} ({path}:{error.lineno})"
        except (OSError, ValueError, RecursionError, MemoryError) as error:
            return f"{type(error).__name__}: {error} ({path})"
    return ""


def _forget_bytecode(file: str) -> None:
    """Remove what Python compiled from a file: it knows a file by its second and size only."""
    directory, name = os.path.split(file)
    stem, extension = os.path.splitext(name)
    if extension != ".py":
        return
    for cached in glob.glob(f"{glob.escape(directory)}/__pycache__/{glob.escape(stem)}.*.pyc"):
        try:
            os.unlink(cached)
        except OSError:
            pass


class SaveNotifications:
    """Reports which of some files have been closed after a write, or replaced by a rename (inotify).

    ``fileno()`` is readable when there are any; -1 where the kernel cannot report. File systems of other
    machines, such as shared folders, send nothing.
    """

    def __init__(self) -> None:
        self._files: dict[tuple[int, str], list[str]] = {}  # by watch and name in the folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = -1
        if sys.platform.startswith("linux"):
            self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        return self._descriptor

    def watch(self, files: Iterable[str]) -> None:
        """Watch these files from now on. They need not exist, and may be links."""
        if self._descriptor < 0:
            return
        self._files = {}
        for path in files:
            for place in {path, os.path.realpath(path)}:
                folder, name = os.path.split(place)
                # A folder that is watched already keeps its number.
                number = self._libc.inotify_add_watch(
                    self._descriptor, os.fsencode(folder), _CLOSE_WRITE | _MOVED_TO
                )
                if number >= 0:
                    self._files.setdefault((number, name), []).append(path)

    def saved(self) -> set[str]:
        """Return the files that were saved since the last call."""
        found: set[str] = set()
        try:
            events = os.read(self._descriptor, _BUFFER)
        except BlockingIOError:
            return found
        while events:
            number, _, _, length = _EVENT.unpack_from(events)
            name = events[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
            found.update(self._files.get((number, os.fsdecode(name)), ()))
            events = events[_EVENT.size + length :]
        return found

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
