"""Which dataflow is meant, and what the store keeps."""

from __future__ import annotations

import doctest
import os
import time
from pathlib import Path

import pytest

from dora.cluster import protocol
from dora.cluster.coordinator import policy as rules
from dora.cluster.coordinator import store
from dora.cluster.coordinator.policy import find
from dora.cluster.coordinator.store import MAX_ENDED, Store, back_up_store, lock_store
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import ParametersSet, RunReport, RunSpec, RunStatus
from dora.cluster.refusal import Refusal
from dora.daemon.supervisor.result import DataflowResult, NodeFailure
from dora.errors import DoraError
from dora.wire.operations import ProposedChange


def view(uuid: str, name: str, status: RunStatus = "Running") -> DataflowView:
    return DataflowView(uuid=uuid, name=name, status=status, nodes=["a"], created=time.time())


VIEWS = [
    view("0a1", "arm", "Failed"),
    view("0a2", "arm"),
    view("0b1", "leg", "Finished"),
    view("0b2", "leg", "Failed"),
    view("0c1", "cap"),
    view("0c2", "cap", "Finished"),
]


@pytest.mark.parametrize(
    ("wanted", "uuid"),
    [
        ("arm", "0a2"),
        ("leg", "0b2"),
        ("cap", "0c1"),
        ("0a1", "0a1"),
        ("0A1", "0a1"),
        ("0b1", "0b1"),
    ],
)
def test_names_and_uuids(wanted: str, uuid: str) -> None:
    assert find(VIEWS, wanted).uuid == uuid


@pytest.mark.parametrize(
    ("wanted", "status", "sentence"),
    [
        ("0a", 409, "`0a` fits more than one dataflow:\n  - [arm] 0a1\n  - [arm] 0a2"),
        ("amr", 404, "no dataflow with name or UUID `amr`; did you mean `arm`?"),
        ("", 404, "no dataflow with name or UUID ``"),
    ],
)
def test_a_name_must_fit_exactly_one_dataflow(wanted: str, status: int, sentence: str) -> None:
    with pytest.raises(Refusal) as refused:
        find(VIEWS, wanted)
    assert (refused.value.status, str(refused.value)) == (status, sentence)


def test_examples() -> None:
    for module in (protocol, rules):
        assert doctest.testmod(module).failed == 0


SPEC = RunSpec(name="arm", dataflow={"nodes": [{"id": "a"}]})


def test_records_survive(tmp_path: Path) -> None:
    path = str(tmp_path / "new" / "store.sqlite")
    first = Store(path)
    first.add("0a2", SPEC, view("0a2", "arm", "Starting"), {"default": "daemon"})
    result = DataflowResult("0a2", (NodeFailure("a", "exit", exit_code=3),))
    first.update(RunReport("0a2", "Running"), {"default": "daemon"})
    assert first.find("0a2").ended is None  # type: ignore[union-attr]
    assert first.update(RunReport("unknown", "Running"), {"default": "daemon"}) == ["unknown"]
    assert first.active() == {"0a2": {"default": "daemon"}}
    first.update(RunReport("0a2", "Failed", result, "why"), {"default": "daemon"})
    # No close: as if it had been killed.
    second = Store(path)
    assert second.view("0a2").result == result
    assert second.view("0a2").ended is not None
    assert [found.reason for found in second.views()] == ["why"]
    assert second.spec("0a2") == SPEC
    assert second.active() == {}
    assert [found.uuid for found in second.remove_ended()] == ["0a2"]
    with pytest.raises(KeyError):
        second.view("0a2")
    second.close()
    first.close()


def test_the_store_does_not_grow_for_ever(tmp_path: Path) -> None:
    records = Store(str(tmp_path / "store.sqlite"))
    for number in range(MAX_ENDED + 5):
        records.add(f"{number:04}", SPEC, view(f"{number:04}", "arm"), {"default": "daemon"})
        records.update(RunReport(f"{number:04}", "Finished"), {"default": "daemon"})
    retained = [found.uuid for found in records.views()]
    assert (len(retained), retained[0]) == (MAX_ENDED, "0005")
    records.close()


def test_the_record_that_ended_first_is_the_first_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_ENDED", 1)
    records = Store(str(tmp_path / "store.sqlite"))
    for name in ("long", "short"):
        records.add(name, SPEC, view(name, name, "Running"), {"default": "daemon"})
    for name in ("short", "long"):
        records.update(RunReport(name, "Finished"), {"default": "daemon"})
    assert [found.uuid for found in records.views()] == ["long"]
    records.close()


def test_records_of_running_dataflows_stay_and_take_no_place_of_ended_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_ENDED", 1)
    records = Store(str(tmp_path / "store.sqlite"))
    for name in ("running", "first", "second"):
        records.add(name, SPEC, view(name, name), {"default": "daemon"})
    records.update(RunReport("first", "Finished"), {"default": "daemon"})
    assert [found.uuid for found in records.views()] == ["running", "first", "second"]
    records.update(RunReport("second", "Finished"), {"default": "daemon"})
    assert [found.uuid for found in records.views()] == ["running", "second"]
    records.close()


def test_records_are_in_the_order_of_their_starts_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    records = Store(path)
    for name in ("b", "a", "c"):
        records.add(name, SPEC, view(name, "arm"), {"default": "daemon"})
    records.close()
    again = Store(path)
    assert [found.uuid for found in again.views()] == ["b", "a", "c"]
    again.close()


def test_a_record_has_the_machines_of_the_last_report_or_change(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    records = Store(path)
    records.add("one", SPEC, view("one", "arm"), {"left": "before"})
    for daemons in ({"left": "after"}, {"left": "after", "right": "daemon"}):
        records.update(RunReport("one", "Running"), daemons)
        again = Store(path)
        for opened in (records, again):
            assert opened.active() == {"one": daemons}
            assert opened.view("one").machines == sorted(daemons)
        again.close()
    records.redefine("one", ProposedChange(revision=1, dataflow=SPEC.dataflow), {"left": "after"})
    assert records.view("one").machines == ["left"]
    records.close()


def test_a_change_of_a_dataflow_that_has_ended_leaves_it_ended(tmp_path: Path) -> None:
    records = Store(str(tmp_path / "store.sqlite"))
    records.add("one", SPEC, view("one", "arm"), {"default": "daemon"})
    records.update(RunReport("one", "Finished"), {"default": "daemon"})
    records.redefine("one", ProposedChange(revision=1, dataflow=SPEC.dataflow), {"default": "daemon"})
    assert records.active() == {}
    records.close()


def test_a_failed_dataflow_without_a_reason_gets_the_one_of_its_first_failed_node(tmp_path: Path) -> None:
    records = Store(str(tmp_path / "store.sqlite"))
    records.add("one", SPEC, view("one", "arm"), {"default": "daemon"})
    result = DataflowResult("one", (NodeFailure("a", "exit", exit_code=3),))
    records.update(RunReport("one", "Failed", result), {"default": "daemon"})
    assert "`a`" in records.view("one").reason
    records.close()


def test_parameters_are_written_once(tmp_path: Path) -> None:
    records = Store(str(tmp_path / "store.sqlite"))
    records.add("one", SPEC, view("one", "arm"), {"default": "daemon"})
    records.set_parameters(ParametersSet("one", "a", {"gain": 1}))
    written = records._db.total_changes
    records.flush()
    assert records._db.total_changes == written
    records.close()


def test_a_store_whose_records_could_not_be_removed_goes_on(tmp_path: Path) -> None:
    removed: list[str] = []
    records = Store(str(tmp_path / "store.sqlite"))
    records.on_remove = lambda record: removed.append(record.uuid)
    records.add("one", SPEC, view("one", "arm"), {"default": "daemon"})
    records.update(RunReport("one", "Finished"), {"default": "daemon"})
    records._db.execute(
        "CREATE TRIGGER full BEFORE DELETE ON dataflows BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
    )
    with pytest.raises(Refusal, match="the records cannot be removed: disk I/O error"):
        records.remove_ended()
    assert ([found.uuid for found in records.views()], removed) == (["one"], [])
    records._db.execute("DROP TRIGGER full")
    assert [found.uuid for found in records.remove_ended()] == removed == ["one"]
    records.close()


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


def test_a_coordinator_waits_a_moment_for_the_store_of_one_that_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "store.sqlite.lock")
    held = lock_store(path, "end it")
    assert held is not None
    monkeypatch.setattr(store.time, "sleep", lambda _: os.close(held))
    lock = lock_store(path, "end it")
    assert lock is not None
    os.close(lock)


def test_a_store_in_use_is_not_moved_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.0)
    path = tmp_path / "store.sqlite"
    lock = lock_store(str(path), "end it")
    assert lock is not None
    files = open_files()
    with pytest.raises(DoraError, match="in use by another coordinator; end it with `dora down`"):
        back_up_store(str(path))
    assert path.exists()
    assert open_files() == files
    os.close(lock)


def test_a_backup_has_what_a_killed_coordinator_wrote_last(tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    killed = Store(path)
    killed.add("one", SPEC, view("one", "arm"), {"default": "daemon"})
    Path(f"{path}.backup-wal").touch()  # of a backup that a user has moved away
    files = open_files()
    backup = back_up_store(path)
    assert backup == f"{path}.backup2"
    assert open_files() == files
    retained = Store(backup)
    assert [found.uuid for found in retained.views()] == ["one"]
    retained.close()
    killed.close()


def test_a_store_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "store.sqlite")
    Store(path).close()
    monkeypatch.setattr(store, "SCHEMA", store.SCHEMA + 1)
    with pytest.raises(DoraError, match="another version of dora; `dora up --recreate-store`"):
        Store(path)
    assert back_up_store(path) == f"{path}.backup"
    assert back_up_store(path) is None
    Store(path).close()
    retained = Path(f"{path}.backup").read_bytes()
    assert back_up_store(path) == f"{path}.backup2"
    assert Path(f"{path}.backup").read_bytes() == retained
