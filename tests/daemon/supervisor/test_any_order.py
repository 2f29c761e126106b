"""Any order of events keeps the invariants, and from any state a stop leads to the end."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervision import OPERATIONS, Supervised, node

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.model import InputSpec, NodeSpec, RestartOptions
from dora.wire.daemon_protocol import DeleteParameter, SetParameter
from dora.wire.node_protocol import Closing, OutputsClosed, Ready

GRAPH = {
    "source": ((), ("x", "y")),
    "middle": (("source/x",), ("z",)),
    "clock": (("timer/",), ("t",)),
    "sink": (("source/y", "middle/z", "visitor/g"), ()),
    "visitor": (("clock/t",), ("g",)),
}
NAMES = (*GRAPH, "extra")

restarts = st.builds(
    RestartOptions,
    policy=st.sampled_from(["never", "on-failure", "always"]),
    max_restarts=st.integers(0, 2),
    delay=st.sampled_from([0.0, 1.5]),
    window=st.sampled_from([None, 5.0]),
)


@st.composite
def dataflows(draw: st.DrawFn) -> list[NodeSpec]:
    nodes = []
    for name, (inputs, outputs) in GRAPH.items():
        more: dict[str, object] = {"path": "dynamic"} if name == "visitor" else {"restart": draw(restarts)}
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
    st.tuples(st.just("replacement registers"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("client disconnects"), st.just(""), st.just(0)),
    st.tuples(st.just("follow"), st.just(""), st.just(0)),
    st.tuples(st.just("replacement ready"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("replacement ends"), st.sampled_from(NAMES), st.sampled_from([0, 1])),
    *(st.tuples(st.just(operation), st.sampled_from(NAMES), st.integers(0, 6)) for operation in OPERATIONS),
    st.tuples(st.just("add"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("link"), st.sampled_from(NAMES), st.integers(0, 4)),
    st.tuples(st.just("unlink"), st.sampled_from(NAMES), st.integers(0, 2)),
    st.tuples(st.just("replace"), st.sampled_from(NAMES), st.just(0)),
    st.tuples(st.just("time"), st.just(""), st.integers(0, 12)),
    st.tuples(st.just("stop all"), st.just(""), st.just(0)),
    st.tuples(st.just("kill all"), st.just(""), st.just(0)),
)


class World:
    """A daemon in miniature: which processes and connections exist."""

    def __init__(self, nodes: list[NodeSpec], watched: set[str]) -> None:
        self.run = Supervised(*nodes, watched=frozenset(watched))
        self.waiting: dict[str, bool] = {}  # replacements that stand by → whether they are ready
        self.became_ready: list[str] = []
        self.watched = watched
        self.processes: dict[str, int] = {}  # node → incarnation
        self.replacements: dict[str, int] = {}
        self.connected: set[str] = set()
        self.to_disconnect: list[str] = []
        self.spawned: set[str] = set()  # nodes whose process is known to exist
        self.finished = 0

    def perform(self, commands: list[do.Command]) -> None:
        for command in commands:
            assert not self.finished, f"{command} after the end"
            match command:
                case do.Spawn(node_id=node_id, incarnation=incarnation):
                    assert node_id not in self.processes
                    self.processes[node_id] = incarnation
                    self.spawned.discard(node_id)
                case do.SpawnReplacement(node_id=node_id, incarnation=incarnation):
                    assert node_id not in self.replacements
                    self.replacements[node_id] = incarnation
                case do.PromoteReplacement(node_id=node_id):
                    assert node_id not in self.processes
                    self.processes[node_id] = self.replacements.pop(node_id)
                    if node_id in self.waiting:
                        self.connected.add(node_id)
                        self.spawned.add(node_id)
                        if self.waiting.pop(node_id):
                            self.became_ready.append(node_id)
                case do.DropReplacement(node_id=node_id):
                    del self.replacements[node_id]
                    self.waiting.pop(node_id, None)
                case do.AdmitReplacement(node_id=node_id):
                    assert node_id in self.replacements
                    self.waiting[node_id] = False
                case do.Admit(node_id=node_id):
                    assert node_id not in self.connected
                    self.connected.add(node_id)
                case do.Disconnect(node_id=node_id):
                    self.to_disconnect.append(node_id)
                case do.Send(node_id=node_id):
                    assert node_id in self.connected, command
                case do.Finish():
                    assert not self.replacements, "a replacement is left behind"
                    self.finished += 1
        while self.became_ready:
            name = self.became_ready.pop()
            if not self.finished:
                self.perform(self.run(on.MessageReceived(name, Ready())))
        while self.to_disconnect:
            name = self.to_disconnect.pop()
            if name in self.connected:
                self.step("disconnect", name, 0)

    def step(self, kind: str, name: str, number: int) -> None:
        run = self.run
        is_dynamic = name == "visitor"
        specs = run.state.dataflow.nodes
        spec = next((spec for spec in specs if spec.id == name), None)
        if self.finished:
            return
        if spec is None and kind in ("progress", "parameter", "code"):
            return
        match kind:
            case "register":
                self.report_spawn(name)
                self.perform(run.register(name, incarnation=number, dynamic=is_dynamic))
            case "ready" if name in self.connected:
                self.perform(run(on.MessageReceived(name, Ready())))
            case "ready all":
                for node_id, incarnation in list(self.processes.items()):
                    self.report_spawn(node_id)
                    if node_id not in self.connected:
                        self.perform(run.register(node_id, incarnation=incarnation))
                    if node_id in self.connected:
                        self.perform(run(on.MessageReceived(node_id, Ready())))
            case "done" if name in self.connected:
                outputs = list(spec.outputs) if spec is not None else []
                self.perform(run(on.MessageReceived(name, OutputsClosed(outputs))))
            case "closed" if name in self.connected:
                self.perform(run(on.MessageReceived(name, Closing())))
            case "disconnect" if name in self.connected:
                self.connected.discard(name)
                self.perform(run(on.Disconnected(name)))
            case "progress":
                self.perform(run(on.Progress(name)))
            case "parameter" if number:
                self.perform(run(on.RequestReceived(0, SetParameter(name, "key", number))))
            case "parameter":
                self.perform(run(on.RequestReceived(0, DeleteParameter(name, "key"))))
            case "end" if name in self.processes:
                self.end(name, number)
            case "spawn failed" if name in self.processes and name not in self.spawned | self.connected:
                if run.state.nodes[name].phase == "starting":
                    del self.processes[name]
                    self.perform(run(on.SpawnFailed(name, "no such file")))
            case "code" if name in self.watched:
                self.perform(run(on.CodeChanged(name)))
            case "replacement registers" if name in self.replacements:
                self.perform(run.register(name, incarnation=self.replacements[name]))
            case "client disconnects":
                self.perform(run(on.ClientDisconnected(7)))
            case "follow":
                for node_id in list(self.replacements):
                    self.step("replacement registers", node_id, 0)
                    self.step("replacement ready", node_id, 0)
                for node_id, state in list(run.state.nodes.items()):
                    asked_to_end = state.draining or state.operation is not None
                    if asked_to_end and node_id in self.processes and not self.finished:
                        self.end(node_id, 0)
            case "replacement ready" if self.waiting.get(name) is False:
                self.waiting[name] = True
                self.perform(run(on.ReplacementReady(name, self.replacements[name])))
            case "replacement ends" if name in self.replacements:
                self.waiting.pop(name, None)
                self.perform(run(on.ReplacementEnded(name, self.replacements.pop(name), number)))
            case _ if kind in OPERATIONS:
                self.perform(run.ask(name, kind, float(number)))
            case "add" if spec is None:
                self.perform(run.become(*specs, node(name, inputs=self.sources("source"), outputs=("n",))))
            case "link" if spec is not None:
                wanted = (self.sources(NAMES[number]) or ("timer/",))[0]
                if wanted not in {item.id for item in spec.inputs}:
                    item = node("_", inputs=(wanted,)).inputs[0]
                    self.change(spec, (*spec.inputs, item))
            case "unlink" if spec is not None and number < len(spec.inputs):
                self.change(spec, spec.inputs[:number] + spec.inputs[number + 1 :])
            case "replace" if spec is not None and not is_dynamic:
                self.perform(run.replace(msgspec.structs.replace(spec, path="other.py")))
            case "time":
                self.pass_time(float(number))
            case "stop all":
                self.perform(run(on.StopRequested("test")))
            case "kill all":
                self.perform(run(on.KillRequested()))

    def sources(self, name: str) -> tuple[str, ...]:
        """Return what a node offers at the moment."""
        specs = self.run.state.dataflow.nodes
        return tuple(f"{name}/{output}" for spec in specs if spec.id == name for output in spec.outputs)

    def change(self, spec: NodeSpec, inputs: tuple[InputSpec, ...]) -> None:
        changed = msgspec.structs.replace(spec, inputs=inputs)
        specs = self.run.state.dataflow.nodes
        self.perform(self.run.become(*(changed if known is spec else known for known in specs)))

    def report_spawn(self, name: str) -> None:
        if name in self.processes and name not in self.spawned:
            self.spawned.add(name)
            self.perform(self.run(on.Spawned(name, 1)))

    def end(self, name: str, status: int) -> None:
        self.report_spawn(name)
        del self.processes[name]
        self.connected.discard(name)
        self.perform(self.run.end(name, max(status, 0), -status if status < 0 else None))

    def pass_time(self, seconds: float) -> None:
        self.perform(self.run.after(seconds))


@pytest.mark.lengthy
@settings(max_examples=150, deadline=None)
@given(
    dataflows(),
    st.sets(st.sampled_from(NAMES)),
    st.lists(steps, max_size=40),
    st.booleans(),
)
def test_any_order_of_events_has_a_way_to_the_end(
    nodes: list[NodeSpec],
    watched: set[str],
    script: list[tuple[str, str, int]],
    signals_work: bool,
) -> None:
    world = World(nodes, watched - {"visitor", "extra"})
    world.perform(world.run(on.Begin()))
    for step in script:
        if not world.finished:
            world.step(*step)
    if world.finished:
        return
    world.step("stop all", "", 0)
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
