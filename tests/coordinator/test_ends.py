"""`dora stop --all` and `dora down` when a machine is out of reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import run_command
from serving import ObedientDaemon, Serving, serving
from tokens import TOKEN

from dora.cluster.client import Client, RequestRefused
from dora.cluster.coordinator.store import Store
from dora.cluster.http_api import DataflowView, DownView
from dora.cluster.protocol import RunSpec
from dora.wire.decoders import from_json


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """Serve the default machine, which runs `leg` and `tail`; `robot` with `arm` is out of reach."""
    monkeypatch.setenv("DORA_AUTH_TOKEN", TOKEN)
    with serving(lambda: Store(str(tmp_path / "store.sqlite"))) as served:
        monkeypatch.setenv("DORA_COORDINATOR_PORT", str(served.port))
        daemons = [ObedientDaemon(served), ObedientDaemon(served, "far", "robot")]
        try:
            client = Client("127.0.0.1", served.port)
            for name, machine in (("arm", "robot"), ("leg", "default"), ("tail", "default")):
                node = {"id": "a", "deploy": {"machine": machine}}
                spec = RunSpec(name=name, dataflow={"nodes": [node], "working_dir": "/tmp"})
                client.wait(client.start(spec).uuid, started=True)
            served.lose("robot")
            yield served
        finally:
            for daemon in daemons:
                daemon.close()


def statuses(served: Serving) -> dict[str, str]:
    return {view.name: view.status for view in Client("127.0.0.1", served.port).dataflows()}


@pytest.mark.lengthy
def test_stop_all_stops_what_it_can_and_names_the_rest(served: Serving, tmp_path: Path) -> None:
    status, told = run_command("stop", "--all", folder=tmp_path)
    assert status == 1
    assert "Stopped 2 dataflow(s)." in told
    assert "error: `arm` runs on machine `robot`, which is not connected now" in told
    assert statuses(served) == {"arm": "Running", "leg": "Finished", "tail": "Finished"}


@pytest.mark.lengthy
def test_stop_all_passes_over_a_record_that_was_removed_meanwhile(
    served: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Client.stop

    def stop(client: Client, dataflow_id: str, grace: float | None, force: bool) -> DataflowView:
        if client.dataflow(dataflow_id).name == "leg":
            raise RequestRefused(404, "no dataflow")
        return real(client, dataflow_id, grace, force)

    monkeypatch.setattr(Client, "stop", stop)
    status, told = run_command("stop", "--all", "--force", folder=tmp_path)
    assert (status, "Stopped 2 dataflow(s)." in told) == (0, True), told
    assert statuses(served) == {"arm": "Finished", "leg": "Running", "tail": "Finished"}


@pytest.mark.lengthy
def test_down_says_that_a_machine_out_of_reach_may_still_run(
    served: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.cluster.coordinator.coordinator.SHUTDOWN_TIMEOUT", 0.0)
    monkeypatch.setattr("dora.cli.commands.up._processes_here", lambda _: [])
    status, told = run_command("down", "--force", folder=tmp_path)
    assert status == 1
    assert "error: the daemon of `robot` was out of reach and may still run\n" in told
    assert "`dora cluster down --force FILE`" in told
    assert "destroyed successfully" not in told and "default" not in told
    assert not Client("127.0.0.1", served.port).is_reachable()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (from_json(b"{}", DownView), ""),  # of another version
        (DownView(late=["default"]), ""),
        (DownView(late=["robot"]), "the daemon of `robot` has not ended in time and may still run"),
    ],
)
def test_the_answer_of_the_coordinator_to_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: DownView, sentence: str
) -> None:
    monkeypatch.setattr(Client, "down", lambda *_: answer)
    monkeypatch.setattr(Client, "is_reachable", lambda _: False)
    status, told = run_command("down", folder=tmp_path)
    assert (status, sentence in told) == (1 if sentence else 0, True), told
