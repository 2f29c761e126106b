"""The layers between an engine and the program are in one order, whatever feeds an input."""

from __future__ import annotations

import ast
import inspect
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_daemon import FakeDaemon
from waiting import TIMEOUT, wait_until

from dora import Node
from dora.dataflow.loader import parse
from dora.node.host import EVENT_LOG_SUFFIX, REPLAY_DIRECTORY
from dora.node.patterns.holding import HoldingInput
from dora.node.patterns.replies import ReplyInput
from dora.node.patterns.watch import WatchedInput
from dora.node.receive import inbox as inbox_module
from dora.node.receive.input_port import InputPort, WrappingInput
from dora.node.receive.latched_input import LatchedReceiver
from dora.node.receive.path_meter import PathMeter, Records
from dora.node.receive.stack import ORDER, StackBuilder
from dora.node.receive.timestamps import OtherClock
from dora.node.replay import inbox as replay_inbox_module
from dora.node.replay.clock import ReplayClock, ReplayedTime
from dora.node.replay.inbox import CLOCK_FILE
from dora.testing import VirtualDataflow
from dora.transport.board import LINE_BYTES, Board
from dora.transport.doorbell import Bell
from dora.transport.inprocess import LocalEngine
from dora.transport.queues import PriorityQueue
from dora.wire.node_config import BudgetConfig, HopConfig, InputConfig, NodeConfig
from dora.wire.node_protocol import AttachInput
from dora.wire.output_rules import LatchRule, OutputRules, SafeState

FLOW = """
nodes:
  - id: camera
    path: camera.py
    inputs: {request: fusion/request}
    outputs:
      - image: {safe_state: {value: 0, type: int64, when: [failed]}}
      - map: {latched: 1}
      - depth
      - answer
  - id: fusion
    path: fusion.py
    pattern: service-client
    inputs:
      image: {source: camera/image, deadline: 10s, queue_size: 2000}
      map: {source: camera/map, rate: 10hz, queue_size: 2000}
      depth: {source: camera/depth, queue_size: 2000}
      answer: camera/answer
      tick: dora/timer/millis/100
    sync: [{inputs: [map, depth]}]
    outputs: [request]
paths:
  - {from: camera/image, to: fusion/image, budget: 10s}
"""

IMAGE = ["source", "qos", "budget", "safe state"]
MAP = ["latch", "source", "qos"]
LAYERS = {
    "image": IMAGE,
    "map": [*MAP, "sync"],
    "depth": ["source", "sync"],
    "answer": ["queue", "source"],
    "tick": ["source"],
}
# The event log has what budgets, safe states and groups made.
LAYERS_OF_A_REPLAY = {
    **LAYERS,
    "image": ["source", "qos"],
    "map": MAP,
    "depth": ["source"],
}
RECEIVERS = {PriorityQueue: "queue", OtherClock: "clock", LatchedReceiver: "latch"}


def layers_of(port: InputPort) -> list[str]:
    """Return the layers of a port, from the engine to the program."""
    found = []
    while isinstance(port, WrappingInput):
        found.append(port.layer)
        port = port._port
    found.append(port.layer)
    receiver: Any = getattr(port, "_receiver", None)
    while type(receiver) in RECEIVERS:
        found.append(RECEIVERS[type(receiver)])
        receiver = receiver.receiver if isinstance(receiver, LatchedReceiver) else receiver._receiver
    return found[::-1]


def layers(node: Node) -> dict[str, list[str]]:
    """Return the layers of all inputs of a node; those of a group end with its port."""
    inbox = node._session.inbox
    found = {}
    for name, port in inbox.ports.items():
        group = inbox._group_of.get(name)
        found[name] = layers_of(port) + ([group.layer] if group is not None else [])
        if group is not None:
            assert port in group._ports, "the group polls the whole stack"
        else:
            assert port in inbox._open_ports or not port.is_data
    return found


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    daemon = FakeDaemon(parse(FLOW, working_dir="/nowhere", environ={}))
    yield daemon
    daemon.close()


@pytest.mark.lengthy
def test_links_and_timers_of_a_process_have_their_layers_in_order(daemon: FakeDaemon) -> None:
    daemon.node("camera")
    assert layers(daemon.node("fusion")) == LAYERS


def test_a_replay_leaves_out_the_layers_whose_events_are_recorded(
    daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"fusion{EVENT_LOG_SUFFIX}").touch()
    (tmp_path / CLOCK_FILE).write_bytes(ReplayClock.make(start_ns=0, speed=0.0, ordered=True))
    monkeypatch.setenv(REPLAY_DIRECTORY, str(tmp_path))
    monkeypatch.setattr(ReplayedTime, "install", lambda _: None)  # this process keeps its clock
    daemon.node("camera")
    assert layers(daemon.node("fusion")) == LAYERS_OF_A_REPLAY


def test_a_node_in_virtual_time_has_the_layers_of_a_process() -> None:
    with VirtualDataflow(FLOW, play=["camera", "fusion"], echo=False) as flow:
        assert layers(flow.node("fusion")) == LAYERS


def test_an_input_that_is_connected_later_has_the_same_layers(daemon: FakeDaemon) -> None:
    daemon.node("camera")
    fusion = daemon.node("fusion")
    inbox = fusion._session.inbox
    line = daemon.plan.lines

    def read(input_id: str) -> bool:
        inbox.read_control()
        return input_id in inbox.ports

    for item in daemon.plan.configs["fusion"].inputs:
        if item.kind == "link":
            line -= 1
            later = msgspec.structs.replace(item, id=f"{item.id} later", slot=line, late=True)
            daemon.send("fusion", AttachInput(later))
            wait_until(lambda: read(later.id), "the input to be attached")  # noqa: B023
            at_the_start = [layer for layer in LAYERS[item.id] if layer != "sync"]  # no group has it
            assert layers(fusion)[later.id] == at_the_start


@pytest.mark.parametrize("watch_first", [True, False])
def test_layers_that_the_program_asks_for_have_their_place(daemon: FakeDaemon, watch_first: bool) -> None:
    daemon.node("camera")
    fusion = daemon.node("fusion")
    for input_id in ("image", "map"):
        if watch_first:
            fusion._watched(input_id, lambda _: None)
        fusion.call("request", b"", timeout=TIMEOUT, reply=input_id)
        fusion._watched(input_id, lambda _: None)
        fusion._watched(input_id, lambda _: None)
        fusion.call("request", b"", timeout=TIMEOUT, reply=input_id)
    found = layers(fusion)
    assert found["image"] == [*IMAGE, "watch", "replies"]
    assert found["map"] == [*MAP, "watch", "replies", "sync"]


def builder() -> StackBuilder:
    config = NodeConfig("id", "fusion", "iceoryx2", "", "", "", 0, "")
    board = Board("", mmap.mmap(-1, 16 * LINE_BYTES))
    return StackBuilder(
        config,
        board,
        LocalEngine(),
        PathMeter(Records()),
        ring=lambda: None,
        make_bell=Bell,
        latch_reader=lambda _: list,
        follows_log=False,
        on_late=lambda _what, _miss: None,
        on_safe_state=lambda _input, _reason, _entered, _seconds: None,
    )


EVERYTHING = InputConfig(
    "in",
    "link",
    "camera/image",
    service="image",
    slot=5,
    output_slot=4,
    engine_queue_size=1024,
    every=2,
    budgets=[BudgetConfig("camera/image", 1, [HopConfig(1, "camera/image", [])])],
    source_rules=OutputRules(latched=LatchRule(1), safe_state=SafeState((0,), "int64", ("failed",), {}, 0)),
)
ABOVE = ["source", "qos", "budget", "safe state"]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (EVERYTHING, ["queue", "latch", *ABOVE]),
        (msgspec.structs.replace(EVERYTHING, machine="other"), ["queue", "clock", "latch", *ABOVE]),
        (msgspec.structs.replace(EVERYTHING, kind="local"), ABOVE),
        (msgspec.structs.replace(EVERYTHING, kind="text"), ABOVE),
    ],
    ids=["from a node", "from another machine", "from an operator", "of text"],
)
def test_an_input_with_every_rule_has_its_layers_in_order(item: InputConfig, expected: list[str]) -> None:
    found = layers_of(builder().port(item))
    assert found == expected
    assert found == sorted(found, key=ORDER.index)


def test_every_layer_has_a_place() -> None:
    def classes(base: type[InputPort]) -> Iterator[type[InputPort]]:
        for each in base.__subclasses__():
            yield each
            yield from classes(each)

    places = {each: each.layer for each in classes(WrappingInput) if each is not HoldingInput}
    assert {ReplyInput, WatchedInput} < places.keys()
    assert set(places.values()) < set(ORDER) - {"source"}
    assert len(set(places.values())) == len(places), "each layer has a place of its own"


@pytest.mark.parametrize("module", [inbox_module, replay_inbox_module], ids=["inbox", "replay inbox"])
def test_an_inbox_knows_ports_and_not_their_kinds(module: Any) -> None:
    def names(base: type[InputPort]) -> set[str]:
        return {base.__name__}.union(*map(names, base.__subclasses__()))

    kinds = names(InputPort) - {"InputPort"}
    tree = ast.parse(inspect.getsource(module))
    in_types_only = {
        each for block in tree.body if isinstance(block, ast.If) for each in ast.walk(block)
    }  # `if TYPE_CHECKING`
    for item in ast.walk(tree):
        if isinstance(item, ast.ImportFrom) and item not in in_types_only:
            assert not kinds.intersection(alias.name for alias in item.names), ast.unparse(item)
        if isinstance(item, ast.Call) and ast.unparse(item.func) in ("isinstance", "getattr", "hasattr"):
            asked = {each.id for each in ast.walk(item) if isinstance(each, ast.Name)}
            assert not asked & {*kinds, "port"}, ast.unparse(item)
