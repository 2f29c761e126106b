"""Changes that the coordinator decides, seen by the supervisors of two machines."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from supervision import Supervised, answers, described, node, sent, signals, spawned

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.status import PeerStatus
from dora.dataflow.model import NodeSpec, RestartOptions
from dora.wire.daemon_protocol import (
    ApplyChange,
    CheckChange,
    Conflict,
    Ok,
    Rejected,
)
from dora.wire.node_config import RemoteConfig
from dora.wire.node_protocol import ReloadFrame, StopFrame
from dora.wire.operations import ProposedChange, program_key

A = node("a", outputs=("x",))
B = node("b", inputs=("a/x",), outputs=("y",))
C = node("c", inputs=("b/y",))
PLACED = {"a": "left", "b": "right", "c": "left"}
REMOTE = RemoteConfig({}, {}, "secret", "/nowhere")


def proposed(revision: int, generations: dict[str, int] | None = None) -> ProposedChange:
    return ProposedChange(revision=revision, dataflow=None, generations=generations or {})


@dataclass
class Fleet:
    """Two machines, and a coordinator that changes the dataflow."""

    nodes: list[NodeSpec]
    placed: dict[str, str] = field(default_factory=lambda: dict(PLACED))
    generations: dict[str, int] = field(default_factory=dict)
    revision: int = 0

    def __post_init__(self) -> None:
        self.commands: dict[str, list[do.Command]] = {"left": [], "right": []}
        self.runs = {
            machine: Supervised(
                *self.nodes,
                coordinated=True,
                elsewhere={key: other for key, other in self.placed.items() if other != machine},
            )
            for machine in self.commands
        }

    def __call__(self, machine: str, event: on.Event) -> list[do.Command]:
        commands = self.runs[machine](event)
        self.commands[machine] += commands
        return commands

    def send_status(self, source: str, target: str) -> None:
        status = msgspec.json.encode(self.runs[source].supervisor.status())
        self(target, on.PeerStatusReceived(source, msgspec.json.decode(status, type=PeerStatus)))

    def exchange_status(self) -> None:
        for _ in range(3):
            self.send_status("left", "right")
            self.send_status("right", "left")

    def start(self) -> None:
        for machine in self.runs:
            self(machine, on.Begin())
        for node_id, machine in self.placed.items():
            self.commands[machine] += self.runs[machine].join(node_id)
        self.exchange_status()

    def commit(self, *nodes: NodeSpec, placed: dict[str, str] | None = None) -> None:
        """Record a change. A node with a new name gets a new generation."""
        self.revision += 1
        known = {each.id: {item.id for item in each.inputs} for each in self.nodes}
        generations = {}
        for each in nodes:
            if each.id not in known:
                generations[each.id] = self.revision
            elif each.id in self.generations:
                generations[each.id] = self.generations[each.id]
        self.nodes, self.generations = list(nodes), generations
        self.placed = {each.id: ({**self.placed, **(placed or {})})[each.id] for each in nodes}

    def apply(self, machine: str) -> list[do.Command]:
        """Send the recorded dataflow to a machine."""
        running = self.runs[machine].state.dataflow
        wanted = msgspec.structs.replace(running, nodes=tuple(self.nodes), descriptor=described(self.nodes))
        elsewhere = {key: "" if other == machine else other for key, other in self.placed.items()}
        request = ApplyChange(proposed(self.revision, self.generations), machine, REMOTE)
        return self(machine, on.ChangeRequested(7, request, wanted, elsewhere))

    def received(self, node_id: str) -> list[object]:
        """Return the messages for a node since the last call."""
        machine = self.placed[node_id]
        mine = [c for c in self.commands[machine] if isinstance(c, do.Send) and c.node_id == node_id]
        self.commands[machine] = [c for c in self.commands[machine] if c not in mine]
        return [command.message for command in mine]


def test_a_node_that_is_added_starts_on_its_machine_and_is_mirrored_on_the_other() -> None:
    run = Fleet([A, B, C])
    run.start()
    run.commit(A, B, C, node("d", inputs=("a/x",)), placed={"d": "right"})
    assert not spawned(run.apply("left"))
    assert spawned(run.apply("right")) == [("d", 0)]
    assert answers(run("right", on.Spawned("d", 5))) == [Ok()]
    run.commands["right"] += run.runs["right"].join("d")
    run.exchange_status()
    assert run.runs["left"].state.nodes["d"].phase == "running"
    run("right", on.ProcessEnded("d", 0))
    run.exchange_status()
    assert run.runs["left"].state.nodes["d"].phase == "ended"


def test_the_mapping_of_nodes_stays_the_same_object() -> None:
    run = Fleet([A, B, C])
    run.start()
    nodes = run.runs["left"].state.nodes  # the health check of the daemon holds it
    run.commit(A, node("d"), B, C, placed={"d": "left"})
    run.apply("left")
    assert list(nodes) == ["a", "d", "b", "c"]


def test_a_node_added_again_under_its_name_has_the_closed_inputs_of_ended_nodes() -> None:
    run = Fleet([A, B, C, node("d", inputs=("a/x",))], {**PLACED, "d": "right"})
    run.start()
    run("left", on.ProcessEnded("a", 0))
    run.commit(A, B, C)
    run.commit(A, B, C, node("d", inputs=("a/x",)), placed={"d": "left"})
    run.apply("left")  # which has missed the removal
    assert run.runs["left"].state.nodes["d"].inputs_closed == {"a/x"}


def test_status_that_arrives_before_the_change_counts_after_it() -> None:
    run = Fleet([A, B, C])
    run.start()
    run.commit(A, B, C, node("d"), placed={"d": "right"})
    run.apply("right")
    run("right", on.Spawned("d", 5))
    run.commands["right"] += run.runs["right"].join("d")
    run.send_status("right", "left")
    run.apply("left")
    assert run.runs["left"].state.nodes["d"].phase == "running"


def test_status_of_an_earlier_node_of_the_same_name_does_not_count() -> None:
    run = Fleet([A, B, C, node("d")], {**PLACED, "d": "right"})
    run.start()
    run.commit(A, B, C)
    run.apply("right")
    run.send_status("right", "left")
    run("right", on.ProcessEnded("d", 0))
    run.send_status("right", "left")
    run.commit(A, B, C, node("d"), placed={"d": "right"})
    run.apply("left")  # which has missed the change before
    assert run.runs["left"].state.nodes["d"].phase == "starting"
    run.apply("right")
    run("right", on.Spawned("d", 5))
    run.commands["right"] += run.runs["right"].join("d")
    run.exchange_status()
    assert run.runs["left"].state.nodes["d"].phase == "running"


def test_consumers_of_a_removed_node_lose_an_input_and_not_a_source() -> None:
    run = Fleet([A, B, C])
    run.start()
    run.received("c"), run.received("b")
    run.commit(A, node("c"), placed=PLACED)
    right = run.runs["right"]
    assert answers(run.apply("right")) == [], "the node has to end first"
    assert sent(run.commands["right"], "b") == [StopFrame()]
    run.exchange_status()
    assert run.received("c") == [], "the left machine keeps it until it is told"
    assert answers(run("right", on.ProcessEnded("b", 0))) == [do.AnswerNodeRemoved(7, "b")]
    assert (right.state.revision, list(right.state.nodes)) == (1, ["a", "c"])
    run.exchange_status()
    assert answers(run.apply("left")) == []  # the answer comes when the links exist
    assert run.received("c") == []
    assert run.runs["left"].supervisor.next_deadline() is None


def test_a_removal_that_a_stop_of_the_dataflow_overtakes_changes_nothing() -> None:
    run = Fleet([A, B, C])
    run.start()
    run.commit(A, node("c"), placed=PLACED)
    run.apply("right")
    (answer,) = answers(run("right", on.StopRequested("test")))
    assert answer == Rejected("the dataflow is being stopped")
    assert run.runs["right"].state.revision == 0
    assert answers(run.apply("right")) == [Rejected("the dataflow is ending")]


def test_a_machine_that_has_missed_more_than_one_change_kills_a_node_that_is_gone() -> None:
    run = Fleet([A, B, C])
    run.start()
    run.commit(A, node("c"), placed=PLACED)
    run.commit(A, node("c"), node("d"), placed={**PLACED, "d": "left"})
    commands = run.apply("right")
    assert signals(commands) == [("b", 9)]
    assert list(run.runs["right"].state.nodes) == ["a", "c", "d"]


def test_who_stops_a_node_that_is_gone_is_answered() -> None:
    run = Fleet([A, B, C])
    run.start()
    assert answers(run.runs["right"].ask("b", "stop")) == []
    run.commit(A, node("c"), placed=PLACED)
    run.commit(A, node("c"), node("d"), placed={**PLACED, "d": "left"})
    assert Rejected("the dataflow is being stopped") in answers(run.apply("right"))


def replace(run: Fleet, revision: int, program: int, *more: NodeSpec) -> list[do.Command]:
    """Let the machine of `b` hear that `b` has the program of a change (0: the one that it came with)."""
    generations = {program_key("b"): program} if program else {}
    generations |= {each.id: revision for each in more}
    path = f"better-{program}.py" if program else "b.py"
    wanted = run.runs["right"].with_nodes(A, msgspec.structs.replace(B, path=path), C, *more)
    elsewhere = {"a": "left", "b": "", "c": "left", **{each.id: "left" for each in more}}
    request = ApplyChange(proposed(revision, generations), "right", REMOTE)
    return run("right", on.ChangeRequested(7, request, wanted, elsewhere))


def replacements(commands: list[do.Command]) -> int:
    return sum(isinstance(command, do.SpawnReplacement) for command in commands)


def test_a_replacement_that_fails_is_undone_without_another_process() -> None:
    run = Fleet([A, B, C])
    run.start()
    assert replacements(replace(run, 1, 1)) == 1
    assert answers(run("right", on.ReplacementEnded("b", 1, 1, None)))
    assert run.runs["right"].state.revision == 0, "the coordinator undoes it"
    assert replacements(replace(run, 2, 0)) == 0
    assert run.runs["right"].state.revision == 2


def test_a_replacement_that_is_undone_brings_the_former_program_back() -> None:
    run = Fleet([A, B, C])
    run.start()
    replace(run, 1, 1)
    assert answers(run("right", on.ProcessEnded("b", 1))) == [Ok()]
    assert run.runs["right"].state.nodes["b"].spec.path == "better-1.py"
    run.commands["right"] += run.runs["right"].join("b", incarnation=1)
    assert replacements(replace(run, 2, 0)) == 1
    assert answers(run("right", on.ProcessEnded("b", 1))) == [Ok()]
    assert run.runs["right"].state.nodes["b"].spec.path == "b.py"


@pytest.mark.parametrize("missed", [1, 3])
def test_a_machine_that_has_not_made_a_replacement_makes_the_next_one(missed: int) -> None:
    run = Fleet([A, B, C])
    run.start()
    assert replacements(replace(run, 1, 1)) == 1
    run("right", on.ReplacementEnded("b", 1, 1, None))  # and nothing undoes it
    assert replacements(replace(run, 1 + missed, 1 + missed)) == 1
    assert answers(run("right", on.ProcessEnded("b", 1))) == [Ok()]
    right = run.runs["right"].state
    assert (right.revision, right.nodes["b"].spec.path) == (1 + missed, f"better-{1 + missed}.py")


def test_a_machine_that_has_missed_a_replacement_among_others_starts_the_program_anew() -> None:
    run = Fleet([A, B, C])
    run.start()
    commands = replace(run, 2, 1, node("d"))
    assert replacements(commands) == 0 and sent(commands, "b") == [ReloadFrame(), StopFrame()]
    assert run.runs["right"].state.nodes["b"].spec.path == "better-1.py"
    assert spawned(run("right", on.ProcessEnded("b", 0))) == [("b", 1)]


def test_an_added_node_that_does_not_start_is_left_to_the_coordinator() -> None:
    run = Fleet([A, B, C])
    run.start()
    run.commit(A, B, C, node("d"), placed={"d": "right"})
    run.apply("left"), run.apply("right")
    assert answers(run("right", on.SpawnFailed("d", "has no program"))) == [
        Rejected("node `d` has no program")
    ]
    assert run.runs["right"].state.nodes["d"].phase == "ended"
    assert not run.runs["right"].failures
    run.commit(A, B, C)
    run.apply("left"), run.apply("right")
    assert "d" not in run.runs["right"].state.nodes


def test_a_revision_that_was_applied_already_changes_nothing() -> None:
    run = Fleet([A, B, C])
    run.start()
    run.commit(A, B, C, node("d"), placed={"d": "right"})
    run.apply("right")
    assert run.apply("right") == [do.Answer(7, Ok())]
    dataflow = run.runs["right"].state.dataflow
    checks = [
        on.ChangeRequested(7, CheckChange(proposed(revision), "right", REMOTE), dataflow)
        for revision in (1, 2)
    ]
    assert answers(run("right", checks[0])) == [Conflict()]
    assert run("right", checks[1]) == [do.AnswerSentCounts(7)]


def test_only_the_coordinator_changes_a_dataflow_that_it_started() -> None:
    run = Fleet([A, B, C])
    run.start()
    for commands in (run.runs["left"].become(A, B), run.runs["left"].ask("a", "remove")):
        (answer,) = answers(commands)
        assert isinstance(answer, Rejected) and "only the coordinator" in answer.reason


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from(["left", "right"])),
        st.tuples(st.just("remove"), st.sampled_from("abcdef")),
        st.tuples(st.just("apply"), st.sampled_from(["left", "right"])),
        st.tuples(st.just("status"), st.sampled_from(["left", "right"])),
        st.tuples(st.just("join"), st.sampled_from("def")),
        st.tuples(st.just("end"), st.sampled_from("abcdef")),
    ),
    max_size=40,
)


@pytest.mark.lengthy
@given(STEPS)
def test_all_machines_reach_the_same_state_in_any_order_of_messages(steps: list[tuple[str, str]]) -> None:
    run = Fleet([A, B, C])
    run.start()

    def state(node_id: str):  # type: ignore[no-untyped-def]
        return run.runs[run.placed[node_id]].state.nodes.get(node_id)

    def act(what: str, who: str) -> None:
        other = "right" if who == "left" else "left"
        names = [each.id for each in run.nodes]
        match what:
            case "add":
                if fresh := [name for name in "def" if name not in names]:
                    sources = tuple(f"{each.id}/x" for each in run.nodes if "x" in each.outputs)
                    added = node(fresh[0], inputs=sources[:1], outputs=("x",))
                    run.commit(*run.nodes, added, placed={fresh[0]: who})
                    run.apply(who)  # its own machine is the one that may not miss it
                    run(who, on.Spawned(fresh[0], 5))
            case "remove" if who in names and state(who) is not None and state(who).operation is None:
                machine = run.placed[who]
                left = [
                    msgspec.structs.replace(
                        each, inputs=tuple(i for i in each.inputs if not i.id.startswith(f"{who}/"))
                    )
                    for each in run.nodes
                    if each.id != who
                ]
                run.commit(*left)
                run.apply(machine)
                if (leaves := run.runs[machine].state.nodes.get(who)) is not None and leaves.alive:
                    run(machine, on.ProcessEnded(who, 0))
            case "apply":
                run.apply(who)
            case "status":
                run.send_status(who, other)
            case "join" if who in names and (found := state(who)) is not None:
                if found.phase == "starting" and not found.connected:
                    machine = run.placed[who]
                    run.commands[machine] += run.runs[machine].join(who, incarnation=found.incarnation)
            case "end" if who in names and state(who) is not None and state(who).alive:
                run(run.placed[who], on.ProcessEnded(who, 0))

    for what, who in steps:
        act(what, who)
        if any(each.state.done for each in run.runs.values()):
            return
    for machine in run.runs:
        run.apply(machine)
    run.exchange_status()
    left, right = (each.state for each in run.runs.values())
    assert list(left.nodes) == list(right.nodes) == [each.id for each in run.nodes]
    for node_id in left.nodes:
        assert left.nodes[node_id].phase == right.nodes[node_id].phase
        assert left.nodes[node_id].outputs_closed == right.nodes[node_id].outputs_closed
        assert left.nodes[node_id].inputs_closed == right.nodes[node_id].inputs_closed
    assert left.done == right.done


# --------------------------------------------------------------------------- machines that come and go


def joined(run: Fleet, generations: dict[str, int] | None = None) -> Supervised:
    """Let `third` join the present dataflow without nodes."""
    third = Supervised(*run.nodes, coordinated=True, elsewhere=run.placed, generations=generations)
    run.runs["third"], run.commands["third"] = third, []
    run("third", on.Begin())
    for machine in ("left", "right"):
        run.send_status(machine, "third")
    return third


def test_the_barrier_of_a_machine_that_joins_is_open() -> None:
    run = Fleet([A, B, C])
    run.start()
    third = joined(run)
    assert third.state.opened and not spawned(run.commands["third"])
    run.commit(A, B, C, node("d", inputs=("a/x",)), placed={"d": "third"})
    for machine in run.runs:
        run.apply(machine)
    assert spawned(run.commands["third"]) == [("d", 0)]
    run("third", on.Spawned("d", 1))
    run.commands["third"] += third.join("d")
    assert third.state.nodes["d"].phase == "running"
    run.send_status("third", "left")
    assert run.runs["left"].state.nodes["d"].phase == "running"


def test_a_machine_that_joins_late_knows_earlier_additions_and_ends() -> None:
    run = Fleet([A, B, C])
    run.start()
    run.commit(A, B, C, node("d", inputs=("a/x",)), placed={"d": "right"})
    for machine in ("left", "right"):
        run.apply(machine)
    run("right", on.Spawned("d", 1))
    run.commands["right"] += run.runs["right"].join("d")
    run("right", on.ProcessEnded("d", 1))
    run("right", on.ProcessEnded("b", 0))
    run.exchange_status()
    third = joined(run, run.generations)
    phases = {key: state.phase for key, state in third.state.nodes.items()}
    assert phases == {"a": "running", "b": "ended", "c": "running", "d": "ended"}
    assert third.state.nodes["d"].generation == 1
    assert third.state.nodes["c"].inputs_closed == {"b/y"}
    assert [failure.node_id for failure in third.state.failures] == ["d"]


def test_a_change_brings_no_lost_machine_back() -> None:
    run = Fleet([A, msgspec.structs.replace(B, restart=RestartOptions("always")), C])
    run.start()
    run("left", on.OtherMachineLost("right", "its daemon is gone", True))
    run.commit(*run.nodes, node("d"), placed={"d": "left"})
    run.apply("left")
    assert run.runs["left"].state.nodes["b"].awaits_machine


def test_a_machine_without_nodes_is_released() -> None:
    run = Fleet([A, B, C])
    run.start()
    third = joined(run)
    run("left", on.Released())
    assert not run.runs["left"].state.done, "it has nodes"
    run("third", on.Released())
    assert third.state.done and not third.supervisor.status().stopping
    assert not third.state.stopping


def test_a_machine_without_nodes_ends_at_once_and_with_the_others() -> None:
    run = Fleet([A, B, C])
    run.start()
    third = joined(run)
    run("third", on.KillRequested())
    assert third.state.done
    third = joined(run)
    for node_id in ("a", "b", "c"):
        run(run.placed[node_id], on.ProcessEnded(node_id, 0))
    run.exchange_status()
    for machine in ("left", "right"):
        run.send_status(machine, "third")
    assert third.state.done


def test_the_coordinator_commits_changes_of_a_single_machine() -> None:
    run = Supervised(A, B, coordinated=True)

    def check() -> list[do.Command]:
        request = CheckChange(proposed(1), "left")
        return run(on.ChangeRequested(7, request, run.state.dataflow))

    (answer,) = answers(check())
    assert answer == Rejected("the dataflow is still starting; try again once all its nodes run")
    run.start()
    assert check() == [do.AnswerSentCounts(7)]
    request = ApplyChange(proposed(1), "left")
    (applied,) = run(on.ChangeRequested(7, request, run.state.dataflow))
    assert isinstance(applied, do.ApplyDataflow) and applied.connection == 7
    assert (run.state.revision, run.state.distributed) == (1, False)
    (declined,) = answers(run(run.change(A)))
    assert isinstance(declined, Rejected) and "only the coordinator" in declined.reason


def test_a_machine_that_missed_a_removal_disconnects_the_dynamic_node() -> None:
    run = Supervised(A, node("d", path="dynamic"), coordinated=True)
    run.start()
    run.join("d", dynamic=True)
    commands = run(on.ChangeRequested(7, ApplyChange(proposed(3), "left"), run.with_nodes(A)))
    kinds = [type(command) for command in commands]
    assert kinds.index(do.Disconnect) < kinds.index(do.ApplyDataflow), "its frames need its lines"
    assert list(run.state.nodes) == ["a"]
    assert not run(on.Disconnected("d"))
