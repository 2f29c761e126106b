"""The records of dataflows: one SQLite file, which a killed coordinator leaves whole.

Every change is one transaction in a write-ahead log. The file is for one coordinator at a time.
"""

from __future__ import annotations

import os
import sqlite3
import time

import msgspec

from dora.coordinator.protocol import ACTIVE, DataflowView, RunReport, RunSpec, encode
from dora.errors import DoraError
from dora.supervise.result import DataflowResult

SCHEMA = 1
MAX_ENDED = 1000  # records of ended dataflows that are kept; the oldest go

_TABLE = """
CREATE TABLE IF NOT EXISTS dataflows (
    uuid TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    nodes TEXT NOT NULL,
    file TEXT,
    log_directory TEXT NOT NULL,
    daemon_id TEXT NOT NULL,
    created REAL NOT NULL,
    ended REAL,
    reason TEXT NOT NULL DEFAULT '',
    result TEXT,
    spec TEXT NOT NULL
)
"""
_COLUMNS = "uuid, name, status, nodes, file, log_directory, created, ended, reason"


class Store:
    """The records in one file."""

    def __init__(self, path: str) -> None:
        """Open the file, made if necessary; raises `DoraError`."""
        self.path = path
        try:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA):
                raise DoraError(
                    f"the store {path} is of another version of dora; `dora up --recreate-store` begins a "
                    "new one and keeps the old one as a backup"
                )
            self._db.execute(_TABLE)
            self._db.execute(f"PRAGMA user_version = {SCHEMA}")
        except (OSError, sqlite3.Error) as error:
            raise DoraError(
                f"the store {path} cannot be used: {error}; `dora up --recreate-store` begins a new one"
            ) from error

    def add(self, dataflow_id: str, spec: RunSpec, view: DataflowView, daemon_id: str) -> None:
        """Record a dataflow that is about to start."""
        self._db.execute(
            "INSERT INTO dataflows "
            "(uuid, name, status, nodes, file, log_directory, daemon_id, created, spec) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                dataflow_id,
                view.name,
                view.status,
                encode(view.nodes).decode(),
                view.file,
                view.log_directory,
                daemon_id,
                view.created,
                encode(spec).decode(),
            ),
        )

    def update(self, report: RunReport, daemon_id: str) -> None:
        """Record how a run is; one that is not in the store is ignored."""
        ended = None if report.status in ACTIVE else time.time()
        result = None if report.result is None else encode(report.result).decode()
        self._db.execute(
            "UPDATE dataflows SET status = ?, reason = ?, result = ?, ended = ?, daemon_id = ? "
            "WHERE uuid = ?",
            (report.status, report.reason, result, ended, daemon_id, report.dataflow_id),
        )
        if ended is not None:
            self._db.execute(
                "DELETE FROM dataflows WHERE ended IS NOT NULL AND uuid NOT IN "
                "(SELECT uuid FROM dataflows WHERE ended IS NOT NULL ORDER BY ended DESC LIMIT ?)",
                (MAX_ENDED,),
            )

    def views(self) -> list[DataflowView]:
        """Return all records without results, the oldest first."""
        rows = self._db.execute(f"SELECT {_COLUMNS} FROM dataflows ORDER BY created, uuid").fetchall()
        return [_view(row) for row in rows]

    def view(self, dataflow_id: str) -> DataflowView:
        """Return one record with its result; raises ``KeyError``."""
        row = self._db.execute(
            f"SELECT {_COLUMNS}, result FROM dataflows WHERE uuid = ?", (dataflow_id,)
        ).fetchone()
        if row is None:
            raise KeyError(dataflow_id)
        view = _view(row[:-1])
        if row[-1] is None:
            return view
        return msgspec.structs.replace(view, result=msgspec.json.decode(row[-1], type=DataflowResult))

    def spec(self, dataflow_id: str) -> RunSpec:
        """Return what was asked to run; raises ``KeyError``."""
        row = self._db.execute("SELECT spec FROM dataflows WHERE uuid = ?", (dataflow_id,)).fetchone()
        if row is None:
            raise KeyError(dataflow_id)
        return msgspec.json.decode(row[0], type=RunSpec)

    def active(self) -> dict[str, str]:
        """Return the dataflows that have not ended: id → the daemon that has it."""
        rows = self._db.execute("SELECT uuid, daemon_id FROM dataflows WHERE ended IS NULL").fetchall()
        return dict(rows)

    def remove_ended(self) -> list[DataflowView]:
        """Remove the records of ended dataflows, and return them."""
        removed = [view for view in self.views() if view.status not in ACTIVE]
        self._db.executemany("DELETE FROM dataflows WHERE uuid = ?", [(view.uuid,) for view in removed])
        return removed

    def close(self) -> None:
        self._db.close()


def _view(row: tuple[str, str, str, str, str | None, str, float, float | None, str]) -> DataflowView:
    uuid, name, status, nodes, file, log_directory, created, ended, reason = row
    return msgspec.convert(
        {
            "uuid": uuid,
            "name": name,
            "status": status,
            "nodes": msgspec.json.decode(nodes),
            "file": file,
            "log_directory": log_directory,
            "created": created,
            "ended": ended,
            "reason": reason,
        },
        type=DataflowView,
    )


def set_aside(path: str) -> str | None:
    """Move a store out of the way, to ``.backup``; return where it is now, None if there is none."""
    if not os.path.exists(path):
        return None
    for ending in ("-wal", "-shm"):
        if os.path.exists(path + ending):
            os.replace(path + ending, f"{path}.backup{ending}")
    os.replace(path, f"{path}.backup")
    return f"{path}.backup"
