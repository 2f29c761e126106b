"""Operations on a dataflow on several machines: what it becomes, and the steps of the coordinator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dora._version import __version__
from dora.cluster.coordinator.changes import generations_after, plan_change
from dora.cluster.coordinator.connections import DaemonConnection
from dora.cluster.coordinator.coordinator import Coordinator
from dora.cluster.coordinator.store import Store
from dora.cluster.http_api import MachineView
from dora.cluster.protocol import (
    JUST_ENDED,
    AckEnd,
    Answered,
    Apply,
    Ask,
    DescribeRun,
    DropRecords,
    Endpoints,
    Hello,
    MachineLost,
    ParametersSet,
    PeerReport,
    Prepare,
    ReleasePartition,
    RunDescription,
    RunReport,
    RunSpec,
    StartRun,
    StopRun,
    ToDaemon,
    Welcome,
)
from dora.cluster.refusal import Refusal
from dora.daemon.supervisor.result import DataflowResult
from dora.daemon.supervisor.status import FormerPart, NodeStatus, PeerStatus
from dora.dataflow import parse
from dora.dataflow.model import Dataflow
from dora.wire.daemon_protocol import (
    DataflowRequest,
    GetParameters,
    Inspect,
    NodeRemoved,
    Ok,
    Rejected,
    SentCounts,
    SetParameter,
)
from dora.wire.node_protocol import PROTOCOL_VERSION
from dora.wire.operations import (
    AddOperation,
    ConnectOperation,
    DisconnectOperation,
    OperationResult,
    RemoveOperation,
    ReplaceOperation,
    StopOperation,
)

TEXT = """
nodes:
  - {id: a, path: a.py, outputs: [x, log], send_stdout_as: log, deploy: {machine: left}}
  - {id: b, path: b.py, outputs: [y], inputs: {in: a/x}, deploy: {machine: right}}
"""
MACHINES = [MachineView(id="left"), MachineView(id="right"), MachineView(id="third")]


def spec(text: str = TEXT) -> RunSpec:
    dataflow = parse(text, file="/d.yml", working_dir="/", environ={}, env_overrides={})
    return RunSpec(
        name="arm",
        dataflow=msgspec.to_builtins(dataflow),
        machines={node.id: node.deploy.machine or "left" for node in dataflow.nodes},
    )


def after(before: RunSpec, operation: Any) -> RunSpec:
    """Return a dataflow after an operation."""
    return before.after(plan_change(before, operation, MACHINES, {}).proposal)


def test_a_node_gets_its_machine_and_a_generation() -> None:
    operation = AddOperation("{id: c, path: c.py, inputs: {in: a/x}, deploy: {machine: right}}")
    plan = plan_change(spec(), operation, MACHINES, {})
    assert (plan.node, plan.machine, plan.proposal.revision) == ("c", "right", 1)
    assert plan.proposal.machines == {"a": "left", "b": "right", "c": "right"}
    assert plan.proposal.generations == {"c": 1, "c/in": 1}
    assert [program["path"] for program in plan.proposal.programs] == ["c.py"]


def test_a_node_without_a_machine_is_placed_on_the_only_machine_in_use() -> None:
    operation = AddOperation("{id: c, path: c.py}")
    text = TEXT.replace("right", "left")
    assert plan_change(spec(text), operation, MACHINES, {}).machine == "left"
    with pytest.raises(Refusal, match="node `c` names no machine, and there is no default one"):
        plan_change(spec(), operation, MACHINES, {})


def test_a_reused_name_gets_a_new_generation() -> None:
    now = after(spec(), ConnectOperation("a/x", "b/more"))
    assert now.generations == {"b/more": 1}
    now = after(now, ConnectOperation("a/x", "b/most"))
    assert now.generations == {"b/more": 1, "b/most": 2}
    now = after(now, DisconnectOperation("a/x", "b/more"))
    assert now.generations == {"b/most": 2}
    now = after(now, ConnectOperation("a/x", "b/more"))
    assert now.generations == {"b/most": 2, "b/more": 4}
    now = after(now, ReplaceOperation("b", "path: better.py"))
    now = after(now, ConnectOperation("a/x", "b/in-5"))
    assert now.generations == {"b/most": 2, "b/more": 4, "b program": 5, "b/in-5": 6}
    now = after(now, RemoveOperation("b"))
    assert (now.generations, now.machines) == ({}, {"a": "left"})


def test_an_input_with_a_new_source_gets_a_new_generation() -> None:
    text = TEXT + "  - {id: c, path: c.py, outputs: [z]}\n"
    before = msgspec.convert(spec(text).dataflow, type=Dataflow)
    wanted = msgspec.convert(spec(text.replace("in: a/x", "in: c/z")).dataflow, type=Dataflow)
    assert generations_after(before, wanted, {}, 7) == {"b/in": 7}


def test_a_replacement_stays_on_the_machine_of_its_node() -> None:
    plan = plan_change(spec(), ReplaceOperation("b", "path: better.py", grace=2.0), MACHINES, {})
    assert (plan.proposal.generations, plan.proposal.grace) == ({"b program": 1}, 2.0)
    assert plan.machine == "right"
    node = msgspec.convert(plan.proposal.dataflow, type=Dataflow).node("b")
    assert (node.path, node.deploy.machine) == ("better.py", "right")
    assert plan.proposal.dataflow["descriptor"]["nodes"][1]["deploy"] == {"machine": "right"}
    with pytest.raises(Refusal, match="a replacement stays on the machine"):
        plan_change(spec(), ReplaceOperation("b", "{path: b.py, deploy: {machine: left}}"), MACHINES, {})


def test_lines_that_a_node_prints_stay_on_its_machine() -> None:
    with pytest.raises(Refusal, match="gets what node `a` prints, which only works on one machine"):
        plan_change(spec(), ConnectOperation("a/log", "b/lines"), MACHINES, {})


def test_the_environment_of_the_asker_comes_first() -> None:
    operation = AddOperation(
        "{id: c, path: c.py, env: {SEEN: $NAME}, deploy: {machine: left}}", env={"NAME": "mine"}
    )
    plan = plan_change(spec(), operation, MACHINES, {"NAME": "another"})
    assert msgspec.convert(plan.proposal.dataflow, type=Dataflow).node("c").env == {"SEEN": "mine"}


# --------------------------------------------------------------------------- with daemons that only talk


class Talking:
    """A daemon that answers as `answers` says, by kind of message; None: not at all."""

    def __init__(self, coordinator: Coordinator, machine: str, *runs: RunReport) -> None:
        self.coordinator = coordinator
        self.machine = machine
        self.heard: list[ToDaemon] = []
        self.answers: dict[type, Callable[[Any], Answered | None]] = {
            Ask: lambda message: Answered(message.ticket, OperationResult("")),
            Prepare: lambda message: Answered(message.ticket, SentCounts({})),
            Apply: lambda message: Answered(message.ticket, Ok()),
        }
        self.link = self.join(*runs)

    def join(self, *runs: RunReport) -> DaemonConnection:
        hello = Hello(
            __version__,
            f"daemon of {self.machine}",
            1,
            runs,
            machine=self.machine,
            protocol=PROTOCOL_VERSION,
        )
        link = self.coordinator.fleet.connect(hello, self.take, "10.0.0.2", "10.0.0.1")
        assert link is not None
        self.link = link
        return link

    def say(self, message: Any) -> None:
        self.coordinator.handle(self.link, message)

    def take(self, message: ToDaemon) -> None:
        self.heard.append(message)
        act = self.answers.get(type(message))
        if act is not None and (answer := act(message)) is not None:
            asyncio.get_running_loop().call_soon(self.say, answer)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]


def rejecting(reason: str) -> Callable[[Any], Answered]:
    return lambda message: Answered(message.ticket, Rejected(reason))


@asynccontextmanager
async def coordinating(folder: Path) -> AsyncIterator[Coordinator]:
    coordinator = Coordinator(Store(str(folder / "store.sqlite")), lambda: None)
    try:
        yield coordinator
    finally:
        coordinator.close()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Coordinator, Talking, Talking, str]]:
    """A dataflow on `left` and `right`."""
    async with coordinating(folder) as coordinator:
        left, right = Talking(coordinator, "left"), Talking(coordinator, "right")
        dataflow_id = coordinator.start(spec()).uuid
        for daemon in (left, right):
            daemon.say(RunReport(dataflow_id, "Running", port=1))
        yield coordinator, left, right, dataflow_id


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    return tmp_path


CONNECT = ConnectOperation("a/x", "b/more")


async def refused(coordinator: Coordinator, request: DataflowRequest) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await coordinator.ask("arm", request)
    return caught.value


def test_all_machines_prepare_before_any_applies(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            left.answers[Prepare] = lambda message: Answered(message.ticket, SentCounts({"a": {"x": 8}}))
            outcome = await coordinator.ask("arm", CONNECT)
            assert outcome.node == "b"
            for daemon in (left, right):
                (prepare,), (become,) = daemon.of(Prepare), daemon.of(Apply)
                assert prepare.proposal == become.proposal
                assert become.sent == {"a": {"x": 8}}
            assert coordinator.spec("arm").generations == {"b/more": 1}

    asyncio.run(test())


def test_a_change_that_one_machine_refuses_is_applied_on_none(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            right.answers[Prepare] = rejecting("node `b` has ended")
            assert str(await refused(coordinator, CONNECT)) == "node `b` has ended"
            assert not left.of(Apply) and not right.of(Apply)
            assert coordinator.spec("arm").revision == 0

    asyncio.run(test())


def test_a_machine_that_is_away_is_named(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            coordinator.fleet.disconnect(right.link, silent=True)
            refusal = await refused(coordinator, CONNECT)
            assert (refusal.status, "machine `right` is not connected" in str(refusal)) == (503, True)
            assert not left.of(Prepare)
            assert (await refused(coordinator, StopOperation("b"))).status == 503
            await coordinator.ask("arm", StopOperation("a"))  # its own machine is enough

    asyncio.run(test())


@pytest.mark.lengthy
def test_a_machine_lost_during_a_change_applies_it_after_reconnecting(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, dataflow_id):
            right.answers[Apply] = lambda _: coordinator.fleet.disconnect(right.link, silent=True)  # type: ignore[func-returns-value]
            refusal = await refused(coordinator, CONNECT)
            assert refusal.status == 503
            assert str(refusal) == (
                "the connection to machine `right` broke during the change: the change is recorded, "
                "and that machine makes it when it is back"
            )
            assert coordinator.spec("arm").revision == 1 and len(left.of(Apply)) == 1
            right.answers.clear()
            right.join(RunReport(dataflow_id, "Running", port=1))
            assert right.of(Apply)[-1].proposal.generations == {"b/more": 1}
            count = len(right.of(Apply))
            right.join(RunReport(dataflow_id, "Running", port=1, revision=1))
            assert len(right.of(Apply)) == count, "it has made it"

    asyncio.run(test())


def test_an_added_node_that_fails_to_start_is_removed(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):

            def become(message: Apply) -> Answered:
                if message.proposal.revision == 1:
                    return Answered(message.ticket, Rejected("node `c` could not be started"))
                return Answered(message.ticket, Ok())

            right.answers[Apply] = become
            operation = AddOperation("{id: c, path: c.py, deploy: {machine: right}}")
            assert str(await refused(coordinator, operation)) == "node `c` could not be started"
            applied = [sorted(each.proposal.machines) for each in right.of(Apply)]
            assert applied == [["a", "b", "c"], ["a", "b"]]
            assert [each.proposal.revision for each in left.of(Apply)] == [2], "it hears of the undo alone"
            assert coordinator.dataflow("arm").nodes == ["a", "b"]
            assert coordinator.spec("arm").revision == 2

    asyncio.run(test())


def test_a_node_that_is_removed_ends_before_other_machines_lose_it(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):

            def end(message: Apply) -> Answered:
                assert not right.of(Apply)
                return Answered(message.ticket, NodeRemoved(False, {"x": 9}))

            left.answers[Apply] = end
            left.answers[Prepare] = lambda message: Answered(message.ticket, SentCounts({"a": {"x": 8}}))
            outcome = await coordinator.ask("arm", RemoveOperation("a", 2.0))
            assert not outcome.was_running
            assert left.of(Apply)[0].proposal.grace == 2.0
            assert right.of(Apply)[0].sent == {"a": {"x": 9}}, "all that it has sent arrives"
            kinds = (Prepare, Ask, Apply)
            for daemon in (left, right):
                assert [type(each) for each in daemon.heard if isinstance(each, kinds)] == [Prepare, Apply]

    asyncio.run(test())


OPERATIONS: list[Any] = [
    AddOperation("{id: c, path: c.py, inputs: {in: a/x}, deploy: {machine: right}}"),
    RemoveOperation("b"),
    ReplaceOperation("b", "{path: c.py, parameters: {speed: 2}}"),
    ConnectOperation("a/x", "b/more"),
    DisconnectOperation("a/x", "b/in"),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: type(operation).__name__)
def test_a_change_that_a_machine_cannot_make_is_undone(folder: Path, operation: Any) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, dataflow_id):
            coordinator.handle(right.link, ParametersSet(dataflow_id, "b", {"speed": 1}))
            before = coordinator.spec("arm")
            right.answers[Apply] = rejecting("it is not possible")
            assert str(await refused(coordinator, operation)) == "it is not possible"
            assert [each.proposal.revision for each in right.of(Apply)] == [1, 2]
            assert [each.proposal.revision for each in left.of(Apply)] == [2]
            undone = left.of(Apply)[0].proposal
            assert undone.dataflow == before.dataflow
            assert (undone.machines, undone.generations) == (before.machines, before.generations)
            now = coordinator.spec("arm")
            assert (now.dataflow, now.revision) == (before.dataflow, 2)

    asyncio.run(test())


def test_an_undone_removal_brings_a_new_node_if_the_former_one_has_ended(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            right.answers[Apply] = lambda message: Answered(message.ticket, NodeRemoved(True, {"y": 3}))
            left.answers[Apply] = rejecting("there is no room")
            before = coordinator.spec("arm")
            assert str(await refused(coordinator, RemoveOperation("b"))) == "there is no room"
            undone = right.of(Apply)[-1].proposal
            assert (undone.dataflow, undone.machines) == (before.dataflow, before.machines)
            assert undone.generations == {"b": 2, "b/in": 2}

    asyncio.run(test())


def test_a_replacement_that_is_undone_names_the_former_program(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            await coordinator.ask("arm", ReplaceOperation("b", "path: c.py"))
            left.answers[Apply] = rejecting("there is no room")
            assert (await refused(coordinator, ReplaceOperation("b", "path: d.py"))).status == 409
            programs = [each.proposal.program_of("b") for each in right.of(Apply)]
            assert programs == [1, 2, 1]

    asyncio.run(test())


JUST_GONE = "has ended during the change: the change is recorded, and that machine makes it when it is back"


def test_parameters_that_are_set_during_a_change_are_kept(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, _, right, dataflow_id):

            def prepare(message: Prepare) -> Answered:
                right.say(ParametersSet(dataflow_id, "b", {"speed": 1}))
                return Answered(message.ticket, SentCounts({}))

            right.answers[Prepare] = prepare
            await coordinator.ask("arm", CONNECT)
            assert coordinator.spec("arm").parameters_of("b") == {"speed": 1}

            def fail(message: Apply) -> Answered:
                if message.proposal.revision == 2:
                    right.say(ParametersSet(dataflow_id, "b", {"speed": 2}))
                return Answered(message.ticket, Rejected("there is no room"))

            right.answers[Apply] = fail
            await refused(coordinator, ConnectOperation("a/x", "b/further"))
            assert coordinator.spec("arm").revision == 3, "it was undone"
            assert coordinator.spec("arm").parameters_of("b") == {"speed": 2}

    asyncio.run(test())


def test_a_dataflow_is_not_changed_before_all_its_nodes_run(folder: Path) -> None:
    async def test() -> None:
        async with coordinating(folder) as coordinator:
            left, right = Talking(coordinator, "left"), Talking(coordinator, "right")
            dataflow_id = coordinator.start(spec()).uuid
            left.say(RunReport(dataflow_id, "Running", port=1))
            assert "the dataflow is still starting" in str(await refused(coordinator, CONNECT))
            assert not left.of(Prepare)
            right.say(RunReport(dataflow_id, "Running", port=1))
            await coordinator.ask("arm", CONNECT)

    asyncio.run(test())


def test_a_part_that_has_just_ended_refuses_nothing(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, dataflow_id):
            right.answers[Apply] = rejecting(JUST_ENDED)
            refusal = await refused(coordinator, CONNECT)
            assert (refusal.status, str(refusal)) == (503, f"the partition on machine `right` {JUST_GONE}")
            assert coordinator.spec("arm").revision == 1 and len(left.of(Apply)) == 1, "nothing is undone"

            def end(message: Apply) -> Answered:
                for daemon in (left, right):
                    daemon.say(RunReport(dataflow_id, "Finished", DataflowResult(dataflow_id)))
                return Answered(message.ticket, Rejected(JUST_ENDED))

            right.answers[Apply] = end
            refusal = await refused(coordinator, DisconnectOperation("a/x", "b/in"))
            assert str(refusal) == "the dataflow has ended meanwhile: the change is recorded"
            assert (refusal.status, coordinator.spec("arm").revision) == (409, 2)

    asyncio.run(test())


def test_a_machine_that_is_cut_off_after_the_commit_refuses_nothing(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):

            def become(message: Apply) -> Answered:
                coordinator.fleet.disconnect(left.link, silent=True)
                return Answered(message.ticket, Ok())

            right.answers[Apply] = become
            assert str(await refused(coordinator, CONNECT)) == (
                "machine `left` is not connected at the moment: the change is recorded, and that machine "
                "makes it when it is back"
            )
            assert coordinator.spec("arm").revision == 1

    asyncio.run(test())


def test_no_change_waits_for_a_replacement(folder: Path) -> None:
    """Its program may never get as far as its `Node()`."""

    async def test() -> None:
        async with running(folder) as (coordinator, _, right, _):
            right.answers[Apply] = lambda _: None
            replacing = asyncio.create_task(coordinator.ask("arm", ReplaceOperation("b", "path: c.py")))
            await until(lambda: bool(right.of(Apply)))
            for operation in OPERATIONS:
                assert str(await refused(coordinator, operation)) == (
                    "node `b` is being replaced; try again once that is done, or give the replacement up: "
                    "`dora node restart b`"
                )
            await coordinator.ask("arm", StopOperation("b"))
            right.say(Answered(right.of(Apply)[0].ticket, Rejected("node `b` ends before")))
            right.answers[Apply] = lambda message: Answered(message.ticket, Ok())
            with pytest.raises(Refusal, match="ends before"):
                await replacing
            await coordinator.ask("arm", CONNECT)

    asyncio.run(test())


@pytest.mark.lengthy
def test_a_machine_that_has_missed_a_replacement_makes_it_when_it_is_back(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, _, right, dataflow_id):
            right.answers[Apply] = lambda _: coordinator.fleet.disconnect(right.link, silent=True)  # type: ignore[func-returns-value]
            assert (await refused(coordinator, ReplaceOperation("b", "path: c.py"))).status == 503
            right.answers.clear()
            right.join(RunReport(dataflow_id, "Running", port=1))
            assert [each.proposal.generations for each in right.of(Apply)] == [{"b program": 1}] * 2

    asyncio.run(test())


def test_a_record_that_has_lost_changes_takes_them_from_a_machine(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, dataflow_id):
            ahead = after(coordinator.spec("arm"), CONNECT)
            report = RunReport(dataflow_id, "Running", port=1, revision=1)
            right.say(report)
            assert right.of(DescribeRun) == [DescribeRun(dataflow_id)]
            right.say(RunDescription(report, ahead))
            assert coordinator.spec("arm").generations == {"b/more": 1}
            assert [each.proposal.revision for each in left.of(Apply)] == [1]
            assert not right.of(Apply)

    asyncio.run(test())


@pytest.mark.parametrize("first", ["left", "third"])
def test_a_machine_that_a_record_has_lost_stays(folder: Path, first: str) -> None:
    """The machine of the coordinator has lost its power, and the record that `third` has joined."""

    async def test() -> None:
        async with running(folder) as (coordinator, left, _, dataflow_id):
            ahead = after(coordinator.spec("arm"), ADD)
            report = RunReport(dataflow_id, "Running", port=1, revision=1)
            third = Talking(coordinator, "third", *([report] if first == "third" else []))
            daemon = third if first == "third" else left
            if first == "left":
                left.say(report)
            assert daemon.of(DescribeRun) == [DescribeRun(dataflow_id)]
            daemon.say(RunDescription(report, ahead))
            if first == "left":
                third.join(report)
            assert not third.of(StopRun)
            assert coordinator.dataflow("arm").machines == ["left", "right", "third"]
            await coordinator.ask("arm", CONNECT)
            assert third.of(Apply)[-1].proposal.revision == 2

    asyncio.run(test())


def test_a_change_that_cannot_be_recorded_is_made_nowhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Refusal(507, "the change cannot be recorded: the disk is full")

    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            monkeypatch.setattr(Store, "redefine", full)
            for operation in OPERATIONS:
                assert (await refused(coordinator, operation)).status == 507
            assert not left.of(Apply) and not right.of(Apply)

    asyncio.run(test())


def test_changes_are_applied_one_at_a_time(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, _, _):
            operations = [ConnectOperation("a/x", f"b/in-{number}") for number in range(5)]
            await asyncio.gather(*(coordinator.ask("arm", operation) for operation in operations))
            kinds = [type(each) for each in left.heard if isinstance(each, (Prepare, Apply))]
            assert kinds == [Prepare, Apply] * 5
            assert [each.proposal.revision for each in left.of(Apply)] == [1, 2, 3, 4, 5]
            assert sorted(coordinator.spec("arm").generations.values()) == [1, 2, 3, 4, 5]

    asyncio.run(test())


# --------------------------------------------------------------------------- requests of clients


SET = SetParameter("b", "speed", 2)


def test_a_request_goes_to_the_machine_of_its_node_alone(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, dataflow_id):
            right.answers[Ask] = lambda message: Answered(message.ticket, OperationResult("b"))
            left.answers[Ask] = lambda message: Answered(message.ticket, Ok())
            assert await coordinator.ask("arm", SET) == OperationResult("b")
            assert [(each.dataflow_id, each.request) for each in right.of(Ask)] == [(dataflow_id, SET)]
            assert not left.of(Ask)
            assert await coordinator.ask("arm", Inspect()) == Ok(), "the first machine"
            assert await coordinator.ask("arm", Inspect(), "right") == OperationResult("b")
            await coordinator.ask("arm", GetParameters("nobody"))  # which refuses it
            assert [each.request for each in left.of(Ask)] == [Inspect(), GetParameters("nobody")]

    asyncio.run(test())


def test_a_machine_that_does_not_answer_a_request_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.wire.daemon_protocol.ANSWER_TIMEOUT", 0.01)

    async def test() -> None:
        async with running(folder) as (coordinator, _, right, _):
            right.answers[Ask] = lambda _: None
            refusal = await refused(coordinator, SET)
            assert (refusal.status, str(refusal)) == (
                504,
                "machine `right` has not answered within 0.01 s",
            )
            assert not coordinator.requests._asked, "nothing is left of it"
            coordinator.fleet.disconnect(right.link, silent=True)
            refusal = await refused(coordinator, GetParameters("b"))
            assert (refusal.status, str(refusal)) == (
                503,
                "machine `right` is not connected at the moment",
            )

    asyncio.run(test())


def test_a_request_does_not_outlive_the_part_that_was_asked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.cluster.coordinator.requests.POLL_INTERVAL", 0.01)

    async def test() -> None:
        async with running(folder) as (coordinator, _, right, dataflow_id):
            crashed = RunReport(dataflow_id, "Failed", reason="it was killed", crashed=True)
            right.answers[Ask] = lambda _: right.say(crashed)  # type: ignore[func-returns-value]
            refusal = await refused(coordinator, GetParameters("b"))
            assert str(refusal) == "the partition on machine `right` has ended during the request"

    asyncio.run(test())


def test_a_request_without_sense_is_heard_by_no_machine(folder: Path) -> None:
    deep: Any = []
    for _ in range(500):
        deep = [deep]

    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            for request, status, text in (
                (SetParameter("b", "speed", deep), 400, "the value is nested more than 64 levels deep"),
                (SetParameter("b", " ", 1), 400, "the key is empty"),
                (StopOperation("b", -1.0), 400, "nodes get from 0 to 86,400 seconds to end, not -1"),
            ):
                refusal = await refused(coordinator, request)
                assert (refusal.status, str(refusal)) == (status, text)
            with pytest.raises(Refusal, match="`arm` has no machine `rright`; did you mean `right`"):
                await coordinator.ask("arm", Inspect(), "rright")
            assert not left.of(Ask) and not right.of(Ask)

    asyncio.run(test())


def test_an_answer_to_a_former_coordinator_answers_no_request(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, _, right, _):
            right.answers[Ask] = lambda _: None
            asked = asyncio.create_task(coordinator.ask("arm", SET))
            await until(lambda: bool(right.of(Ask)))
            ticket = right.of(Ask)[0].ticket
            assert ticket > 1, "not the first of a count that begins again"
            right.say(Answered(1, Rejected("to another one")))
            right.say(Answered(ticket, OperationResult("b")))
            assert await asked == OperationResult("b")

    asyncio.run(test())


# --------------------------------------------------------------------------- machines that come and go


ADD = AddOperation("{id: c, path: c.py, inputs: {in: a/x}, deploy: {machine: third}}")


def part_of(daemon: Talking, dataflow_id: str) -> None:
    """Let a daemon run a part when it is told to, become what it hears, and end it when it is released."""

    def say(report: RunReport) -> None:
        asyncio.get_running_loop().call_soon(lambda: daemon.say(report))

    def become(message: Apply) -> Answered:
        say(RunReport(dataflow_id, "Running", port=1, revision=message.proposal.revision))
        return Answered(message.ticket, Ok())

    daemon.answers[Apply] = become
    daemon.answers[StartRun] = lambda message: say(
        RunReport(dataflow_id, "Running", port=1, revision=message.spec.revision)
    )
    daemon.answers[ReleasePartition] = lambda _: say(
        RunReport(dataflow_id, "Finished", DataflowResult(dataflow_id))
    )


@asynccontextmanager
async def joinable(folder: Path) -> AsyncIterator[tuple[Coordinator, Talking, Talking, str]]:
    """The dataflow on `left` and `right`; `left` and `third`, which has no part of it."""
    async with running(folder) as (coordinator, left, right, dataflow_id):
        third = Talking(coordinator, "third")
        for daemon in (left, right, third):
            part_of(daemon, dataflow_id)
        yield coordinator, left, third, dataflow_id


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition did not become true")


def test_a_machine_joins_the_present_dataflow_and_then_applies_changes_like_others(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, dataflow_id):
            peer_status = PeerStatus({}, opened=True)
            left.say(RunReport(dataflow_id, "Running", port=1, peer_status=peer_status, secret="shown"))
            await coordinator.ask("arm", ADD)
            (start,) = third.of(StartRun)
            assert start.partition.secret == "shown" and start.partition.machine == "third"
            assert (start.spec.revision, sorted(start.spec.machines)) == (0, ["a", "b"])
            kinds = [type(message) for message in third.heard]
            assert kinds == [Welcome, StartRun, Endpoints, PeerReport, Prepare, Apply]
            assert third.of(PeerReport) == [PeerReport(dataflow_id, "left", peer_status)]
            assert "left" in third.of(Endpoints)[0].endpoints
            assert "third" in left.of(Apply)[0].endpoints
            assert coordinator.dataflow("arm").machines == ["left", "right", "third"]
            assert coordinator.dataflow("arm").status == "Running"

    asyncio.run(test())


def test_a_machine_that_joins_hears_what_happens_meanwhile(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, dataflow_id):
            third.answers[StartRun] = lambda _: None
            adding = asyncio.create_task(coordinator.ask("arm", ADD))
            await until(lambda: bool(third.of(StartRun)))
            peer_status = PeerStatus({}, opened=True)
            left.say(RunReport(dataflow_id, "Running", port=1, peer_status=peer_status))
            assert third.of(PeerReport) == [PeerReport(dataflow_id, "left", peer_status)]
            third.say(RunReport(dataflow_id, "Running", port=1))
            await adding

    asyncio.run(test())


def test_a_machine_leaves_with_its_last_node_and_may_come_again(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, _dataflow_id):
            for count in (1, 2):
                await coordinator.ask("arm", ADD)
                await coordinator.ask("arm", RemoveOperation("c"))
                await until(lambda: coordinator.dataflow("arm").machines == ["left", "right"])
                assert (
                    len(third.of(StartRun))
                    == len(third.of(ReleasePartition))
                    == len(third.of(AckEnd))
                    == count
                )
                assert len(left.of(MachineLost)) == 0
            coordinator.fleet.disconnect(third.link)  # which is nothing to the dataflow
            await coordinator.ask("arm", CONNECT)
            assert coordinator.dataflow("arm").status == "Running"

    asyncio.run(test())


@pytest.mark.lengthy
def test_a_machine_is_released_once_the_others_have_applied_the_change(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, dataflow_id):
            await coordinator.ask("arm", ADD)
            left.answers[Apply] = lambda _: None  # its node still waits for messages of `c`
            removal = asyncio.create_task(coordinator.ask("arm", RemoveOperation("c")))
            await until(lambda: len(left.of(Apply)) == 2)
            for _ in range(10):
                await asyncio.sleep(0)
            assert not third.of(ReleasePartition)
            part_of(left, dataflow_id)
            left.join(RunReport(dataflow_id, "Running", port=1, revision=1))  # which is asked again
            await until(lambda: bool(third.of(ReleasePartition)))
            with pytest.raises(Refusal, match="that machine makes it when it is back"):
                await removal

    asyncio.run(test())


def test_the_coordinator_still_decides_when_a_single_machine_is_left(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, _):
            await coordinator.ask("arm", RemoveOperation("b"))
            await until(lambda: coordinator.dataflow("arm").machines == ["left"])
            await coordinator.ask("arm", AddOperation("{id: d, path: d.py, deploy: {machine: left}}"))
            assert left.of(Apply)[-1].proposal.machines == {"a": "left", "d": "left"}
            await coordinator.ask("arm", ADD)
            assert coordinator.dataflow("arm").machines == ["left", "third"]
            assert third.of(Apply)[-1].proposal.generations == {"d": 2, "c": 3, "c/in": 3}

    asyncio.run(test())


def test_a_machine_that_cannot_join_is_released(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, dataflow_id):
            third.answers[Prepare] = rejecting("there is no file c.py")
            assert str(await refused(coordinator, ADD)) == "there is no file c.py"
            await until(lambda: bool(third.of(ReleasePartition)) and bool(third.of(AckEnd)))
            failed = RunReport(dataflow_id, "Failed", reason="there is no room")
            third.answers[StartRun] = lambda _: third.say(failed)  # type: ignore[func-returns-value]
            refusal = await refused(coordinator, ADD)
            assert str(refusal) == "machine `third` cannot take part: there is no room"
            third.answers[StartRun] = lambda _: coordinator.fleet.disconnect(third.link)  # type: ignore[func-returns-value]
            assert "broke during the change, and nothing was changed" in str(
                await refused(coordinator, ADD)
            )
            assert not left.of(Apply) and coordinator.spec("arm").revision == 0
            assert coordinator.dataflow("arm").machines == ["left", "right"]

    asyncio.run(test())


def test_a_machine_that_has_nothing_to_end_any_more_may_be_asked_to_join_again(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, _, third, dataflow_id):
            failed = RunReport(dataflow_id, "Failed", reason="there is no room")
            third.answers[ReleasePartition] = lambda _: None  # what has ended cannot be released
            third.answers[StartRun] = lambda _: third.say(failed)  # type: ignore[func-returns-value]
            assert "there is no room" in str(await refused(coordinator, ADD))
            third.answers[StartRun] = lambda _: coordinator.fleet.disconnect(third.link)  # type: ignore[func-returns-value]
            assert "broke during the change" in str(await refused(coordinator, ADD))
            third.join()  # of another process, which has no part
            part_of(third, dataflow_id)
            await coordinator.ask("arm", ADD)

    asyncio.run(test())


def test_no_machine_joins_a_dataflow_that_has_ended_meanwhile(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, _, third, dataflow_id):
            third.answers[StartRun] = lambda _: None
            adding = asyncio.create_task(coordinator.ask("arm", ADD))
            await until(lambda: bool(third.of(StartRun)))
            for machine in ("left", "right"):
                finished = RunReport(dataflow_id, "Finished", DataflowResult(dataflow_id))
                coordinator.handle(coordinator.fleet.connections[machine], finished)
            with pytest.raises(Refusal, match="the dataflow has ended meanwhile"):
                await adding

    asyncio.run(test())


def test_a_machine_that_joins_is_released_when_nobody_waits_for_the_change(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, _, third, _):
            third.answers[StartRun] = lambda _: None
            adding = asyncio.create_task(coordinator.ask("arm", ADD))
            await until(lambda: bool(third.of(StartRun)))
            adding.cancel()
            await until(adding.done)
            assert len(third.of(ReleasePartition)) == 1

    asyncio.run(test())


def test_a_partition_left_by_a_failed_change_is_stopped(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, _, third, dataflow_id):
            third.join(RunReport(dataflow_id, "Running", port=1))  # the coordinator was killed meanwhile
            assert third.of(StopRun) == [StopRun(dataflow_id, force=True)]
            adding = asyncio.create_task(coordinator.ask("arm", ADD))
            await asyncio.sleep(0.01)
            assert not third.of(StartRun), "its daemon would not start another one"
            third.say(RunReport(dataflow_id, "Finished"))
            await adding
            assert [type(each) for each in third.heard if isinstance(each, (AckEnd, StartRun))] == [
                *(AckEnd, StartRun)
            ]

    asyncio.run(test())


def test_a_node_that_fails_to_start_on_a_new_machine_is_removed_with_the_machine(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, _, third, dataflow_id):

            def become(message: Apply) -> Answered:
                revision = message.proposal.revision
                third.say(RunReport(dataflow_id, "Running", port=1, revision=revision))
                failed = Rejected("node `c` could not be started")
                return Answered(message.ticket, failed if revision == 1 else Ok())

            third.answers[Apply] = become
            assert str(await refused(coordinator, ADD)) == "node `c` could not be started"
            await until(lambda: coordinator.dataflow("arm").machines == ["left", "right"])
            assert coordinator.spec("arm").revision == 2 and len(third.of(ReleasePartition)) == 1

    asyncio.run(test())


def test_the_record_knows_further_machines_when_the_coordinator_is_back(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, _, third, dataflow_id):
            third.answers[Apply] = lambda _: None  # the coordinator is killed before it is done
            adding = asyncio.create_task(coordinator.ask("arm", ADD))
            await until(lambda: bool(third.of(Apply)))
            adding.cancel()
        coordinator = Coordinator(Store(str(folder / "store.sqlite")), lambda: None)
        try:
            assert coordinator.dataflow("arm").machines == ["left", "right", "third"]
            daemons = []
            for machine in ("third", "left", "right"):
                report = RunReport(dataflow_id, "Running", port=1, secret="shown")
                daemons.append(Talking(coordinator, machine, report))
            for daemon in daemons:
                assert {message.proposal.revision for message in daemon.of(Apply)} == {1}
                part_of(daemon, dataflow_id)
            await coordinator.ask("arm", RemoveOperation("c"))
            await until(lambda: coordinator.dataflow("arm").machines == ["left", "right"])
        finally:
            coordinator.close()

    asyncio.run(test())


def test_nodes_of_a_lost_machine_are_removed_before_new_ones_are_added(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, dataflow_id):
            await coordinator.ask("arm", ADD)
            coordinator.fleet.disconnect(third.link)
            third.join()  # of another process, which has no part
            assert left.of(MachineLost) and coordinator.dataflow("arm").status == "Running"
            operation = AddOperation("{id: d, path: d.py, deploy: {machine: third}}")
            assert str(await refused(coordinator, operation)) == (
                "machine `third` is lost to the dataflow, with the nodes that it had; take these out "
                "(`dora node remove c`), and it can get others"
            )
            assert not (await coordinator.ask("arm", RemoveOperation("c"))).was_running
            assert coordinator.dataflow("arm").machines == ["left", "right"]
            await coordinator.ask("arm", operation)
            assert third.of(Apply)[-1].proposal.machines["d"] == "third"
            assert not third.of(MachineLost)
            coordinator.stop("arm", None, True)
            for machine in ("left", "right", "third"):
                link = coordinator.fleet.connections[machine]
                finished = RunReport(dataflow_id, "Finished", DataflowResult(dataflow_id))
                coordinator.handle(link, finished)
            assert coordinator.dataflow("arm").status == "Failed"
            assert "machine `third`: " in coordinator.dataflow("arm").reason

    asyncio.run(test())


def test_a_machine_that_is_lost_without_nodes_is_nothing_to_the_dataflow(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, _):
            await coordinator.ask("arm", ADD)
            third.answers[ReleasePartition] = lambda _: coordinator.fleet.disconnect(third.link)  # type: ignore[func-returns-value]
            await coordinator.ask("arm", RemoveOperation("c"))
            await until(lambda: bool(third.of(ReleasePartition)))
            third.join()  # of another process, which has no part
            assert coordinator.dataflow("arm").machines == ["left", "right"]
            assert not left.of(MachineLost) and coordinator.dataflow("arm").reason == ""

    asyncio.run(test())


def test_a_machine_hears_of_a_loss_again_with_the_nodes_that_it_concerns(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, _):
            await coordinator.ask("arm", ADD)
            coordinator.fleet.disconnect(third.link)
            third.join()  # of another process, which has no part
            (lost,) = left.of(MachineLost)
            await coordinator.ask("arm", AddOperation("{id: d, path: d.py, deploy: {machine: left}}"))
            await until(lambda: len(left.of(MachineLost)) == 2)
            kinds = [type(each) for each in left.heard if isinstance(each, (Apply, MachineLost))]
            assert kinds[-2:] == [Apply, MachineLost] and left.of(MachineLost)[-1] == lost

    asyncio.run(test())


def test_no_machine_waits_for_one_that_has_left_while_the_coordinator_was_away(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, _, third, dataflow_id):
            await coordinator.ask("arm", ADD)
            third.answers[ReleasePartition] = lambda _: None
            await coordinator.ask("arm", RemoveOperation("c"))
        async with coordinating(folder) as coordinator:
            report = RunReport(dataflow_id, "Running", port=1, revision=2)
            left = Talking(coordinator, "left", report)
            Talking(coordinator, "right", report)
            assert not left.of(Endpoints), "`third` has not said whether it is there"
            Talking(coordinator, "third")
            assert coordinator.dataflow("arm").machines == ["left", "right"]
            assert [each.endpoints for each in left.of(Endpoints)] == [{"right": "10.0.0.2:1"}]

    asyncio.run(test())


def test_a_machine_that_has_left_hears_when_the_record_goes(folder: Path) -> None:
    """It has files of the dataflow, too."""

    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, dataflow_id):
            await coordinator.ask("arm", ADD)
            await coordinator.ask("arm", RemoveOperation("c"))
            await until(lambda: coordinator.dataflow("arm").machines == ["left", "right"])
            for machine in ("left", "right"):
                finished = RunReport(dataflow_id, "Finished", DataflowResult(dataflow_id))
                coordinator.handle(coordinator.fleet.connections[machine], finished)
            coordinator.clean()
            assert left.of(DropRecords) == third.of(DropRecords) == [DropRecords((dataflow_id,))]

    asyncio.run(test())


def test_a_part_that_is_started_again_is_recorded_with_its_new_daemon(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, dataflow_id):
            failing = RunReport(dataflow_id, "Running", port=1, reason="node `a` has failed")
            left.say(failing)
            coordinator.fleet.disconnect(right.link)
            hello = Hello(__version__, "another", 1, machine="right", protocol=PROTOCOL_VERSION)
            coordinator.fleet.connect(hello, right.take)
            loss = left.of(MachineLost)[0].loss
            part = FormerPart(PeerStatus({"b": NodeStatus("backoff")}))
            left.say(msgspec.structs.replace(failing, lost={loss: part}))
            assert len(right.of(StartRun)) == 2
            record = Store(str(folder / "store.sqlite"))
            assert record.active()[dataflow_id]["right"] == "another"
            record.close()

    asyncio.run(test())


@pytest.mark.lengthy
def test_a_change_is_undone_although_another_machine_is_gone_meanwhile(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, left, third, _):
            await coordinator.ask("arm", ADD)
            left.answers[Apply] = lambda _: coordinator.fleet.disconnect(left.link, silent=True)  # type: ignore[func-returns-value]
            third.answers[Apply] = rejecting("there is no room")
            assert str(await refused(coordinator, CONNECT)) == "there is no room"
            assert coordinator.spec("arm").revision == 3
            assert "b/more" not in coordinator.spec("arm").generations

    asyncio.run(test())


def test_machines_with_and_without_tls_do_not_share_a_dataflow(folder: Path) -> None:
    async def test() -> None:
        async with joinable(folder) as (coordinator, _, third, _):
            third.link.tls = "of an authority"
            assert str(await refused(coordinator, ADD)) == (
                "machine `third` uses TLS, and those on which the dataflow runs do not"
            )

    asyncio.run(test())


ALONE = """
nodes:
  - {id: a, path: a.py, outputs: [x]}
"""


@asynccontextmanager
async def alone(folder: Path) -> AsyncIterator[tuple[Coordinator, Talking, Talking, str]]:
    """A dataflow on `left` alone, and `third`."""
    coordinator = Coordinator(Store(str(folder / "store.sqlite")), lambda: None)
    try:
        left = Talking(coordinator, "left")
        dataflow_id = coordinator.start(spec(ALONE)).uuid
        left.say(RunReport(dataflow_id, "Running"))
        third = Talking(coordinator, "third")
        for daemon in (left, third):
            part_of(daemon, dataflow_id)
        yield coordinator, left, third, dataflow_id
    finally:
        coordinator.close()


def test_the_coordinator_commits_changes_of_a_dataflow_on_one_machine(folder: Path) -> None:
    async def test() -> None:
        async with alone(folder) as (coordinator, left, third, _):
            kinds = (Prepare, Ask, Apply)
            await coordinator.ask("arm", ConnectOperation("a/x", "a/back"))
            assert [type(each) for each in left.heard if isinstance(each, kinds)] == [Prepare, Apply]
            assert coordinator.spec("arm").generations == {"a/back": 1}
            await coordinator.ask("arm", ADD)
            assert third.of(StartRun)[0].partition.secret == left.of(StartRun)[0].partition.secret
            assert third.of(StartRun)[0].spec.revision == 1
            assert left.of(Apply)[-1].proposal.machines == {"a": "left", "c": "third"}
            await coordinator.ask("arm", RemoveOperation("c"))
            await until(lambda: coordinator.dataflow("arm").machines == ["left"])
            await coordinator.ask("arm", ConnectOperation("a/x", "a/again"))
            assert left.of(Apply)[-1].proposal.generations == {"a/back": 1, "a/again": 4}

    asyncio.run(test())


@pytest.mark.lengthy
def test_a_single_machine_that_was_away_applies_what_was_committed(folder: Path) -> None:
    async def test() -> None:
        async with alone(folder) as (coordinator, left, _, dataflow_id):
            left.answers[Apply] = lambda _: coordinator.fleet.disconnect(left.link)  # type: ignore[func-returns-value]
            refusal = await refused(coordinator, ConnectOperation("a/x", "a/back"))
            assert "the change is recorded, and that machine makes it when it is back" in str(refusal)
            part_of(left, dataflow_id)
            left.join(RunReport(dataflow_id, "Running"))
            assert [each.proposal.revision for each in left.of(Apply)] == [1, 1]

    asyncio.run(test())


def test_a_change_that_the_first_machine_refuses_brings_no_second_one(folder: Path) -> None:
    async def test() -> None:
        async with alone(folder) as (coordinator, left, third, _):
            left.answers[Prepare] = rejecting("node `a` is being replaced")
            assert str(await refused(coordinator, ADD)) == "node `a` is being replaced"
            assert not third.of(StartRun)
            elsewhere = AddOperation("{id: c, path: c.py, deploy: {machine: nowhere}}")
            assert "`c` is for machine `nowhere`, which is not there" in str(
                await refused(coordinator, elsewhere)
            )

    asyncio.run(test())
