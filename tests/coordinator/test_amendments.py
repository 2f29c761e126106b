"""What a dataflow on several machines becomes by a wish, and how the coordinator lets it become that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dora._version import __version__
from dora.coordinator.amendments import births_after, planned
from dora.coordinator.fleet import DaemonLink
from dora.coordinator.protocol import (
    Amend,
    Amended,
    Become,
    Changed,
    Hello,
    MachineView,
    Prepare,
    Redefined,
    RunReport,
    RunSpec,
    ToDaemon,
)
from dora.coordinator.rules import Refusal
from dora.coordinator.service import Coordinator
from dora.coordinator.store import Store
from dora.dataflow import parse
from dora.dataflow.model import Dataflow
from dora.wire.wishes import (
    AddWish,
    ConnectWish,
    DisconnectWish,
    Outcome,
    RemoveWish,
    ReplaceWish,
    StopWish,
    Wish,
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


def after(before: RunSpec, wish: Any) -> RunSpec:
    """Return a dataflow once a wish is fulfilled."""
    amendment = planned(before, wish, MACHINES, {}).amendment
    return msgspec.structs.replace(
        before,
        dataflow=amendment.dataflow,
        machines=amendment.machines,
        revision=amendment.revision,
        births=amendment.births,
    )


def test_a_node_gets_its_machine_and_a_birth() -> None:
    wish = AddWish("{id: c, path: c.py, inputs: {in: a/x}, deploy: {machine: right}}")
    plan = planned(spec(), wish, MACHINES, {})
    assert (plan.node, plan.machine, plan.amendment.revision) == ("c", "right", 1)
    assert plan.amendment.machines == {"a": "left", "b": "right", "c": "right"}
    assert plan.amendment.births == {"c": 1, "c/in": 1}
    assert [program["path"] for program in plan.amendment.programs] == ["c.py"]


def test_what_has_a_name_again_is_another_one() -> None:
    now = after(spec(), ConnectWish("a/x", "b/more"))
    assert now.births == {"b/more": 1}
    now = after(now, ConnectWish("a/x", "b/most"))
    assert now.births == {"b/more": 1, "b/most": 2}
    now = after(now, DisconnectWish("a/x", "b/more"))
    assert now.births == {"b/most": 2}
    now = after(now, ConnectWish("a/x", "b/more"))
    assert now.births == {"b/most": 2, "b/more": 4}
    now = after(now, RemoveWish("b"))
    assert (now.births, now.machines) == ({}, {"a": "left"})


def test_an_input_that_is_fed_by_something_else_is_another_one() -> None:
    text = TEXT + "  - {id: c, path: c.py, outputs: [z]}\n"
    before = msgspec.convert(spec(text).dataflow, type=Dataflow)
    wanted = msgspec.convert(spec(text.replace("in: a/x", "in: c/z")).dataflow, type=Dataflow)
    assert births_after(before, wanted, {}, 7) == {"b/in": 7}


def test_a_replacement_stays_where_it_is() -> None:
    plan = planned(spec(), ReplaceWish("b", "path: better.py", grace=2.0), MACHINES, {})
    assert (plan.amendment.replaced, plan.amendment.grace, plan.machine) == ("b", 2.0, "right")
    node = msgspec.convert(plan.amendment.dataflow, type=Dataflow).node("b")
    assert (node.path, node.deploy.machine) == ("better.py", "right")
    assert plan.amendment.dataflow["descriptor"]["nodes"][1]["deploy"] == {"machine": "right"}
    with pytest.raises(Refusal, match="a replacement stays on the machine"):
        planned(spec(), ReplaceWish("b", "{path: b.py, deploy: {machine: left}}"), MACHINES, {})


def test_lines_that_a_node_prints_stay_on_its_machine() -> None:
    with pytest.raises(Refusal, match="gets what node `a` prints, which only works on one machine"):
        planned(spec(), ConnectWish("a/log", "b/lines"), MACHINES, {})


def test_the_environment_of_the_asker_comes_first() -> None:
    wish = AddWish("{id: c, path: c.py, env: {SEEN: $NAME}, deploy: {machine: left}}", env={"NAME": "mine"})
    plan = planned(spec(), wish, MACHINES, {"NAME": "another"})
    assert msgspec.convert(plan.amendment.dataflow, type=Dataflow).node("c").env == {"SEEN": "mine"}


# --------------------------------------------------------------------------- with daemons that only talk


class Talking:
    """A daemon that answers as `answers` says, by kind of message; None: not at all."""

    def __init__(self, coordinator: Coordinator, machine: str) -> None:
        self.coordinator = coordinator
        self.machine = machine
        self.heard: list[ToDaemon] = []
        self.answers: dict[type, Callable[[Any], Amended | None]] = {
            Amend: lambda message: Amended(message.ticket, Outcome("")),
            Prepare: lambda message: Amended(message.ticket),
            Become: lambda message: Amended(message.ticket, Outcome("")),
        }
        self.link = self.join()

    def join(self, *runs: RunReport) -> DaemonLink:
        hello = Hello(__version__, f"daemon of {self.machine}", 1, runs, machine=self.machine)
        link = self.coordinator.fleet.join(hello, self.take, "10.0.0.2", "10.0.0.1")
        assert link is not None
        self.link = link
        return link

    def say(self, message: Any) -> None:
        self.coordinator.take(self.link, message)

    def take(self, message: ToDaemon) -> None:
        self.heard.append(message)
        act = self.answers.get(type(message))
        if act is not None and (answer := act(message)) is not None:
            asyncio.get_running_loop().call_soon(self.say, answer)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Coordinator, Talking, Talking, str]]:
    """A dataflow on `left` and `right`."""
    coordinator = Coordinator(Store(str(folder / "store.sqlite")), lambda: None)
    try:
        left, right = Talking(coordinator, "left"), Talking(coordinator, "right")
        dataflow_id = coordinator.start(spec()).uuid
        for daemon in (left, right):
            daemon.say(Changed(RunReport(dataflow_id, "running", ports={})))
        yield coordinator, left, right, dataflow_id
    finally:
        coordinator.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    return tmp_path


CONNECT = ConnectWish("a/x", "b/more")


async def refused(coordinator: Coordinator, wish: Wish) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await coordinator.change("arm", wish)
    return caught.value


def test_all_prepare_before_one_becomes(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            left.answers[Prepare] = lambda message: Amended(message.ticket, sent={"a": {"x": 8}})
            outcome = await coordinator.change("arm", CONNECT)
            assert outcome.node == "b"
            for daemon in (left, right):
                (prepare,), (become,) = daemon.of(Prepare), daemon.of(Become)
                assert prepare.amendment == become.amendment
                assert become.sent == {"a": {"x": 8}}
            assert coordinator.spec("arm").births == {"b/more": 1}

    asyncio.run(test())


def test_a_machine_that_cannot_change_keeps_all_from_changing(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            right.answers[Prepare] = lambda message: Amended(message.ticket, error="node `b` has ended")
            assert str(await refused(coordinator, CONNECT)) == "node `b` has ended"
            assert not left.of(Become) and not right.of(Become)
            assert coordinator.spec("arm").revision == 0

    asyncio.run(test())


def test_a_machine_that_is_away_is_named(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            coordinator.fleet.leave(right.link, silent=True)
            refusal = await refused(coordinator, CONNECT)
            assert (refusal.status, "machine `right` is not connected" in str(refusal)) == (503, True)
            assert not left.of(Prepare)
            assert (await refused(coordinator, StopWish("b"))).status == 503
            await coordinator.change("arm", StopWish("a"))  # its own machine is enough

    asyncio.run(test())


def test_a_machine_that_is_lost_amid_a_change_makes_it_later(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, dataflow_id):
            right.answers[Become] = lambda _: coordinator.fleet.leave(right.link, silent=True)  # type: ignore[func-returns-value]
            refusal = await refused(coordinator, CONNECT)
            assert refusal.status == 503
            assert str(refusal) == (
                "the connection to machine `right` broke amid it: the change is recorded, and that machine "
                "makes it when it is back"
            )
            assert coordinator.spec("arm").revision == 1 and len(left.of(Become)) == 1
            right.answers.clear()
            right.join(RunReport(dataflow_id, "running", ports={}))
            assert right.of(Become)[-1].amendment.births == {"b/more": 1}
            count = len(right.of(Become))
            right.join(RunReport(dataflow_id, "running", ports={}, revision=1))
            assert len(right.of(Become)) == count, "it has made it"

    asyncio.run(test())


def test_what_does_not_start_is_taken_out_again(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):

            def become(message: Become) -> Amended:
                if message.amendment.revision == 1:
                    return Amended(message.ticket, error="node `c` could not be started")
                return Amended(message.ticket, Outcome(""))

            right.answers[Become] = become
            wish = AddWish("{id: c, path: c.py, deploy: {machine: right}}")
            assert str(await refused(coordinator, wish)) == "node `c` could not be started"
            for daemon in (left, right):
                assert [sorted(each.amendment.machines) for each in daemon.of(Become)] == [
                    *(["a", "b", "c"], ["a", "b"])
                ]
            assert coordinator.dataflow("arm").nodes == ["a", "b"]
            assert coordinator.spec("arm").revision == 2

    asyncio.run(test())


def test_a_node_ends_before_it_is_taken_out(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, _):
            kinds = (Prepare, Amend, Become)
            left.answers[Amend] = lambda message: Amended(message.ticket, Outcome("a", was_running=False))
            outcome = await coordinator.change("arm", RemoveWish("a"))
            assert not outcome.was_running
            assert [type(each) for each in left.heard if isinstance(each, kinds)] == [
                *(Prepare, Amend, Prepare, Become)
            ]
            assert [type(each) for each in right.heard if isinstance(each, kinds)] == [Prepare, Become]

    asyncio.run(test())


def test_a_replacement_that_fails_changes_nothing(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, right, dataflow_id):
            right.answers[Become] = lambda message: Amended(message.ticket, error="it does not start")
            assert str(await refused(coordinator, ReplaceWish("b", "path: c.py"))) == "it does not start"
            assert not left.of(Become) and coordinator.spec("arm").revision == 0
            # A machine whose word the coordinator has not heard, because it was killed, is ahead of it.
            amendment = right.of(Become)[-1].amendment
            right.say(Redefined(dataflow_id, amendment.dataflow, amendment.machines, 1, amendment.births))
            right.say(Changed(RunReport(dataflow_id, "running", ports={}, revision=1)))
            assert coordinator.spec("arm").revision == 1
            assert left.of(Become)[-1].amendment.revision == 1

    asyncio.run(test())


def test_one_change_at_a_time(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, _, _):
            wishes = [ConnectWish("a/x", f"b/in-{number}") for number in range(5)]
            await asyncio.gather(*(coordinator.change("arm", wish) for wish in wishes))
            kinds = [type(each) for each in left.heard if isinstance(each, (Prepare, Become))]
            assert kinds == [Prepare, Become] * 5
            assert [each.amendment.revision for each in left.of(Become)] == [1, 2, 3, 4, 5]
            assert sorted(coordinator.spec("arm").births.values()) == [1, 2, 3, 4, 5]

    asyncio.run(test())


def test_a_machine_without_a_part_is_refused(folder: Path) -> None:
    async def test() -> None:
        async with running(folder) as (coordinator, left, _, _):
            Talking(coordinator, "third")
            wish = AddWish("{id: c, path: c.py, deploy: {machine: third}}")
            refusal = await refused(coordinator, wish)
            assert "node `c` is for machine `third`, and `arm` runs on `left`, `right` only" in str(refusal)
            assert not left.of(Prepare)

    asyncio.run(test())
