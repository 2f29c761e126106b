"""The snapshots of several machines are merged into one for the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from waiting import TIMEOUT

from dora.cluster.dashboard.remote import RemoteObservers, merged
from dora.cluster.http.relay import RelayedSession
from dora.cluster.refusal import Refusal
from dora.observe.preview.protocol import Ended, FromWatcher, page_query
from dora.observe.queries import SnapshotQuery
from dora.observe.rates import LinkRate
from dora.observe.remote.protocol import DeliveryTaken, QueryEnded, decode_to_process, encode
from dora.observe.snapshot import NodeSnapshot, Snapshot
from dora.observe.snapshot_json import as_json
from dora.wire.daemon_protocol import LinkView, NodeView


def node(name: str, sent_hz: float, machine: str = "") -> NodeSnapshot:
    return NodeSnapshot(
        "id", "flow", NodeView(name, "Running", machine=machine), None, sent_hz, 0, 0, 0, None
    )


def link(source: str, target: str, hz: float) -> LinkRate:
    return LinkRate(LinkView(0, 0, source, f"{target}/in"), hz, None, 0, 0, 0.0)


def snapshot(hz: float, trouble: str = "", machine: str = "") -> Snapshot:
    """Return what a machine that counts ``hz`` everywhere says of a dataflow with two nodes."""
    nodes = [node("camera", hz), node("plan", hz)]
    links = [link("camera/image", "plan", hz), link("plan/command", "camera", hz)]
    return Snapshot(machine, nodes, links, trouble=trouble)


def shown(*arguments: Any) -> tuple[dict[str, Any], dict[str, float], str]:
    """Return machine and rate of each node, the rate of each link, and the trouble."""
    found = json.loads(as_json(merged(*arguments)))
    return (
        {each["id"]: (each["machine"], each["sent_hz"]) for each in found["nodes"]},
        {each["target"]: each["hz"] for each in found["links"]},
        found["trouble"],
    )


PLACED = {"camera": "arm", "plan": "base"}


def test_each_machine_counts_for_its_nodes_and_the_links_to_them() -> None:
    remote = {"arm": snapshot(1, "too many look"), "base": snapshot(2)}
    assert shown(None, remote, {"desk": "machine `desk` does not answer"}, PLACED) == (
        {"camera": ("arm", 1), "plan": ("base", 2)},
        {"plan/in": 2, "camera/in": 1},
        "too many look; machine `desk` does not answer",
    )


def test_the_machine_of_the_server_counts_for_its_own_nodes() -> None:
    assert shown(snapshot(1, machine="arm"), {"base": snapshot(2)}, {}, PLACED) == (
        {"camera": ("arm", 1), "plan": ("base", 2)},
        {"plan/in": 2, "camera/in": 1},
        "",
    )


def test_nodes_of_a_machine_that_does_not_answer_are_shown_as_the_others_see_them() -> None:
    nodes, links, trouble = shown(None, {"arm": snapshot(1)}, {"base": "gone"}, PLACED)
    assert nodes == {"camera": ("arm", 1), "plan": ("base", 1)}
    assert links == {"plan/in": 1, "camera/in": 1}
    assert trouble == "gone"


def test_a_node_that_was_added_later_is_on_the_machine_that_is_reported() -> None:
    new = Snapshot("arm", [node("new", 3, "arm")], [link("camera/image", "new", 3)])
    assert shown(None, {"base": new, "arm": new}, {}, {}) == ({"new": ("arm", 3)}, {"new/in": 3}, "")


def test_the_only_machine_of_a_dataflow_is_that_of_its_nodes() -> None:
    assert shown(None, {"arm": snapshot(1)}, {}, {})[0] == {"camera": ("arm", 1), "plan": ("arm", 1)}
    assert shown(snapshot(1), {}, {}, {})[0] == {"camera": ("", 1), "plan": ("", 1)}


def test_a_dataflow_of_which_no_machine_answers_has_no_nodes() -> None:
    assert shown(None, {}, {"arm": "gone"}, PLACED) == ({}, {}, "gone")


def test_a_machine_with_another_version_of_dora_is_named_and_tried_again() -> None:
    async def observe() -> dict[str, str]:
        changed = asyncio.Event()

        def open_session(machine: str) -> RelayedSession:
            session = RelayedSession(machine, lambda _: None)
            session.to_client.put_nowait(b'[{"type":"OfTheNextVersion"}]')
            return session

        observers = RemoteObservers(("arm",), {}, open_session, changed.set, lambda _: None)
        following = observers._tasks[0]
        await asyncio.wait({following, asyncio.create_task(changed.wait())}, return_when="FIRST_COMPLETED")
        assert not following.done()
        await observers.close()
        return observers.faults

    assert asyncio.run(observe()) == {"arm": "the observer on machine `arm` is of another version of dora"}


class Machines:
    """Machines whose observers do what a test says; `RemoteObservers` tries again at once."""

    def __init__(self, *names: str) -> None:
        self.sessions: dict[str, list[RelayedSession]] = {name: [] for name in names}
        self.refusals: dict[str, Refusal] = {}
        self.messages: list[FromWatcher] = []
        self.forgotten: list[RelayedSession] = []
        self.observers = RemoteObservers(names, PLACED, self._open, lambda: None, self.messages.append)

    def _open(self, machine: str) -> RelayedSession:
        if machine in self.refusals:
            raise self.refusals[machine]
        session = RelayedSession(machine, self.forgotten.append)
        self.sessions[machine].append(session)
        return session

    async def sessions_of(self, machine: str, count: int) -> RelayedSession:
        """Return the last session with a machine once there were so many."""
        await until(lambda: len(self.sessions[machine]) >= count)
        return self.sessions[machine][-1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.cluster.dashboard.remote.RETRY", 0.001)


@pytest.mark.usefixtures("at_once")
def test_a_machine_is_shown_or_its_fault_and_never_both() -> None:
    async def observe() -> None:
        machines = Machines("arm")
        observers = machines.observers
        first = await machines.sessions_of("arm", 1)
        first.to_client.put_nowait(encode([snapshot(1)]))
        await until(lambda: "arm" in observers.snapshots)
        machines.refusals["arm"] = Refusal(503, "machine `arm` is away")
        first.end("the observer is gone")
        await until(lambda: "arm" in observers.faults)
        assert observers.snapshots == {}
        await until(lambda: observers.faults["arm"] == "machine `arm` is away")
        machines.refusals.clear()
        (await machines.sessions_of("arm", 2)).to_client.put_nowait(encode([snapshot(2)]))
        await until(lambda: "arm" in observers.snapshots)
        assert observers.faults == {}
        await observers.close()

    asyncio.run(observe())


def test_an_observer_sends_on_when_its_delivery_was_taken() -> None:
    async def observe() -> None:
        machines = Machines("arm")
        session = await machines.sessions_of("arm", 1)
        assert isinstance(decode_to_process(await session.to_observer.get()), SnapshotQuery)
        session.to_client.put_nowait(encode([snapshot(1)]))
        async with asyncio.timeout(TIMEOUT):
            assert decode_to_process(await session.to_observer.get()) == DeliveryTaken()
        await machines.observers.close()
        assert machines.forgotten == [session], "the session ends with the page"

    asyncio.run(observe())


@pytest.mark.usefixtures("at_once")
def test_a_machine_whose_dataflow_is_starting_has_no_fault() -> None:
    async def observe() -> None:
        machines = Machines("arm")
        machines.refusals["arm"] = Refusal(425, "the dataflow is starting")
        changes: list[str] = []
        machines.observers._on_change = lambda: changes.append("changed")
        await asyncio.sleep(0)
        machines.refusals.clear()
        await machines.sessions_of("arm", 1)
        assert (machines.observers.faults, changes) == ({}, [])
        await machines.observers.close()

    asyncio.run(observe())


@pytest.mark.usefixtures("at_once")
def test_a_dataflow_has_ended_when_it_has_on_all_machines() -> None:
    async def observe() -> None:
        machines = Machines("arm", "base")
        (await machines.sessions_of("arm", 1)).to_client.put_nowait(encode([QueryEnded(ended=True)]))
        await until(machines.observers._tasks[0].done)
        assert machines.messages == []
        machines.refusals["base"] = Refusal(404, "it has ended")
        (await machines.sessions_of("base", 1)).end()
        await until(machines.observers._tasks[1].done)
        assert machines.messages == [Ended()]
        await machines.observers.close()

    asyncio.run(observe())


@pytest.mark.usefixtures("at_once")
def test_a_machine_is_asked_for_the_previews_of_its_own_nodes() -> None:
    async def next_query(session: RelayedSession) -> SnapshotQuery:
        async with asyncio.timeout(TIMEOUT):
            query = decode_to_process(await session.to_observer.get())
        assert isinstance(query, SnapshotQuery)
        return query

    async def observe() -> None:
        machines = Machines("arm", "base")
        sessions = [await machines.sessions_of(name, 1) for name in ("arm", "base")]
        for session in sessions:
            assert (await next_query(session)).previews == ()
        # A node that was added later may be anywhere.
        machines.observers.change_query(page_query(("camera/image", "plan/command", "new/out")))
        assert [(await next_query(session)).previews for session in sessions] == [
            ("camera/image", "new/out"),
            ("plan/command", "new/out"),
        ]
        machines.refusals["arm"] = Refusal(503, "machine `arm` is away")
        sessions[0].end()
        await until(lambda: "arm" in machines.observers.faults)
        machines.observers.change_query(page_query(("camera/image",)))
        assert (await next_query(sessions[1])).previews == ()
        assert sessions[0].to_observer.empty(), "nothing is sent to a machine that is away"
        await machines.observers.close()

    asyncio.run(observe())


@pytest.mark.parametrize("gone_first", [False, True])
def test_the_sentence_of_an_observer_is_shown_and_not_that_it_is_gone(gone_first: bool) -> None:
    async def observe() -> None:
        machines = Machines("arm")
        session = await machines.sessions_of("arm", 1)
        gone = "the observer on machine `arm` is gone"
        session.to_client.put_nowait(encode([QueryEnded("the dataflow is not running yet")]))
        if gone_first:
            session.end(gone)
        await until(session.to_client.empty)
        await until(lambda: session.ended.is_set())
        session.end(gone)
        await until(lambda: "arm" in machines.observers.faults)
        assert machines.observers.faults == {"arm": "the dataflow is not running yet"}
        await machines.observers.close()

    asyncio.run(observe())
