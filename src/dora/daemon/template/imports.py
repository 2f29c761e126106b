"""Imports of packages in a template process, and what they do to the process."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Iterable, Mapping, Sequence
from traceback import format_exception
from types import TracebackType

from dora._ending import remember_modules
from dora.daemon.template import generators
from dora.daemon.template.checks import PackageFiles, Traces
from dora.daemon.template.children import kill_descendants
from dora.daemon.template.forked import memory_layout
from dora.daemon.template.protocol import Refused
from dora.daemon.template.variables import Variables, variables


class Imports:
    """The packages that a template has imported, and the traces of that in the process.

    ``reads`` are the variables that were read meanwhile, ``changes`` the variables that were changed,
    ``printed`` is what was printed, ``files`` notice changes of packages, and ``refusal`` says why no
    process can be forked after these imports, if so.
    """

    def __init__(self) -> None:
        self.reads: frozenset[str] = frozenset()
        self.changes = Variables({}, {})
        self.printed = b""
        self.refusal = Refused("")
        self.files: PackageFiles  # after the first ones

    def load(self, names: Sequence[str], named: Mapping[str, str]) -> None:
        """Import packages; ``named`` are those that a dataflow names, and where."""
        name = ""
        before, variables_before = Traces(), variables()
        record = _HeldOutput()
        with _ReadVariables() as read, generators.recorded():
            try:
                for name in names:
                    importlib.import_module(name)
            except BaseException as error:  # noqa: BLE001 - a package may raise anything
                self.refusal = _failed_import(name, error, named)
        self.printed += record.finish()
        self.reads |= read.names
        new = variables().since(variables_before)
        self.changes = Variables(self.changes.python | new.python, self.changes.compiled | new.compiled)
        left = "starts processes" if kill_descendants(os.getpid()) else Traces().left_since(before)
        if left and not self.refusal.reason:
            self.refusal = fault_of(names, left, named)
        self.files = PackageFiles()
        remember_modules()
        memory_layout()  # kept for the forks, in which it is the same
        # Last of all, because a collection in a fork would write to the pages that it shares. Garbage goes
        # first: it would never be collected.
        gc.collect()
        gc.freeze()


def fault_of(names: Sequence[str], what: str, named: Mapping[str, str]) -> Refused:
    """Return that importing modules does something, with the place of the first that the dataflow names."""
    place = next((named[name] for name in names if name in named), "")
    return Refused(f"importing {', '.join(package_names(names) or names)} {what}", place)


def _failed_import(name: str, error: BaseException, named: Mapping[str, str]) -> Refused:
    """Return why an import has failed; with the traceback if the dataflow names the package."""
    refused = fault_of([name], f"fails: {type(error).__name__}: {error}", named)
    if not refused.place:
        return refused
    traceback = error.__traceback__
    while traceback is not None and not _is_of_a_package(traceback):
        traceback = traceback.tb_next
    fault = "".join(format_exception(type(error), error, traceback))
    return Refused(refused.reason, refused.place, fault)


def _is_of_a_package(traceback: TracebackType) -> bool:
    """Return whether a traceback begins in code of a package, and not in what imports it."""
    file = traceback.tb_frame.f_code.co_filename
    return file != __file__ and not file.startswith("<frozen importlib") and "importlib" not in file


def package_names(modules: Iterable[str]) -> list[str]:
    """Return the packages of modules, other than dora."""
    names = dict.fromkeys(name.partition(".")[0] for name in modules)
    return [name for name in names if name != "dora"]


class _HeldOutput:
    """The output of this process meanwhile; its forks print it as theirs."""

    def __init__(self) -> None:
        self._kept = [os.dup(1), os.dup(2)]
        self._file = os.memfd_create("dora-template-output")
        for descriptor in (1, 2):
            os.dup2(self._file, descriptor)

    def finish(self) -> bytes:
        for descriptor, kept in zip((1, 2), self._kept, strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)
        printed = os.pread(self._file, os.fstat(self._file).st_size, 0)
        os.close(self._file)
        return printed


class _RecordingEnviron(type(os.environ)):  # type: ignore[misc]
    """``os.environ`` while packages are imported: notes the names that are read."""

    def __getitem__(self, key: str) -> str:
        _names_read.add(key)
        return super().__getitem__(key)  # type: ignore[no-any-return]


_names_read: set[str] = set()


class _ReadVariables:
    """The variables that Python code reads meanwhile."""

    def __enter__(self) -> _ReadVariables:
        _names_read.clear()
        self._kind = type(os.environ)
        os.environ.__class__ = _RecordingEnviron
        return self

    def __exit__(self, *_: object) -> None:
        os.environ.__class__ = self._kind
        self.names = frozenset(_names_read)
