"""The snapshots of several machines are merged into one for the page."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from dora.cluster.dashboard.remote import RemoteObservers, merged
from dora.cluster.http.relay import RelayedSession
from dora.observe.rates import LinkRate
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
