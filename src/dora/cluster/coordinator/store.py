"""The records of dataflows: one SQLite file, which a killed coordinator leaves whole.

Every change is one transaction in a write-ahead log. The file is for one coordinator at a time, which
therefore reads it once: views are answered from memory.

A full disk must not stop anything that runs. A report of a daemon, or the parameters of a node, are then
true in memory and written later, see `Store.flush`; requests are refused.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec

from dora._shared_folders import open_file
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import (
    ACTIVE,
    ParametersSet,
    RunReport,
    RunSpec,
    encode,
)
from dora.cluster.refusal import Refusal
from dora.daemon.report import first_cause
from dora.daemon.supervisor.result import DataflowResult
from dora.errors import DoraError
from dora.wire.decoders import from_json, from_plain
from dora.wire.operations import ProposedChange

SCHEMA = 3
# Records of ended dataflows that are kept. The oldest go, with their collected logs and copies of folders.
MAX_ENDED = 1000

_TABLE = """
CREATE TABLE IF NOT EXISTS dataflows (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    nodes TEXT NOT NULL,
    file TEXT,
    log_directory TEXT NOT NULL,
    daemons TEXT NOT NULL,
    created REAL NOT NULL,
    ended REAL,
    reason TEXT NOT NULL DEFAULT '',
    result TEXT,
    spec TEXT NOT NULL
)
"""
_COLUMNS = ("uuid", "name", "status", "nodes", "file", "log_directory", "created", "ended", "reason")


MEMORY: Final = ":memory:"
LOCK_TIMEOUT: Final = 3.0  # seconds that a coordinator may hold its store after it has released its port


class Store:
    """The records in one file."""

    def __init__(self, path: str) -> None:
        """Open the file, made if necessary; `MEMORY` is none. Raises `DoraError`."""
        self.path = path
        self.fault = ""  # why something is not written yet
        self.on_remove: Callable[[DataflowView], None] = lambda _: None  # called with each record that goes
        self._views: dict[str, DataflowView] = {}  # without results, the oldest first
        self._active: dict[str, dict[str, str]] = {}  # dataflow → machine → the daemon that has it
        self._unwritten: dict[str, tuple[RunReport, dict[str, str]]] = {}  # dataflow → report, daemons
        self._unwritten_specs: dict[str, RunSpec] = {}
        try:
            if path != MEMORY:
                os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
                os.close(open_file(path, os.O_RDWR | os.O_CREAT, mode=0o600))
                for ending in ("-wal", "-shm"):  # SQLite opens them by their names
                    with suppress(FileNotFoundError):
                        os.close(open_file(path + ending, os.O_RDWR))
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            # Changes do not wait for the disk. A power loss may take the last ones; machines that are ahead
            # of the record describe the dataflow to it (`Changes.adopt`).
            self._db.execute("PRAGMA synchronous = NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA):
                raise DoraError(
                    f"the store {path} is of another version of dora; `dora up --recreate-store` begins a "
                    "new one and keeps the old one as a backup"
                )
            if version != SCHEMA:
                self._db.execute(_TABLE)
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")
            for *row, text in self._db.execute(
                f"SELECT {', '.join(_COLUMNS)}, daemons FROM dataflows ORDER BY created, uuid"
            ):
                daemons = from_json(text, dict[str, str])
                view = _view(row, daemons)
                self._views[view.uuid] = view
                if view.status in ACTIVE:
                    self._active[view.uuid] = daemons
        except (OSError, sqlite3.Error, msgspec.DecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            if _is_full(error):
                mend = "make room on the disk"
            elif isinstance(error, OSError):
                mend = "name a folder that can be written in DORA_DATA_DIR"
            else:
                mend = "`dora up --recreate-store` begins a new one"
            raise DoraError(f"the store {path} cannot be used: {why}; {mend}") from error

    def add(self, dataflow_id: str, spec: RunSpec, view: DataflowView, daemons: dict[str, str]) -> None:
        """Record a dataflow that is about to start; raises `Refusal` if the disk does not take it.

        ``daemons`` is machine → the daemon that is to start its part.
        """
        values = {name: getattr(view, name) for name in _COLUMNS}
        values |= {"nodes": _json(view.nodes), "daemons": _json(daemons), "spec": _json(spec)}
        with self._refused("the dataflow cannot be recorded, and is not started"):
            self._db.execute(
                f"INSERT INTO dataflows ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
                tuple(values.values()),
            )
        self._views[dataflow_id] = view
        self._active[dataflow_id] = daemons

    def redefine(self, dataflow_id: str, change: ProposedChange, daemons: dict[str, str]) -> None:
        """Record a changed dataflow; one that is not in the store is ignored.

        ``daemons`` as for `add`. Raises `Refusal` if the disk does not take it.
        """
        view = self._views.get(dataflow_id)
        if view is None:
            return
        nodes = [node["id"] for node in change.dataflow["nodes"]]
        spec = self.spec(dataflow_id).after(change)
        with self._refused("the change cannot be recorded"):
            self._change(dataflow_id, spec=_json(spec), nodes=_json(nodes), daemons=_json(daemons))
        self._unwritten_specs.pop(dataflow_id, None)
        self._views[dataflow_id] = msgspec.structs.replace(view, nodes=nodes, machines=sorted(daemons))
        if view.status in ACTIVE:
            self._active[dataflow_id] = daemons
        if dataflow_id in self._unwritten:
            self._unwritten[dataflow_id] = self._unwritten[dataflow_id][0], daemons

    def set_parameters(self, message: ParametersSet) -> list[str]:
        """Record that a node has other parameters; a dataflow that is not in the store is ignored.

        Returns as `flush` does; raises `Refusal` if the record cannot be read.
        """
        dataflow_id = message.dataflow_id
        if dataflow_id not in self._views:
            return []
        spec = self.spec(dataflow_id).with_parameters(message.node, message.parameters)
        self._unwritten_specs[dataflow_id] = spec
        return self.flush()

    def update(self, report: RunReport, daemons: dict[str, str]) -> list[str]:
        """Record how a run is; one that is not in the store is ignored. Returns as `flush` does."""
        view = self._views.get(report.dataflow_id)
        if view is None:
            return [report.dataflow_id]
        over = report.status not in ACTIVE
        self._views[view.uuid] = msgspec.structs.replace(
            view,
            status=report.status,
            reason=_reason(report, view.file),
            ended=time.time() if over else None,
            machines=sorted(daemons),
        )
        if over:
            self._active.pop(view.uuid, None)
        else:
            self._active[view.uuid] = daemons
        self._unwritten[view.uuid] = report, daemons
        return self.flush()

    def flush(self) -> list[str]:
        """Write what is not written yet; return the dataflows of which nothing is left to be written.

        ``fault`` says afterwards why something is, "" if nothing is.
        """
        written = []
        self.fault = ""
        try:
            for dataflow_id, spec in list(self._unwritten_specs.items()):
                self._change(dataflow_id, spec=_json(spec))
                del self._unwritten_specs[dataflow_id]
            for dataflow_id, (report, daemons) in list(self._unwritten.items()):
                self._write(report, daemons)
                del self._unwritten[dataflow_id]
                written.append(dataflow_id)
            self._remove_oldest()
        except sqlite3.Error as error:
            self.fault = str(error)
        return written

    def _write(self, report: RunReport, daemons: dict[str, str]) -> None:
        view = self._views[report.dataflow_id]
        self._change(
            view.uuid,
            status=report.status,
            reason=view.reason,
            result=None if report.result is None else _json(report.result),
            ended=view.ended,
            daemons=_json(daemons),
        )

    def _change(self, dataflow_id: str, **columns: str | float | None) -> None:
        """Write columns of a record."""
        self._db.execute(
            f"UPDATE dataflows SET {', '.join(f'{name} = ?' for name in columns)} WHERE uuid = ?",
            (*columns.values(), dataflow_id),
        )

    def _remove_oldest(self) -> None:
        surplus = len(self._views) - len(self._active) - MAX_ENDED
        if surplus <= 0:
            return
        ended = [view for view in self._views.values() if view.uuid not in self._active]
        ended.sort(key=lambda view: view.ended or 0.0)
        self._remove([view.uuid for view in ended[:surplus]])

    def _remove(self, dataflow_ids: list[str]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("DELETE FROM dataflows WHERE uuid = ?", [(uuid,) for uuid in dataflow_ids])
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        for dataflow_id in dataflow_ids:  # after the commit: files go only with a record that is gone
            view = self._views.pop(dataflow_id)
            self._unwritten.pop(dataflow_id, None)
            self._unwritten_specs.pop(dataflow_id, None)
            self.on_remove(view)

    def views(self) -> list[DataflowView]:
        """Return all records without results, the oldest first."""
        return list(self._views.values())

    def view(self, dataflow_id: str) -> DataflowView:
        """Return one record with its result; raises ``KeyError``."""
        view = self._views[dataflow_id]
        if dataflow_id in self._unwritten:
            return msgspec.structs.replace(view, result=self._unwritten[dataflow_id][0].result)
        if view.status in ACTIVE:
            return view
        text = self._read("result", dataflow_id)
        return (
            view if text is None else msgspec.structs.replace(view, result=from_json(text, DataflowResult))
        )

    def spec(self, dataflow_id: str) -> RunSpec:
        """Return the spec of a dataflow; raises ``KeyError``."""
        if (spec := self._unwritten_specs.get(dataflow_id)) is not None:
            return spec
        return from_json(self._read("spec", dataflow_id) or "", RunSpec)

    def _read(self, column: str, dataflow_id: str) -> str | None:
        with self._refused("the record cannot be read"):
            row = self._db.execute(
                f"SELECT {column} FROM dataflows WHERE uuid = ?", (dataflow_id,)
            ).fetchone()
        if row is None:
            raise KeyError(dataflow_id)
        text: str | None = row[0]
        return text

    def find(self, dataflow_id: str) -> DataflowView | None:
        """Return one record without its result, None if there is none."""
        return self._views.get(dataflow_id)

    def active(self) -> dict[str, dict[str, str]]:
        """Return the dataflows that have not ended: id → machine → the daemon that has it."""
        return dict(self._active)

    def remove_ended(self) -> list[DataflowView]:
        """Remove the records of ended dataflows, and return them; raises `Refusal` if the disk is full."""
        removed = [view for view in self._views.values() if view.uuid not in self._active]
        with self._refused("the records cannot be removed"):
            self._remove([view.uuid for view in removed])
        return removed

    @contextmanager
    def _refused(self, what: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise Refusal(507, f"{what}: {error} ({self.path})") from None

    def close(self) -> None:
        self._db.close()


def _json(value: object) -> str:
    return encode(value).decode()


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def _reason(report: RunReport, file: str | None) -> str:
    """Return why a run failed: what the report says, or else the first cause among its nodes."""
    if report.reason or report.result is None:
        return report.reason
    return first_cause(report.result, os.path.dirname(file or ""))


def _view(row: Iterable[Any], daemons: Iterable[str]) -> DataflowView:
    """Return the view of a record, from the values of `_COLUMNS`."""
    values = dict(zip(_COLUMNS, row, strict=True))
    return from_plain(
        {**values, "nodes": from_json(values["nodes"]), "machines": sorted(daemons)}, DataflowView
    )


def lock_store(path: str, mend: str) -> int | None:
    """Return the descriptor that keeps other coordinators, at other ports or addresses, away from a store.

    Raises `DoraError`, with that mend, if another one has it. None for a file that cannot be used: `Store`
    reports that.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        lock = open_file(path, os.O_RDWR | os.O_CREAT, mode=0o600)
    except OSError:
        return None
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel frees it, however this ends
        except OSError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            os.close(lock)
            raise DoraError(f"the store {path} is in use by another coordinator; {mend}") from None
        return lock


def back_up_store(path: str) -> str | None:
    """Move a store out of the way, to ``.backup``; return where it is now, None if there is none.

    A file that is there already stays: the name is then ``.backup2`` and so on. Raises `DoraError` if a
    coordinator has the store, at whichever address.
    """
    if not os.path.exists(path):
        return None
    lock = lock_store(
        path, "end it with `dora down`, and --coordinator-addr if it listens at another address"
    )
    try:
        backup = next(
            name
            for name in (f"{path}.backup{number or ''}" for number in (0, *range(2, 10_000)))
            if not any(os.path.lexists(name + ending) for ending in ("", "-wal", "-shm"))
        )
        for ending in ("-wal", "-shm", ""):
            if os.path.exists(path + ending):
                os.rename(path + ending, backup + ending)
    finally:
        if lock is not None:
            os.close(lock)
    return backup
