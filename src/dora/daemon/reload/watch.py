"""From a saved file to the nodes and operators that run it."""

from __future__ import annotations

import glob
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from dora.daemon.event_loop import Loop
from dora.daemon.processes.programs import find_program
from dora.daemon.reload.imports import CodeFiles, Sources
from dora.daemon.supervisor.events import CodeChanged
from dora.dataflow.model import Dataflow, NodeSpec

# Notice that files were saved, by looking at them.
#
# Looking, a few times a second, costs microseconds per file, needs neither a thread nor a library, and
# works on every file system, also on shared folders of virtual machines and containers where the
# kernel's notifications do not. It makes no difference to it how an editor saves: in place, or by
# renaming a new file over the old one.

Signature = tuple[int, int, int]  # what differs once a file was saved


def signature(path: str) -> Signature | None:
    """Return the signature of a file, None if there is none now."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


class FileWatch:
    """Some files and how they looked last.

    A change counts once the file looks the same twice in a row, and only together with all others that
    are being saved: nobody reads half a file, or half of a "save all". A file that is gone has not
    changed until it is there again.
    """

    def __init__(self) -> None:
        self._known: dict[str, Signature | None] = {}
        self._moving: dict[str, Signature] = {}
        self._settled: set[str] = set()

    @property
    def is_restless(self) -> bool:
        """Whether a file has changed that was not reported yet."""
        return bool(self._moving)

    def watch(self, files: Iterable[str]) -> None:
        """Watch these files, from how they look now; those watched already, from how they looked."""
        before = self._known
        self._known = {path: before[path] if path in before else signature(path) for path in files}
        self._moving = {path: seen for path, seen in self._moving.items() if path in self._known}

    def look(self) -> frozenset[str]:
        """Return the files that were saved, each once per change."""
        for path, known in self._known.items():
            now = signature(path)
            if now is None or now == known:
                self._moving.pop(path, None)
            elif self._moving.get(path) == now:
                del self._moving[path]
                self._known[path] = now
                self._settled.add(path)
            else:
                self._moving[path] = now
        if self._moving:
            return frozenset()
        settled, self._settled = frozenset(self._settled), set()
        return settled


LOOK_EVERY = 0.2  # seconds
SETTLE = 0.06  # seconds for which a file has to look the same

_Owner = tuple[str, str]  # node id, operator id ("" for a node that is a program)


class HotReload:
    """Watches the Python files of a dataflow and says which nodes and operators have new code.

    Watched are scripts, programs that are Python scripts (such as those that pip makes), operators, and
    the modules of the project that they import. ``nodes`` are the ids of nodes with watched code.
    ``on_change`` gets one event per node. ``note`` (level, node id, text) tells the user the rest.
    """

    def __init__(
        self,
        dataflow: Dataflow,
        loop: Loop,
        on_change: Callable[[CodeChanged], None],
        write_log: Callable[[Literal["error", "info"], str | None, str], None],
    ) -> None:
        self._loop = loop
        self._on_change = on_change
        self._write_log = write_log
        self._file = dataflow.file
        self._sources = Sources()
        self._files = FileWatch()
        self.follow(dataflow)

    def follow(self, dataflow: Dataflow) -> None:
        """Watch the code of another dataflow from now on."""
        self._programs: dict[_Owner, CodeFiles] = {}
        # Nodes of this interpreter whose old code ends before the new code is tried: it is compiled first.
        self._compiled: set[str] = set()
        for node in dataflow.nodes:
            if node.hot_reload == "never":
                continue
            if node.hot_reload == "replace" and node.python is None:
                self._compiled.add(node.id)
            for operator_id, main, roots in _code(node, dataflow):
                program = CodeFiles(main, roots, self._sources)
                # An installed program is of interest only if it runs files of a project.
                if _is_of_a_project(os.path.dirname(main)) or len(program.files) > 1:
                    self._programs[node.id, operator_id] = program
        self.nodes = frozenset(node_id for node_id, _ in self._programs)
        self._watch()

    def start(self) -> None:
        """Look at the files from now on, in the loop's thread."""
        self._loop.call_at(time.monotonic() + LOOK_EVERY, self._look)

    def _watch(self) -> None:
        programs = self._programs.values()
        files = {file for program in programs for file in program.files | program.missing}
        if self._file is not None:
            files.add(self._file)
        self._files.watch(files)

    def _look(self) -> None:
        changed = self._files.look()
        if changed:
            self._tell(changed)
        pause = SETTLE if self._files.is_restless else LOOK_EVERY
        self._loop.call_at(time.monotonic() + pause, self._look)

    def _tell(self, changed: frozenset[str]) -> None:
        for file in changed:
            _forget_bytecode(file)
        self._sources.read_again(changed)
        events: dict[str, CodeChanged] = {}
        for (node_id, operator_id), program in self._programs.items():
            stale = program.stale(changed)
            if not stale:
                continue
            program.follow()
            if node_id in self._compiled and (fault := _first_fault(changed & program.files)):
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
            text = "the dataflow file has changed; that counts from the next `dora run` on"
            self._write_log("info", None, text)
        for event in events.values():
            self._on_change(event)


def _code(node: NodeSpec, dataflow: Dataflow) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (operator id, main file, where its imports are looked for) for what a node runs."""
    beside = [
        *node.env.get("PYTHONPATH", dataflow.env.get("PYTHONPATH", "")).split(os.pathsep),
        *(path for path in sys.path if _is_of_a_project(path)),
    ]
    roots = [os.path.abspath(path) for path in beside if path]
    for operator in node.operators:
        main = os.path.abspath(os.path.join(dataflow.working_dir, operator.python))
        yield operator.id, main, [dataflow.working_dir, os.path.dirname(main), *roots]
    if node.path is None or node.is_dynamic or node.is_shell:
        return
    path = os.path.abspath(os.path.join(dataflow.directory_of(node), os.path.expanduser(node.path)))
    if node.path.endswith(".py"):
        yield "", path, [os.path.dirname(path), *roots]
    elif os.path.isfile(path):
        yield "", path, roots
    elif (program := find_program(node.path)) is not None and _is_python(program):
        yield "", program, roots


def _is_of_a_project(path: str) -> bool:
    """Whether a directory holds no libraries: that of an editable installation does not, say."""
    libraries = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    absolute = os.path.abspath(path)
    return os.path.isdir(absolute) and not any(
        absolute == library or absolute.startswith(library + os.sep) for library in libraries
    )


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


def _is_python(program: str) -> bool:
    try:
        with open(program, "rb") as file:
            first = file.readline(200)
    except OSError:
        return False
    return first.startswith(b"#!") and b"python" in first


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
