"""A disk that takes no more records: SQLite's own limit of pages stands for it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from serving import ObedientDaemon, serving
from waiting import wait_until

from dora.cluster.coordinator import fleet
from dora.cluster.coordinator.store import Store
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import (
    DEFAULT_MACHINE,
    AckEnd,
    ParametersSet,
    RunReport,
    RunSpec,
)
from dora.cluster.refusal import Refusal
from dora.daemon.supervisor.result import DataflowResult, NodeFailure
from dora.errors import DoraError
from dora.wire.operations import ProposedChange

DATAFLOW = {"nodes": [{"id": "a"}], "working_dir": "/tmp", "env": {"x": "y" * 90_000}}
SPEC = RunSpec(name="arm", dataflow=DATAFLOW)
DAEMONS = {DEFAULT_MACHINE: "daemon"}


class SmallStore(Store):
    """A store whose disk can be filled."""

    def fill(self) -> None:
        self._db.execute("CREATE TABLE IF NOT EXISTS filler (bytes BLOB)")
        pages = self._db.execute("PRAGMA page_count").fetchone()[0]
        self._db.execute(f"PRAGMA max_page_count = {pages}")
        try:
            while True:  # pages that are free again
                self._db.execute("INSERT INTO filler VALUES (zeroblob(3000))")
        except sqlite3.OperationalError:
            pass

    def make_room(self) -> None:
        self._db.execute("PRAGMA max_page_count = 100000")


def add(store: Store, dataflow_id: str) -> None:
    view = DataflowView(uuid=dataflow_id, name="arm", status="Starting", nodes=["a"], machines=["default"])
    store.add(dataflow_id, SPEC, view, DAEMONS)


def large_result(dataflow_id: str) -> DataflowResult:
    return DataflowResult(dataflow_id, (NodeFailure("a", "exit", message="x" * 90_000),))


def test_reports_count_at_once_and_are_written_later(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    store = SmallStore(path)
    add(store, "one")
    store.fill()
    report = RunReport("one", "Failed", large_result("one"), "why")
    assert store.update(report, DAEMONS) == []
    assert "full" in store.fault
    view = store.view("one")
    assert (view.status, view.reason, view.result) == ("Failed", "why", report.result)
    assert view.ended is not None
    assert store.active() == {}
    assert store.flush() == []
    store.make_room()
    assert (store.flush(), store.fault) == (["one"], "")
    again = Store(path)
    assert again.view("one") == view
    again.close()
    store.close()


def test_parameters_count_at_once_and_are_written_later(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    store = SmallStore(path)
    add(store, "one")
    store.fill()
    parameters = {"gain": "x" * 90_000}
    store.set_parameters(ParametersSet("one", "a", parameters))
    assert "full" in store.fault
    assert store.spec("one").parameters_of("a") == parameters
    store.make_room()
    store.flush()
    assert store.fault == ""
    again = Store(path)
    assert again.spec("one").parameters_of("a") == parameters
    again.close()
    store.close()


def test_what_was_not_written_does_not_take_back_a_later_change(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    store = SmallStore(path)
    add(store, "one")
    store.fill()
    store.set_parameters(ParametersSet("one", "a", {"gain": "x" * 90_000}))
    store.update(RunReport("one", "Running", reason="x" * 90_000), DAEMONS)
    assert "full" in store.fault
    store.make_room()
    daemons = {**DAEMONS, "third": "daemon"}
    store.redefine("one", ProposedChange(revision=1, dataflow=DATAFLOW), daemons)
    assert store.active() == {"one": daemons}
    assert (store.flush(), store.fault) == (["one"], "")
    again = Store(path)
    assert again.spec("one").revision == 1
    assert again.active() == {"one": daemons}
    again.close()
    store.close()


def test_a_record_that_was_removed_before_its_end_was_written_is_written_no_more(tmp_path: Path) -> None:
    store = SmallStore(str(tmp_path / "store.sqlite"))
    add(store, "one")
    store.fill()
    store.set_parameters(ParametersSet("one", "a", {"gain": "x" * 90_000}))
    store.update(RunReport("one", "Failed", large_result("one")), DAEMONS)
    assert "full" in store.fault
    assert [view.uuid for view in store.remove_ended()] == ["one"]
    assert (store.flush(), store.fault) == ([], "")
    store.close()


def test_requests_are_refused_while_the_store_is_full(tmp_path: Path) -> None:
    store = SmallStore(str(tmp_path / "store.sqlite"))
    store.fill()
    with pytest.raises(Refusal, match="is not started: database or disk is full") as refused:
        add(store, "one")
    assert refused.value.status == 507
    assert store.views() == []
    store.close()


def test_a_disk_that_is_full_from_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(sqlite3.OperationalError):
        sqlite_errorcode = sqlite3.SQLITE_FULL

    def connect(*_: object, **__: object) -> None:
        raise Full("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", connect)
    with pytest.raises(DoraError, match="database or disk is full; make room on the disk"):
        Store(str(tmp_path / "store.sqlite"))


@pytest.mark.lengthy
def test_dataflows_run_and_end_while_the_store_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "REWRITE_AFTER", 0.05)
    stores: list[SmallStore] = []
    parameters = {"gain": "x" * 90_000}

    def make_store() -> SmallStore:
        stores.append(SmallStore(str(tmp_path / "store.sqlite")))
        return stores[0]

    with serving(make_store) as served:
        daemon = ObedientDaemon(served)
        body = json.dumps({"spec": {"name": "arm", "dataflow": DATAFLOW}}).encode()
        status, text = served.ask("POST", "/api/dataflows", body, content_type="application/json")
        assert status == 201
        dataflow_id = json.loads(text)["uuid"]
        served.ask("GET", f"/api/dataflows/{dataflow_id}/wait?until=started")
        served.in_loop(stores[0].fill)
        daemon.say(ParametersSet(dataflow_id, "a", parameters))
        daemon.say(RunReport(dataflow_id, "Failed", large_result(dataflow_id)))
        status, text = served.ask("GET", f"/api/dataflows/{dataflow_id}/wait")
        assert (status, json.loads(text)["status"]) == (200, "Failed")
        status, text = served.ask("POST", "/api/dataflows", body, content_type="application/json")
        assert status == 507 and "the dataflow cannot be recorded" in text
        assert AckEnd(dataflow_id) not in daemon.heard
        served.in_loop(stores[0].make_room)
        wait_until(lambda: AckEnd(dataflow_id) in daemon.heard, "the record")
        assert served.in_loop(lambda: stores[0].spec(dataflow_id)).parameters_of("a") == parameters
        daemon.close()
