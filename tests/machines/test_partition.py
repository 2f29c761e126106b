"""What a daemon makes of its part of a dataflow, without a network."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from certificates import certify

from dora.cluster.agent.identity import parse_labels, tls_from
from dora.cluster.agent.partition import LocalPartition, with_local_folder
from dora.cluster.agent.worker_reports import LogForwarder, Reports
from dora.cluster.protocol import (
    MAX_MESSAGE,
    Endpoints,
    ListensAt,
    LogBatch,
    MachineLost,
    Partition,
    PeerReport,
    RunReport,
    RunSpec,
    StartRun,
    decode_to_coordinator,
)
from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor.events import OtherMachineLost, PeerStatusReceived
from dora.daemon.supervisor.status import PeerStatus
from dora.dataflow.model import Dataflow, Deploy, NodeSpec
from dora.errors import DoraError
from dora.wire.node_config import RemoteConfig, TlsFiles


def start(dataflow: Dataflow, machines: dict[str, str], machine: str) -> StartRun:
    return StartRun(
        "id",
        RunSpec(name="x", dataflow=dataflow, machines=machines),
        Partition(machine=machine, secret=""),
    )


class Daemon:
    """The daemon of a worker, which notes what it is to do."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.loop = SimpleNamespace(call_threadsafe=lambda work: work())
        self.feed = self.done.append

    def set_remote(self, remote: RemoteConfig) -> None:
        self.done.append(remote.reach)

    def ask_part_of(self, machine: str, _tell: object) -> None:
        self.done.append(f"what is known of {machine}")


def test_a_missing_folder_is_an_error_if_a_node_runs_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    here = Deploy("desk", working_dir=str(tmp_path))
    dataflow = Dataflow((NodeSpec("a", "a.py"), NodeSpec("b", "b.py", deploy=here)), "/not/here")
    machines = {"a": "arm", "b": "desk"}
    found = with_local_folder(dataflow, start(dataflow, machines, "desk"))
    assert found.working_dir == str(tmp_path)
    assert found.directory_of(found.node("b")) == str(tmp_path)
    with pytest.raises(
        DoraError, match="machine `arm` has no folder /not/here, in which node `a` is to run"
    ):
        with_local_folder(dataflow, start(dataflow, machines, "arm"))


def test_gateways_mark_packets_as_their_daemon_says(monkeypatch: pytest.MonkeyPatch) -> None:
    dataflow = Dataflow((NodeSpec("a", "a.py"), NodeSpec("b", "b.py")), "/")
    given = start(dataflow, {"a": "arm", "b": "desk"}, "desk")
    partition = LocalPartition(given, Reports(-1, "id"), lambda: False)  # reports nothing here
    assert partition.remote().dscp == 0
    monkeypatch.setenv("DORA_LINK_DSCP", "46")
    assert partition.remote().dscp == 46


def test_a_part_reports_the_link_port_of_its_machine_once_it_is_prepared() -> None:
    dataflow = Dataflow((NodeSpec("a", "a.py"),), "/")
    given = start(dataflow, {"a": "desk"}, "desk")
    source, pipe = os.pipe()
    with open(source, "rb") as lines:
        reports = Reports(pipe, "id")
        partition = LocalPartition(given, reports, lambda: False)
        partition.handle(ListensAt("10.0.0.1", 6014))
        assert partition.remote() is None, "all nodes are here"
        partition.meet(["desk", "arm"])
        assert partition.remote().listen == "10.0.0.1:6014"
        reports.flush()
        partition.handle(ListensAt("10.0.0.9", 0))
        assert partition.remote().listen == "10.0.0.9:0"
        reports.flush()
        os.close(pipe)
        found = [decode_to_coordinator(line) for line in lines]
    assert [report.port for report in found if isinstance(report, RunReport)] == [6014, 0]


def test_a_machine_keeps_its_endpoint_until_it_is_lost() -> None:
    dataflow = Dataflow((NodeSpec("a", "a.py"), NodeSpec("b", "b.py")), "/")
    given = start(dataflow, {"a": "arm", "b": "desk"}, "desk")
    partition = LocalPartition(given, Reports(-1, "id"), lambda: False)
    for endpoints in ({"arm": "10.0.0.1:1"}, {}, {"cell": "10.0.0.2:2"}):
        partition.handle(Endpoints("id", endpoints))
    assert partition.remote().reach == {"arm": "10.0.0.1:1", "cell": "10.0.0.2:2"}
    partition.handle(MachineLost("id", "arm", "it is gone", "loss"))
    assert partition.remote().reach == {"cell": "10.0.0.2:2"}


def test_what_comes_before_the_start_of_the_nodes_is_not_lost() -> None:
    dataflow = Dataflow((NodeSpec("a", "a.py"), NodeSpec("b", "b.py")), "/")
    given = start(dataflow, {"a": "arm", "b": "desk"}, "desk")
    partition = LocalPartition(given, Reports(-1, "id"), lambda: False)
    daemon = Daemon()
    partition.handle(PeerReport("id", "arm", PeerStatus({}, opened=True)))
    partition.set_daemon(daemon)
    assert daemon.done == [PeerStatusReceived("arm", PeerStatus({}, opened=True))]


def test_the_links_with_a_lost_machine_end_before_it_is_told_what_is_known_of_it() -> None:
    dataflow = Dataflow((NodeSpec("a", "a.py"), NodeSpec("b", "b.py")), "/")
    given = start(dataflow, {"a": "arm", "b": "desk"}, "desk")
    partition = LocalPartition(given, Reports(-1, "id"), lambda: False)
    partition.handle(Endpoints("id", {"arm": "10.0.0.1:1"}))
    daemon = Daemon()
    partition.set_daemon(daemon)
    partition.handle(MachineLost("id", "arm", "it is gone", "loss"))
    assert daemon.done == [
        {"arm": "10.0.0.1:1"},
        {},
        OtherMachineLost("arm", "it is gone", may_return=True),
        "what is known of arm",
    ]
    daemon.done.clear()
    partition.handle(MachineLost("id", "arm", "it is given up"))
    assert "what is known of arm" not in daemon.done, "nobody asks for it"


def test_labels() -> None:
    assert parse_labels("") == {}
    assert parse_labels(" gpu=true, , side=left=right ") == {"gpu": "true", "side": "left=right"}
    for text in ("gpu", "=true"):
        with pytest.raises(ValueError, match="is no label"):
            parse_labels(text)
    with pytest.raises(ValueError, match="the label `arm` is given twice"):
        parse_labels("arm=left,gpu=true,arm=right")


@pytest.mark.processes
def test_certificates_belong_together(tmp_path: Path) -> None:
    certify(tmp_path, "arm", "10.0.0.2")
    environ = {
        "DORA_TLS_CA": str(tmp_path / "ca.pem"),
        "DORA_TLS_CERT": str(tmp_path / "arm.pem"),
        "DORA_TLS_KEY": str(tmp_path / "arm.key"),
    }
    assert tls_from({}, "arm") is None
    assert tls_from(environ, "arm") == TlsFiles(*environ.values())
    with pytest.raises(DoraError, match="DORA_TLS_KEY is not set"):
        tls_from({**environ, "DORA_TLS_KEY": ""}, "arm")
    with pytest.raises(DoraError, match="DORA_TLS_CA names /nowhere, which cannot be read"):
        tls_from({**environ, "DORA_TLS_CA": "/nowhere"}, "arm")
    with pytest.raises(DoraError, match=r"ca.pem and .*arm.key are not a certificate and its key"):
        tls_from({**environ, "DORA_TLS_CERT": environ["DORA_TLS_CA"]}, "arm")
    with pytest.raises(DoraError, match=r"arm.pem is not for machine `leg`; .*=URI:dora:leg"):
        tls_from(environ, "leg")


@pytest.mark.lengthy
def test_log_entries_are_handed_on_in_messages_that_can_be_read() -> None:
    source, pipe = os.pipe()
    with open(source, "rb") as lines:
        pump = LogForwarder(Reports(pipe, "id"))
        texts = [f"{number} " + "\x01" * 300_000 for number in range(20)]

        def print_all() -> None:
            for text in texts:
                pump.put(LogEntry(0, "info", "a", text))
            pump.close()
            os.close(pipe)

        printing = threading.Thread(target=print_all)
        printing.start()
        read = list(lines)
        printing.join()
    assert max(map(len, read)) < MAX_MESSAGE
    messages = [message for line in read if isinstance(message := decode_to_coordinator(line), LogBatch)]
    assert [entry.message for message in messages for entry in message.entries] == texts
