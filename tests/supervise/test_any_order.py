"""Any order of events keeps the invariants, and from any state a stop leads to the end."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from supervision import Supervised, node

from dora.dataflow.model import Node, RestartOptions
from dora.supervise import commands as do
from dora.supervise import events as on

GRAPH = {
    "source": ((), ("x", "y")),
    "middle": (("source/x",), ("z",)),
    "clock": (("timer/",), ("t",)),
    "sink": (("source/y", "middle/z", "guest/g"), ()),
    "guest": (("clock/t",), ("g",)),
}
NAMES = tuple(GRAPH)

restarts = st.builds(
    RestartOptions,
    policy=st.sampled_from(["never", "on-failure", "always"]),
    max_restarts=st.integers(0, 2),
    delay=st.sampled_from([0.0, 1.5]),
    window=st.sampled_from([None, 5.0]),
)


@st.composite
def dataflows(draw: st.DrawFn) -> list[Node]:
    nodes = []
    for name, (inputs, outputs) in GRAPH.items():
        more: dict[str, object] = {"path": "dynamic"} if name == "guest" else {"restart": draw(restarts)}
        if draw(st.booleans()):
            more["hot_reload"] = "replace"
        if draw(st.booleans()):
            more["startup_timeout"] = 4.0
            more["health_check_timeout"] = 6.0
            more["finish_grace"] = 3.0
        nodes.append(node(name, inputs=inputs, outputs=outputs, **more))
    return nodes


steps = st.one_of(
    st.tuples(st.just("register"), st.sampled_from(NAMES), st.integers(0, 2)),
    st.tuples(st.just("ready"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("ready all"), st.just(""), st.just(0)),
    st.tuples(st.just("done"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("closed"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("disconnect"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("progress"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("parameter"), st.sampled_from(NAMES), st.integers(0, 3)),
    st.tuples(st.just("end"), st.sampled_from(NAMES), st.sampled_from([0, 1, -9, -15])),
    st.tuples(st.just("spawn failed"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("code"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("successor registers"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("successor ends"), st.sampled_from(NAMES), st.sampled_from([0, 1])),
    st.tuples(st.just("time"), st.just(""), st.integers(0, 12)),
    st.tuples(st.just("stop"), st.just(""), st.just(0)),
    st.tuples(st.just("kill"), st.just(""), st.just(0)),
)


class World:
    """A daemon in miniature: which processes exist, and who is connected."""

    def __init__(self, nodes: list[Node], watched: set[str]) -> None:
        self.run = Supervised(*nodes, watched=frozenset(watched))
        self.watched = watched
        self.processes: dict[str, int] = {}  # node → incarnation
        self.successors: dict[str, int] = {}
        self.connected: set[str] = set()
        self.unkillable: set[str] = set()
        self.finished = 0

    def perform(self, commands: list[do.Command]) -> None:
        for command in commands:
            assert not self.finished, f"{command} after the end"
            match command:
                case do.Spawn(node_id=node_id, incarnation=incarnation):
                    assert node_id not in self.processes
                    self.processes[node_id] = incarnation
                case do.SpawnSuccessor(node_id=node_id, incarnation=incarnation):
                    assert node_id not in self.successors
                    self.successors[node_id] = incarnation
                case do.Succeed(node_id=node_id):
                    assert node_id not in self.processes
                    self.processes[node_id] = self.successors.pop(node_id)
                case do.DropSuccessor(node_id=node_id):
                    del self.successors[node_id]
                case do.Admit(node_id=node_id):
                    assert node_id not in self.connected
                    self.connected.add(node_id)
                case do.Send(node_id=node_id):
                    assert node_id in self.connected, command
                case do.Finish():
                    assert not self.successors, "nobody drops a successor"
                    self.finished += 1

    def step(self, kind: str, name: str, number: int) -> None:
        run = self.run
        guest = name == "guest"
        match kind:
            case "register":
                self.perform(run.register(name, incarnation=number, dynamic=guest))
            case "ready" if name in self.connected:
                self.perform(run(on.PortsReady(name)))
            case "ready all":
                for node_id, incarnation in list(self.processes.items()):
                    if node_id not in self.connected:
                        self.perform(run.register(node_id, incarnation=incarnation))
                    if node_id in self.connected:
                        self.perform(run(on.PortsReady(node_id)))
            case "done" if name in self.connected:
                self.perform(run(on.OutputsDone(name, GRAPH[name][1])))
            case "closed" if name in self.connected:
                self.perform(run(on.NodeClosed(name)))
            case "disconnect" if name in self.connected:
                self.connected.discard(name)
                self.perform(run(on.Disconnected(name)))
            case "progress":
                self.perform(run(on.Progress(name)))
            case "parameter" if number:
                self.perform(run(on.ParameterSet(0, name, "key", number)))
            case "parameter":
                self.perform(run(on.ParameterDeleted(0, name, "key")))
            case "end" if name in self.processes:
                self.end(name, number)
            case "spawn failed" if name in self.processes and name not in self.connected:
                if run.supervisor.nodes[name].phase == "starting":
                    del self.processes[name]
                    self.perform(run(on.SpawnFailed(name, "no such file")))
            case "code" if name in self.watched:
                self.perform(run(on.CodeChanged(name)))
            case "successor registers" if name in self.successors:
                self.perform(run.register(name, incarnation=self.successors[name]))
            case "successor ends" if name in self.successors:
                self.perform(run(on.SuccessorEnded(name, self.successors.pop(name), number)))
            case "time":
                self.pass_time(float(number))
            case "stop":
                self.perform(run(on.StopRequested("test")))
            case "kill":
                self.perform(run(on.KillRequested()))

    def end(self, name: str, status: int) -> None:
        del self.processes[name]
        self.connected.discard(name)
        self.perform(self.run.end(name, max(status, 0), -status if status < 0 else None))

    def pass_time(self, seconds: float) -> None:
        self.perform(self.run.after(seconds))


@settings(max_examples=150, deadline=None)
@given(dataflows(), st.sets(st.sampled_from(NAMES)), st.lists(steps, max_size=40), st.booleans())
def test_any_order_of_events_has_a_way_to_the_end(
    nodes: list[Node], watched: set[str], script: list[tuple[str, str, int]], signals_work: bool
) -> None:
    world = World(nodes, watched - {"guest"})
    world.perform(world.run(on.Begin()))
    for step in script:
        if not world.finished:
            world.step(*step)
    if world.finished:
        return
    world.step("stop", "", 0)
    if signals_work:
        world.pass_time(15.0)  # through the whole ladder; the kill ends every process
        for name in list(world.processes):
            if not world.finished:
                world.end(name, -9)
        world.pass_time(1.0)
    else:
        world.pass_time(26.0)  # not even SIGKILL helps
    assert world.finished == 1
    assert world.run.supervisor.next_deadline() is None
