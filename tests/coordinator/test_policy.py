"""Which dataflow is meant, and what the store keeps."""

from __future__ import annotations

import doctest
import time
from pathlib import Path

import pytest

from dora.cluster import protocol
from dora.cluster.coordinator import policy as rules
from dora.cluster.coordinator import store
from dora.cluster.coordinator.policy import find
from dora.cluster.coordinator.store import MAX_ENDED, Store, back_up_store
from dora.cluster.http_api import DataflowView
from dora.cluster.protocol import RunReport, RunSpec, RunStatus
from dora.cluster.refusal import Refusal
from dora.daemon.supervisor.result import DataflowResult, NodeFailure
from dora.errors import DoraError


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
    first.update(RunReport("unknown", "Running"), {"default": "daemon"})
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
