"""Synchronised inputs of nodes and operators, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from dora import DoraStatus, Input, InputClosed, Node, Stop, Synced
from dora.builder import DataflowBuilder, Operator
from dora.testing import VirtualDataflow

START = datetime(2026, 1, 1, tzinfo=UTC)
SOURCES = ("left", "right", "arm")


def at(milliseconds: float) -> dict[str, Any]:
    return {"timestamp": START + timedelta(milliseconds=milliseconds)}


def flow_of(sources: tuple[str, ...] = SOURCES, **options: Any) -> DataflowBuilder:
    """Return a dataflow with a node for each source, and one that synchronises them."""
    queues: dict[str, Any] = options.pop("queues", {})
    flow = DataflowBuilder(exit_when_nodes_finish=True)
    fusion = flow.add_node("fusion", path="dynamic")
    for name in sources:
        flow.add_node(name, path="dynamic", outputs=["out"])
        fusion.add_input(name, f"{name}/out", **queues.get(name, {}))
    fusion.add_sync(*sources, **options)
    return flow


def values(event: Synced) -> dict[str, Any]:
    """Return the numbers in a set."""
    found: dict[str, Any] = {}
    for name, item in event["inputs"].items():
        if isinstance(item, list):
            found[name] = [message["value"][0].as_py() for message in item]
        else:
            found[name] = None if item is None else item["value"][0].as_py()
    return found


def drain(node: Node) -> Iterator[Any]:
    while (event := node.try_recv()) is not None:
        yield event


def test_the_nearest_messages_come_as_one_event() -> None:
    with VirtualDataflow(
        flow_of(tolerance="5ms", queues={"arm": {"queue_size": 20}}), play=[*SOURCES, "fusion"]
    ) as flow:
        for name, times in (("left", [0, 33, 66]), ("right", [1, 35, 90]), ("arm", range(0, 80, 4))):
            for time in times:
                flow.node(name).send_output("out", pa.array([time]), at(time))
        events = list(drain(flow.node("fusion")))
        assert [values(event) for event in events] == [
            {"left": 0, "right": 1, "arm": 0},
            {"left": 33, "right": 35, "arm": 32},
        ]
        first = events[0]
        assert isinstance(first, Synced)
        assert (first["type"], first["id"], first["complete"], first["missing"]) == (
            "SYNC",
            "left",
            True,
            [],
        )
        assert isinstance(first["inputs"]["arm"], Input)
        assert first.message("right")["metadata"]["timestamp"] == START + timedelta(milliseconds=1)


@pytest.mark.parametrize("order", list(itertools.permutations(SOURCES)))
def test_the_order_of_arrival_between_inputs_does_not_matter(order: tuple[str, ...]) -> None:
    times = {"left": [0, 33, 66, 100], "right": [1, 35, 62, 101], "arm": [*range(0, 104, 8)]}
    found = []
    options = {"arm": {"queue_size": 20}}
    with VirtualDataflow(
        flow_of(tolerance="6ms", history={"arm": (-3, 0)}, queues=options), play=[*SOURCES, "fusion"]
    ) as flow:
        for name in order:
            for time in times[name]:
                flow.node(name).send_output("out", pa.array([time]), at(time))
            found += drain(flow.node("fusion"))
        for name in order:
            flow.node(name).close()
        flow.advance(1)
        found += drain(flow.node("fusion"))
        statistics = flow.node("fusion").statistics()
    sets = [values(event) for event in found if isinstance(event, Synced)]
    assert sets == [
        {"left": 0, "right": 1, "arm": [0]},
        {"left": 33, "right": 35, "arm": [8, 16, 24, 32]},
        {"left": 66, "right": 62, "arm": [40, 48, 56, 64]},
        {"left": 100, "right": 101, "arm": [72, 80, 88, 96]},
    ]
    assert [event["id"] for event in found if isinstance(event, InputClosed)].sort() is None
    assert isinstance(found[-1], Stop)
    assert statistics["sync"] == {"left": {"complete": 4, "incomplete": 0}}
    assert {name: item["unmatched"] for name, item in statistics["inputs"].items()} == {
        "left": 0,
        "right": 0,
        "arm": 0,
    }


def test_messages_without_a_partner_are_counted() -> None:
    with VirtualDataflow(flow_of(tolerance="5ms"), play=[*SOURCES, "fusion"]) as flow:
        for name, times in (("left", [0, 50, 100]), ("right", [0, 100]), ("arm", [0, 40, 100, 120])):
            for time in times:
                flow.node(name).send_output("out", pa.array([time]), at(time))
        fusion = flow.node("fusion")
        assert [values(event)["left"] for event in drain(fusion)] == [0, 100]
        for name in SOURCES:
            flow.node(name).close()
        flow.advance(1)
        assert isinstance(list(drain(fusion))[-1], Stop)
        inputs = fusion.statistics()["inputs"]
        assert {name: item["unmatched"] for name, item in inputs.items()} == {
            "left": 1,
            "right": 0,
            "arm": 2,
        }
        fusion.close()
        result = flow.run()
    by_input = {link.link.rpartition("/")[2]: link for link in result.links}
    assert by_input["arm"].counts == {"unmatched": 2}
    assert by_input["arm"].received == 4


def test_a_set_waits_for_its_timeout_and_not_longer() -> None:
    with VirtualDataflow(flow_of(tolerance="5ms", timeout="100ms"), play=[*SOURCES, "fusion"]) as flow:
        fusion = flow.node("fusion")
        flow.node("left").send_output("out", pa.array([0]), at(0))
        flow.node("arm").send_output("out", pa.array([1]), at(1))
        assert list(drain(fusion)) == []
        assert fusion.next(timeout=0.099).type == "ERROR"
        event = fusion.next(timeout=0.002)
        assert isinstance(event, Synced)
        assert values(event) == {"left": 0, "right": None, "arm": 1}
        assert (event["complete"], event["missing"]) == (False, ["right"])
        with pytest.raises(KeyError, match="the message of `right` is missing"):
            event.message("right")
        # Now it is sure at once that nothing comes.
        flow.node("left").send_output("out", pa.array([20]), at(20))
        for name in ("right", "arm"):
            flow.node(name).send_output("out", pa.array([30]), at(30))
        event = fusion.next(timeout=0)
        assert isinstance(event, Synced)
        assert event["missing"] == ["right", "arm"]


def test_a_program_that_is_late_gets_what_arrived_in_time() -> None:
    with VirtualDataflow(
        flow_of(("left", "arm"), tolerance="5ms", timeout="100ms"), play=["left", "arm", "fusion"]
    ) as flow:
        fusion = flow.node("fusion")
        flow.node("left").send_output("out", pa.array([0]), at(0))
        assert fusion.try_recv() is None
        flow.node("arm").send_output("out", pa.array([1]), at(1))
        flow.advance(10)
        event = fusion.next(timeout=0)
        assert isinstance(event, Synced)
        assert values(event) == {"left": 0, "arm": 1}


def test_is_empty_means_that_no_set_is_there() -> None:
    with VirtualDataflow(flow_of(("left", "arm")), play=["left", "arm", "fusion"]) as flow:
        fusion = flow.node("fusion")
        flow.node("left").send_output("out", pa.array([1]), at(0))
        assert fusion.is_empty()
        flow.node("arm").send_output("out", pa.array([2]), at(0))
        assert not fusion.is_empty()
        assert values(fusion.next(timeout=0)) == {"left": 1, "arm": 2}


def test_by_arrival_a_timer_samples_the_newest_messages() -> None:
    flow_ = DataflowBuilder()
    flow_.add_node("arm", path="dynamic", outputs=["out"])
    fusion_ = flow_.add_node("fusion", path="dynamic")
    fusion_.add_input("tick", "dora/timer/millis/100").add_input("arm", "arm/out")
    fusion_.add_sync("tick", "arm", by="arrival")
    with VirtualDataflow(flow_, play=["arm", "fusion"]) as flow:
        fusion = flow.node("fusion")
        list(drain(fusion))
        found = []
        for number in range(1, 31):
            flow.node("arm").send_output("out", pa.array([number]))
            flow.advance(0.01)
            found += [event.message("arm")["value"][0].as_py() for event in drain(fusion)]
        assert len(found) == 3
        assert all(number - before == 10 for before, number in itertools.pairwise(found))
        flow.node("arm").close()
        flow.advance(0.01)
        assert [event.type for event in drain(fusion)] == ["INPUT_CLOSED", "STOP"]


def test_a_full_queue_drops_the_oldest_message_and_counts_it() -> None:
    with VirtualDataflow(
        flow_of(("left", "arm"), queues={"left": {"queue_size": 3}}), play=["left", "arm", "fusion"]
    ) as flow:
        fusion = flow.node("fusion")
        for time in range(10):
            flow.node("left").send_output("out", pa.array([time]), at(time))
            assert fusion.try_recv() is None
        for time in range(10):
            flow.node("arm").send_output("out", pa.array([time]), at(time))
        assert [values(event)["left"] for event in drain(fusion)] == [7, 8, 9]
        counts = fusion.statistics()["inputs"]["left"]
        assert counts == counts | {"received": 3, "dropped": 7, "unmatched": 0}


def test_under_back_pressure_nothing_is_dropped_and_the_sender_waits() -> None:
    sent = []

    def left(node: Node) -> None:
        for time in range(40):
            node.send_output("out", pa.array([time]), at(time))
            sent.append(time)

    with VirtualDataflow(
        flow_of(("left", "arm"), queues={"left": {"queue_size": 3, "queue_policy": "backpressure"}}),
        nodes={"left": left},
        play=["arm", "fusion"],
    ) as flow:
        fusion = flow.node("fusion")
        flow.advance(1)
        assert list(drain(fusion)) == []
        flow.advance(1)
        assert len(sent) < 10
        found = []
        for time in range(40):
            flow.node("arm").send_output("out", pa.array([time]), at(time))
            flow.advance(0.01)
            found += [values(event)["left"] for event in drain(fusion) if isinstance(event, Synced)]
        assert found == list(range(40))


@pytest.mark.parametrize("policy", ["exact", "nearest", "latest"])
@pytest.mark.parametrize("queue_size", [1, 2, 3, 10])
def test_a_fast_input_under_back_pressure_has_a_message_for_each_leading_one(
    queue_size: int, policy: str
) -> None:
    leads, fast = range(0, 1000, 100), range(0, 1000, 10)

    def arm(node: Node) -> None:
        for time in fast:
            node.send_output("out", pa.array([time]), at(time))

    rules: dict[str, Any] = {"exact": {}, "nearest": {"tolerance": "4ms"}, "latest": {"policy": "latest"}}
    options = {"queue_size": queue_size, "queue_policy": "backpressure"}
    frames = min(queue_size, 3)
    with VirtualDataflow(
        flow_of(
            ("left", "arm"), queues={"arm": options}, history={"arm": (1 - frames, 0)}, **rules[policy]
        ),
        nodes={"arm": arm},
        play=["left", "fusion"],
    ) as flow:
        fusion = flow.node("fusion")
        found = []
        for time in leads:
            flow.node("left").send_output("out", pa.array([time + 3]), at(time + 3 * (policy != "exact")))
            for _ in fast[:12]:  # it sends on when the node has made room
                flow.advance(0.01)
                found += [values(event)["arm"] for event in drain(fusion) if isinstance(event, Synced)]
        assert found == [[each for each in fast if each <= time][-frames:] for time in leads]
        counts = fusion.statistics()["inputs"]["arm"]
        assert counts["dropped"] == 0


def test_the_closing_of_an_input_comes_after_its_last_message() -> None:
    with VirtualDataflow(flow_of(("left", "arm")), play=["left", "arm", "fusion"]) as flow:
        fusion = flow.node("fusion")
        flow.node("left").send_output("out", pa.array([1]), at(0))
        flow.node("left").close()
        flow.advance(0.1)
        assert list(drain(fusion)) == []  # the message may still find its partner
        flow.node("arm").send_output("out", pa.array([2]), at(0))
        events = list(drain(fusion))
        assert [event.type for event in events] == ["SYNC", "INPUT_CLOSED"]
        assert events[1]["id"] == "left"


def test_an_input_that_has_recovered_is_waited_for_again() -> None:
    queues = {"arm": {"input_timeout": 0.2}}
    names = ("left", "arm")
    with VirtualDataflow(flow_of(names, tolerance="5ms", queues=queues), play=[*names, "fusion"]) as flow:
        fusion, left, arm = flow.node("fusion"), flow.node("left"), flow.node("arm")
        for source in (left, arm):
            source.send_output("out", pa.array([0]), at(0))
        assert [event.type for event in drain(fusion)] == ["SYNC"]
        flow.advance(0.3)
        assert [event.type for event in drain(fusion)] == ["INPUT_CLOSED"]
        arm.send_output("out", pa.array([20]), at(20))
        left.send_output("out", pa.array([22]), at(22))
        assert [event.type for event in drain(fusion)] == ["INPUT_RECOVERED"]
        arm.send_output("out", pa.array([23]), at(23))
        assert [values(event) for event in drain(fusion)] == [{"left": 22, "arm": 23}]


def test_a_stop_decides_what_is_there() -> None:
    with VirtualDataflow(flow_of(("left", "arm"), tolerance="5ms"), play=["left", "arm", "fusion"]) as flow:
        flow.node("left").send_output("out", pa.array([1]), at(2))
        flow.node("arm").send_output("out", pa.array([2]), at(0))  # a nearer one could come
        fusion = flow.node("fusion")
        assert fusion.try_recv() is None
        flow.stop()
        types = [event.type for event in fusion]
        assert types == ["STOP", "SYNC"]


def test_a_message_is_the_same_object_in_each_of_its_sets() -> None:
    with VirtualDataflow(
        flow_of(("left", "arm"), tolerance="50ms"), play=["left", "arm", "fusion"]
    ) as flow:
        for time in (0, 30):
            flow.node("left").send_output("out", pa.array([time]), at(time))
        for time in (20, 90):
            flow.node("arm").send_output("out", pa.array([time]), at(time))
        first, second = drain(flow.node("fusion"))
        assert first["inputs"]["arm"] is second["inputs"]["arm"]


class Fusion:
    """Sends how many messages each set has."""

    sets: list[Any] = []

    def on_event(self, event: Any, send_output: Callable[..., None]) -> DoraStatus:
        if event["type"] == "SYNC":
            self.sets.append((event["id"], [item["id"] for item in event.messages()], values(event)))
            send_output("count", pa.array([len(list(event.messages()))]), at(0))
        return DoraStatus.CONTINUE


class Double:
    def on_event(self, event: Any, send_output: Callable[..., None]) -> DoraStatus:
        if event["type"] == "INPUT":
            send_output("out", pa.array([2 * event["value"][0].as_py()]), event["metadata"])
        return DoraStatus.CONTINUE


def test_an_operator_gets_sets_also_of_messages_from_another_operator() -> None:
    flow_ = DataflowBuilder(exit_when_nodes_finish=True)
    flow_.add_node("left", path="dynamic", outputs=["out"])
    runtime = flow_.add_node("runtime")
    runtime.add_operator(Operator("double", python="x.py", inputs={"in": "left/out"}, outputs=["out"]))
    fusion = Operator(
        "fusion",
        python="x.py",
        inputs={"left": "left/out", "double": "runtime/double/out"},
        outputs=["count"],
    )
    fusion.add_sync("left", "double", history={"double": (-1, 0)})
    runtime.add_operator(fusion)
    Fusion.sets = []
    with VirtualDataflow(
        flow_, nodes={"runtime": {"fusion": Fusion, "double": Double}}, play=["left"]
    ) as flow:
        for time in range(3):
            flow.node("left").send_output("out", pa.array([time]), at(time))
            flow.advance(0.1)
        flow.node("left").close()
        flow.run()
        assert [message.value[0].as_py() for message in flow.outputs["runtime/fusion/count"]] == [2, 3, 3]
    assert Fusion.sets == [
        ("left", ["left", "double"], {"left": 0, "double": [0]}),
        ("left", ["left", "double", "double"], {"left": 1, "double": [0, 2]}),
        ("left", ["left", "double", "double"], {"left": 2, "double": [2, 4]}),
    ]


def test_rules_of_an_input_hold_in_a_group_too() -> None:
    queues = {"arm": {"deadline": "50ms", "max_age": "200ms"}}
    with VirtualDataflow(
        flow_of(("left", "arm"), tolerance="5ms", queues=queues), play=["left", "arm", "fusion"]
    ) as flow:
        fusion = flow.node("fusion")

        def send(number: int, age: float) -> None:
            stamp = fusion.timestamp() - timedelta(seconds=age)
            for name in ("left", "arm"):
                flow.node(name).send_output("out", pa.array([number]), {"timestamp": stamp})

        send(1, age=0)
        assert [event.type for event in drain(fusion)] == ["SYNC"]
        missed = fusion.next(timeout=0.1)
        assert (missed["type"], missed["id"]) == ("DEADLINE_MISSED", "arm")
        flow.advance(1)
        send(2, age=0.3)
        send(3, age=0)
        met, found = drain(fusion)
        assert (met["type"], met["id"]) == ("DEADLINE_MET", "arm")
        assert values(found) == {"left": 3, "arm": 3}
        counts = fusion.statistics()["inputs"]
        assert (counts["arm"]["expired"], counts["arm"]["missed"], counts["left"]["unmatched"]) == (1, 1, 1)


class OneSet:
    def on_event(self, event: Any, send_output: Callable[..., None]) -> DoraStatus:
        if event["type"] != "SYNC":
            return DoraStatus.CONTINUE
        send_output("out", pa.array([1]))
        return DoraStatus.STOP


def test_the_stream_ends_once_all_inputs_of_the_only_set_are_closed_here() -> None:
    names = ("left", "arm")
    with VirtualDataflow(flow_of(names), play=[*names, "fusion"]) as flow:
        inbox = flow.node("fusion")._session.inbox
        inbox.close_inputs(["left"])  # as the runtime does when an operator ends
        assert not inbox.ended
        inbox.close_inputs(["arm"])
        assert inbox.ended


def test_an_operator_may_end_between_two_sets_while_others_go_on() -> None:
    flow_ = DataflowBuilder(exit_when_nodes_finish=True)
    flow_.add_node("left", path="dynamic", outputs=["out"])
    runtime = flow_.add_node("runtime")
    for name, outputs in (("one", ["out"]), ("fusion", ["count"])):
        operator = Operator(name, python="x.py", inputs={"a": "left/out", "b": "left/out"}, outputs=outputs)
        runtime.add_operator(operator.add_sync("a", "b"))
    Fusion.sets = []
    with VirtualDataflow(
        flow_, nodes={"runtime": {"one": OneSet, "fusion": Fusion}}, play=["left"]
    ) as flow:
        for time in range(3):
            flow.node("left").send_output("out", pa.array([time]), at(time))
            flow.advance(0.1)
        flow.node("left").close()
        flow.run()
        assert len(flow.outputs["runtime/one/out"]) == 1
        assert len(flow.outputs["runtime/fusion/count"]) == 3
