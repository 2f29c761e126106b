"""Which node runs where, where machines reach each other, and what several reports mean together."""

from __future__ import annotations

import pytest

from dora.cluster.coordinator.distributed_run import DistributedRun, merged
from dora.cluster.coordinator.placement import address_of, place
from dora.cluster.http_api import MachineView
from dora.cluster.protocol import RunReport
from dora.cluster.refusal import Refusal
from dora.daemon.supervisor.result import DataflowResult, LinkReport, NodeFailure
from dora.daemon.supervisor.status import PeerStatus
from dora.dataflow import parse
from dora.dataflow.model import Dataflow

DEFAULT = MachineView(id="default")
ARM = MachineView(id="arm", labels={"camera": "true", "side": "left"})
DESK = MachineView(id="desk", labels={"gpu": "true"})
AWAY = MachineView(id="away", away_since=1.0)


def dataflow(*deploys: str, default: str = "{}") -> Dataflow:
    nodes = "".join(f"  - {{id: n{i}, path: x, deploy: {deploy}}}\n" for i, deploy in enumerate(deploys))
    return parse(f"deploy: {default}\nnodes:\n{nodes}", working_dir="/", environ={})


def test_machine_then_labels_then_the_default() -> None:
    flow = dataflow("{machine: desk}", "{labels: {side: left}}", "{}", "{machine: default}")
    assert place(flow, [DEFAULT, ARM, DESK]) == {
        "n0": "desk",
        "n1": "arm",
        "n2": "default",
        "n3": "default",
    }


def test_the_first_fitting_machine_by_name_is_chosen() -> None:
    other = MachineView(id="a-desk", labels={"gpu": "true", "camera": "true"})
    assert place(dataflow("{labels: {gpu: true}}"), [DESK, other]) == {"n0": "a-desk"}


def test_a_single_machine_is_the_default() -> None:
    assert place(dataflow("{}"), [ARM]) == {"n0": "arm"}


def test_the_default_of_the_dataflow() -> None:
    flow = dataflow("{}", "{machine: arm}", default="{machine: desk}")
    assert place(flow, [DEFAULT, ARM, DESK]) == {"n0": "desk", "n1": "arm"}


def test_all_placement_faults_are_reported_at_once() -> None:
    flow = dataflow("{machine: dsk}", "{labels: {gpu: false}}", "{}", "{machine: away}")
    with pytest.raises(Refusal) as refusal:
        place(flow, [ARM, DESK, AWAY])
    first, second, third, fourth, last = str(refusal.value).splitlines()
    assert first.startswith("node `n0` is for machine `dsk`, which is not there") and "`desk`?" in first
    assert second.startswith("node `n1` is for a machine with gpu=false, which none has")
    assert third.startswith("node `n2` names no machine, and there is no default one")
    assert fourth.startswith("node `n3` is for machine `away`, which is not connected now")
    assert last == (
        "the machines are: `arm` (camera=true, side=left), `away` (not connected), `desk` (gpu=true)"
    )


def test_printed_lines_do_not_cross_machines() -> None:
    text = """
nodes:
  - {id: a, path: x, outputs: [said], send_stdout_as: said, deploy: {machine: arm}}
  - {id: b, path: x, inputs: {said: a/said}, deploy: {machine: desk}}
"""
    flow = parse(text, working_dir="/", environ={})
    with pytest.raises(Refusal, match="the input `said` of node `b` gets what node `a` prints"):
        place(flow, [ARM, DESK])


def test_a_machine_beside_the_coordinator_is_reached_at_the_same_address() -> None:
    # One that is on the machine of the coordinator is where the other one reached the coordinator.
    assert address_of("127.0.0.1", "10.0.0.2", "10.0.0.1") == "10.0.0.1"
    assert address_of("127.0.0.1", "127.0.0.1", "127.0.0.1") == "127.0.0.1"
    assert address_of("10.0.0.3", "10.0.0.2", "10.0.0.1") == "10.0.0.3"


def two_machines() -> DistributedRun:
    return DistributedRun("id", {"arm": "d1", "desk": "d2"})


def test_a_dataflow_runs_when_all_its_partitions_do_and_ends_with_the_last() -> None:
    run = two_machines()
    assert run.combined() == RunReport("id", "Starting")
    run.record("arm", RunReport("id", "Running"))
    assert run.combined().status == "Starting"
    run.record("desk", RunReport("id", "Running"))
    assert run.combined().status == "Running"
    run.record("arm", RunReport("id", "Finished", DataflowResult("id")))
    assert run.combined().status == "Running"
    assert run.others("desk") == []
    run.record("desk", RunReport("id", "Finished", DataflowResult("id")))
    assert run.combined() == RunReport("id", "Finished", DataflowResult("id"))


def test_a_lost_machine_is_named() -> None:
    run = two_machines()
    run.record("arm", RunReport("id", "Running"))
    run.mark_lost("desk", "its daemon is gone")
    assert not run.is_active_on("desk")
    run.record("arm", RunReport("id", "Failed", DataflowResult("id")))
    assert run.combined().reason == "machine `desk`: its daemon is gone"
    assert run.combined().status == "Failed"


def test_only_a_new_status_is_forwarded() -> None:
    run = two_machines()
    peer_status = PeerStatus({}, opened=True)
    assert run.record("arm", RunReport("id", "Starting", peer_status=peer_status)) == peer_status
    assert run.record("arm", RunReport("id", "Running", peer_status=peer_status)) is None
    assert not run.all_prepared()
    run.record("arm", RunReport("id", "Starting", port=1))
    run.record("desk", RunReport("id", "Starting", port=20001))
    assert run.all_prepared()


def test_results_of_several_machines_are_one() -> None:
    first, then = NodeFailure("a", "exit", exit_code=1), NodeFailure("b", "exit", exit_code=2)
    link = LinkReport("a/x -> b/y", "drop_oldest", 10, 5, 4, 1, 0)
    arm = DataflowResult("id", (first,), undeclared={"a": {"z": 1}})
    desk = DataflowResult("id", (first, then), (link,), stopped=True)
    whole = merged("id", [arm, desk])
    assert whole is not None
    assert whole.failures == (first, then)
    assert whole.links == (link,) and whole.undeclared == {"a": {"z": 1}} and whole.stopped
    assert merged("id", []) is None


def test_counts_of_several_machines_are_added_once() -> None:
    """Each machine counts for itself what goes over it, and all of them what they hear of each other."""
    arm = DataflowResult(
        "id",
        node_counts={"a": {"restarts": 2}, "b": {"restarts": 1}},
        uncounted_links=1,
        unlogged={"a": 3},
        machine_losses={"desk": 1, "third": 2},
    )
    desk = DataflowResult(
        "id",
        node_counts={"b": {"restarts": 1, "skipped": 4}},
        uncounted_links=2,
        unlogged={"b": 5},
        machine_losses={"third": 3},
    )
    whole = merged("id", [arm, desk])
    assert whole is not None
    assert whole.node_counts == {"a": {"restarts": 2}, "b": {"restarts": 1, "skipped": 4}}
    assert whole.machine_losses == {"desk": 1, "third": 3}
    assert whole.uncounted_links == 3
    assert whole.unlogged == {"a": 3, "b": 5}
