"""Connections of nodes: who gets them, and what their loss completes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from dora.daemon.control_server import NodeTable
from dora.daemon.node_connections import NodeConnections
from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.plan import plan
from dora.wire.node_protocol import Ready, Registered, RegistrationRefused

LAYOUT = plan(Dataflow((NodeSpec("a", path="a.py"),), "/"), RunContext("id", "/run", "p_", "/board"))


class Peer:
    """A connection, of which ``rest`` reads what has arrived."""

    def __init__(self, number: int, incarnation: int = 0) -> None:
        self.number = number
        self.incarnation = incarnation
        self.node_id = ""
        self.sent: list[object] = []
        self.send = self.sent.append
        self.rest: Callable[[], None] = lambda: None
        self.on_written: Callable[[], None] | None = None

    def read_rest(self) -> None:
        self.rest()


class Run:
    """The connections of a run; ``done`` is what they do about them, in order."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.connections: dict[int, Peer] = {}
        self.nodes = NodeTable()
        server: Any = SimpleNamespace(connections=self.connections, drop=self.drop)
        accounting: Any = SimpleNamespace(
            notify=lambda _: self.done.append("notified"),
            reopen_receivers=lambda _: self.done.append("reopened"),
        )
        link_changes: Any = SimpleNamespace(
            node_disconnected=lambda node: self.done.append(("links", node, node in self.nodes))
        )
        requests: Any = SimpleNamespace(
            node_disconnected=lambda node: self.done.append(("requests", node)),
            event_logs=SimpleNamespace(of=lambda _: []),
        )
        journal: Any = None
        self.parts = NodeConnections(
            server,
            self.nodes,
            accounting,
            link_changes,
            requests,
            journal,
            "",
            feed=self.done.append,
            on_closed=lambda node: self.done.append(("closed", node)),
        )

    def drop(self, peer: Peer) -> None:
        self.done.append(("dropped", peer.number))
        del self.connections[peer.number]

    def peer(self, incarnation: int = 0) -> Any:
        number = len(self.connections) + 1
        peer = self.connections[number] = Peer(number, incarnation)
        return peer

    def admitted(self) -> Any:
        """Return the connection of `a`."""
        peer = self.peer()
        self.parts.admit(do.Admit(peer.number, "a", 0), LAYOUT)
        assert isinstance(peer.sent[0], Registered)
        self.did()
        return peer

    def standing_by(self, incarnation: int) -> Any:
        """Return the connection of a replacement of `a` that is ready."""
        peer = self.peer(incarnation)
        self.parts.admit_replacement(do.AdmitReplacement(peer.number, "a", 1), LAYOUT)
        self.parts.handle(peer, Ready())
        assert self.did() == [on.ReplacementReady("a", incarnation)]
        return peer

    def did(self) -> list[object]:
        """Return what was done since the last call."""
        done, self.done[:] = list(self.done), []
        return done


LOST = [("closed", "a"), ("links", "a", False), on.Disconnected("a"), ("requests", "a")]


def test_a_connection_that_is_lost_before_its_admission_is_one_that_ends() -> None:
    run = Run()
    run.parts.admit(do.Admit(5, "a", 0), LAYOUT)
    assert run.did() == [on.Disconnected("a")]
    assert run.nodes.get("a") is None


def test_the_links_of_a_node_are_open_again_from_its_admission_on() -> None:
    run = Run()
    peer = run.peer()
    run.parts.admit(do.Admit(peer.number, "a", 0), LAYOUT)
    assert run.did() == ["reopened"]
    peer.on_written()
    assert run.did() == ["notified"]


def test_the_loss_of_a_connection_completes_what_waits_for_its_node() -> None:
    run = Run()
    peer = run.admitted()
    run.parts.closed(peer)
    assert run.did() == LOST
    run.parts.closed(peer)
    assert run.did() == []


def test_the_loss_of_a_former_connection_is_not_the_node_s() -> None:
    run = Run()
    former = run.admitted()
    present = run.admitted()
    run.parts.closed(former)
    assert run.did() == []
    assert run.nodes.get("a") is present


def test_the_end_of_a_process_closes_its_connection_after_its_last_frames() -> None:
    run = Run()
    peer = run.admitted()
    peer.rest = lambda: run.parts.handle(peer, Ready())
    run.parts.process_ended("a")
    frame = on.MessageReceived("a", Ready())
    assert run.did() == [frame, ("dropped", 1), ("links", "a", False), ("requests", "a")]
    assert run.nodes.get("a") is None


def test_a_connection_that_ends_with_the_last_frames_of_its_process_is_closed_once() -> None:
    run = Run()
    peer = run.admitted()
    peer.rest = lambda: run.parts.closed(peer)
    run.parts.process_ended("a")
    assert run.did() == LOST


def test_a_replacement_that_is_ready_gets_the_node_with_its_promotion() -> None:
    run = Run()
    former = run.admitted()
    peer = run.standing_by(1)
    assert run.nodes.get("a") is former
    run.parts.promote_replacement("a")
    assert run.did() == ["reopened", on.MessageReceived("a", Ready())]
    assert run.nodes.get("a") is peer


def test_a_replacement_that_was_dropped_does_not_get_the_node() -> None:
    run = Run()
    former = run.admitted()
    run.standing_by(1)
    run.parts.drop_replacement("a")
    run.parts.promote_replacement("a")  # of the next one, which has not registered
    assert run.did() == [on.Disconnected("a")]
    assert run.nodes.get("a") is former


def test_a_replacement_that_loses_its_connection_while_it_stands_by_has_none_with_its_promotion() -> None:
    run = Run()
    former = run.admitted()
    run.parts.closed(run.standing_by(1))
    assert run.did() == []
    assert run.nodes.get("a") is former
    run.parts.promote_replacement("a")
    assert run.did() == [on.Disconnected("a")]


def test_a_refused_connection_is_closed() -> None:
    run = Run()
    peer = run.peer()
    run.parts.handle(peer, Ready())  # without a registration
    assert isinstance(peer.sent[0], RegistrationRefused)
    assert run.did() == [("dropped", 1)]
