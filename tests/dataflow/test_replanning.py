"""The plan of a dataflow that changes while it runs: what stays stays where it is."""

from __future__ import annotations

from collections import Counter

import msgspec

from dora.dataflow.layout import Plan, RunContext
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec
from dora.dataflow.plan import MAX_TAPS, SPARE_RECEIVERS, TAP_QUEUE, plan
from dora.wire.correlation import PATTERN_QUEUE_SIZE
from dora.wire.node_config import InputConfig, OutputConfig

CONTEXT = RunContext("id", "/run", "p_", "/board")


def node(node_id: str, *inputs: tuple[str, str, int], outputs: tuple[str, ...] = ()) -> NodeSpec:
    """Make a node; inputs are (id, source, queue size)."""
    made = tuple(
        InputSpec(name, NodeOutput(*source.split("/")), queue_size=size) for name, source, size in inputs
    )
    return NodeSpec(node_id, path="x.py", inputs=made, outputs=outputs)


A = node("a", outputs=("o",))
B = node("b", ("i", "a/o", 10))


def planned(*nodes: NodeSpec, former: Plan | None = None, context: RunContext = CONTEXT) -> Plan:
    return plan(Dataflow(nodes, "/w"), context, former)


def output(of: Plan) -> OutputConfig:
    return of.configs["a"].outputs[0]


def inputs(of: Plan, node_id: str) -> dict[str, InputConfig]:
    return {item.id: item for item in of.configs[node_id].inputs}


def test_an_unchanged_link_keeps_line_bell_and_channel() -> None:
    before = planned(A, B)
    after = planned(A, B, node("c", ("i", "a/o", 5), outputs=("x",)), former=before)
    assert after.configs["b"] == before.configs["b"]
    assert output(after).service == output(before).service
    assert output(after).max_receivers == output(before).max_receivers, "a channel cannot grow"
    fresh = after.configs["c"]
    lines = [fresh.node_slot, fresh.outputs[0].slot, fresh.inputs[0].slot]
    assert lines == list(range(before.lines, after.lines))
    assert set(before.bells) < set(after.bells)
    assert fresh.inputs[0].late
    assert not after.configs["b"].inputs[0].late


def test_lines_are_never_used_again() -> None:
    first = planned(A, B)
    without = planned(A, node("b"), former=first)
    again = planned(A, B, former=without)
    assert inputs(again, "b")["i"].slot >= first.lines
    back = planned(A, former=planned(node("b"), former=again))
    assert output(back).slot >= again.lines
    assert output(back).service != output(first).service, "the old channel may still be there"


def test_an_input_from_another_source_is_new() -> None:
    two = node("a", outputs=("o", "p"))
    before = planned(two, B)
    after = planned(two, node("b", ("i", "a/p", 10)), former=before)
    assert inputs(after, "b")["i"].slot != inputs(before, "b")["i"].slot
    assert inputs(after, "b")["i"].late


def test_late_links_stay_late() -> None:
    """A node that is restarted before it has made the input still begins with what is sent then."""
    more = node("b", ("i", "a/o", 10), ("j", "a/o", 10))
    after = planned(A, more, former=planned(A, B))
    assert inputs(planned(A, more, former=after), "b")["j"].late


def test_late_links_use_the_slots_of_taps_except_one() -> None:
    before = planned(A, B)
    names = [f"j{index}" for index in range(MAX_TAPS)]
    after = planned(A, B, node("c", *((name, "a/o", 10) for name in names)), former=before)
    found = inputs(after, "c")
    main = output(before).service
    assert [found[name].service == main for name in names] == [True] * (MAX_TAPS - 1) + [False]
    (overflow_channel,) = output(after).overflow_channels
    assert overflow_channel.service == found[names[-1]].service
    assert overflow_channel.max_receivers > SPARE_RECEIVERS
    assert overflow_channel.max_queue_size == TAP_QUEUE, "a tap may come, too"


def test_a_deep_queue_gets_an_overflow_channel_that_is_removed_with_the_link() -> None:
    before = planned(A, B)
    after = planned(A, B, node("c", ("j", "a/o", 500)), former=before)
    (overflow_channel,) = output(after).overflow_channels
    assert overflow_channel.max_queue_size == 500
    assert inputs(after, "c")["j"].max_queue_size == 500
    assert output(planned(A, B, former=after)).overflow_channels == []


def test_an_output_with_many_links_has_several_channels() -> None:
    """A channel costs each receiver memory for all of them, so one channel for all would be quadratic."""
    many = node("c", *((f"j{index}", "a/o", 10) for index in range(100)))
    before = planned(A, many)
    links = Counter(item.service for item in before.configs["c"].inputs)
    room = {channel.service: channel.max_receivers for channel in output(before).overflow_channels}
    room[output(before).service] = output(before).max_receivers
    assert links.keys() == room.keys()
    assert all(links[name] + SPARE_RECEIVERS <= room[name] <= 24 for name in links)
    after = planned(A, many, B, former=before)
    assert output(after).overflow_channels == output(before).overflow_channels
    assert after.configs["c"] == before.configs["c"]


def test_channels_of_shm_have_no_limits() -> None:
    context = RunContext("id", "/run", "p_", "/board", "shm")
    many = node("c", *((f"j{index}", "a/o", 500) for index in range(100)))
    assert output(planned(A, B, many, context=context)).overflow_channels == []
    after = planned(A, B, many, former=planned(A, B, context=context), context=context)
    assert output(after).overflow_channels == []


def test_an_output_has_room_for_the_recorder_that_is_expected() -> None:
    context = msgspec.structs.replace(CONTEXT, tap_queue=100)
    found = output(planned(A, B, context=context))
    assert (found.max_queue_size, found.max_receivers) == (100, 1 + SPARE_RECEIVERS + 2)


def test_a_long_name_of_a_channel_is_shortened_and_no_other() -> None:
    free = 255 - len("id//o")
    for length, is_kept in ((free, True), (free + 1, False)):
        (found,) = planned(node("n" * length, outputs=("o",))).configs["n" * length].outputs
        assert (found.service == f"id/{'n' * length}/o") is is_kept
        assert len(found.service) <= 255


def test_an_output_keeps_the_bell_on_which_its_node_waits() -> None:
    (slow,) = B.inputs
    waiting = NodeSpec(
        "b", path="x.py", inputs=(msgspec.structs.replace(slow, queue_policy="backpressure"),)
    )
    before = planned(A, waiting)
    assert output(before).credit_bell in before.bells
    after = planned(A, former=before)
    assert (output(after).credit_bell, after.bells[1:]) == (output(before).credit_bell, before.bells[2:])


def test_two_nodes_of_which_one_is_a_service_have_queues_for_requests_in_shared_memory() -> None:
    """A burst of requests waits there; one that is lost would never be answered."""
    service = msgspec.structs.replace(node("b", ("i", "a/o", 10), outputs=("p",)), pattern="service-server")
    found = planned(node("a", ("r", "b/p", 3), outputs=("o",)), service, node("c", ("i", "a/o", 10)))
    assert inputs(found, "b")["i"].engine_queue_size == PATTERN_QUEUE_SIZE
    assert output(found).max_queue_size == PATTERN_QUEUE_SIZE
    assert inputs(found, "c")["i"].engine_queue_size == 0, "it does not answer"
    (request,) = service.inputs
    lossless = msgspec.structs.replace(request, queue_policy="backpressure")
    service = msgspec.structs.replace(service, inputs=(lossless,))
    found = planned(node("a", ("r", "b/p", 3), outputs=("o",)), service)
    assert inputs(found, "b")["i"].engine_queue_size == 0, "its sender waits"


def test_a_node_that_the_user_starts_decides_itself_about_its_memory() -> None:
    for path, is_locked in (("x.py", True), ("dynamic", False)):
        found = planned(NodeSpec("a", path=path, lock_memory=True))
        assert found.configs["a"].lock_memory is is_locked
