"""The plan of a dataflow on several machines: what the gateway of one of them receives and sends."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dora.dataflow.gateway_plan import networks_of
from dora.dataflow.layout import Placement, Plan, RunContext
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec
from dora.dataflow.plan import plan
from dora.errors import DoraError
from dora.wire.daemon_protocol import StreamView
from dora.wire.node_config import GatewayConfig, InputConfig, RemoteConfig
from dora.wire.output_rules import LatchRule, OutputRules

REMOTE = RemoteConfig("10.0.0.1:6014", {"right": "10.0.0.2:6014", "third": "10.0.0.3:6014"}, "secret")
MACHINES = {"a": "left", "b": "right", "c": "right", "d": "left", "e": "third"}


def item(name: str, source: str, **rules: Any) -> InputSpec:
    return InputSpec(name, NodeOutput(*source.split("/")), **rules)


def node(node_id: str, *inputs: InputSpec, outputs: tuple[str, ...] = (), **more: Any) -> NodeSpec:
    return NodeSpec(node_id, path="x.py", inputs=inputs, outputs=outputs, **more)


A = node("a", outputs=("x",))
B = node("b", item("i", "a/x"), outputs=("y",))


def planned(
    *nodes: NodeSpec,
    former: Plan | None = None,
    generations: dict[str, int] | None = None,
    remote: RemoteConfig = REMOTE,
) -> Plan:
    """Return the plan of the machine `left`."""
    placement = Placement("left", MACHINES, generations or {}, remote)
    return plan(
        Dataflow(nodes, "/w"), RunContext("id", "/run", "p_", "/board", placement=placement), former
    )


def gateway(of: Plan) -> GatewayConfig:
    assert of.gateway is not None
    return of.gateway


def stream(of: Plan) -> InputConfig:
    """Return what the gateway receives of the only output that it sends away."""
    (found,) = gateway(of).streams
    return found.item


def test_an_output_goes_to_a_machine_once_for_all_receivers_there() -> None:
    both = planned(
        A,
        node("b", item("i", "a/x", queue_size=3, max_age_ns=5, keep=("k",))),
        node("c", item("i", "a/x", queue_size=7, max_age_ns=9, keep=("j",))),
        node("d", item("i", "a/x")),
        node("e", item("i", "a/x")),
    )
    right, third = gateway(both).streams
    assert [(each.name, each.machine) for each in (right, third)] == [("a/x", "right"), ("a/x", "third")]
    assert [[link.consumer for link in each.links] for each in (right, third)] == [["b/i", "c/i"], ["e/i"]]
    assert (right.item.queue_size, right.item.queue_policy, right.item.keep) == (
        7,
        "drop_oldest",
        ("j", "k"),
    )
    assert right.item.max_age_ns == 9, "it goes as long as one of them takes it"
    assert [(view.target, view.streams) for view in networks_of(both.gateway)] == [
        (each.machine, [StreamView(each.item.slot, "a/x")]) for each in (right, third)
    ]


@pytest.mark.parametrize("second", [{}, {"queue_policy": "backpressure"}])
def test_a_message_is_not_left_out_for_a_receiver_that_takes_old_ones(second: dict[str, Any]) -> None:
    rules = [{"max_age_ns": 5}, second]
    for first, last in (rules, reversed(rules)):
        nodes = node("b", item("i", "a/x", **first)), node("c", item("i", "a/x", **last))
        made = stream(planned(A, *nodes))
        assert (made.max_age_ns, made.queue_policy) == (0, second.get("queue_policy", "drop_oldest"))


def test_an_output_of_another_machine_is_sent_here_to_the_receivers_here() -> None:
    source = node("b", outputs=("y", "z"), output_rules={"y": OutputRules(latched=LatchRule(2))})
    found = planned(
        source,
        node("c", item("i", "b/y"), item("j", "b/z")),
        node("d", item("i", "b/y", queue_policy="backpressure")),
        node("e", item("j", "b/z")),
    )
    config = gateway(found)
    (output,) = config.node.outputs
    assert (output.id, config.sources, config.streams) == ("b/y", {"b/y": "right"}, [])
    assert [link.consumer for link in output.links] == ["d/i"]
    assert output.latched == LatchRule(2, survive_restart=True), "the gateway may be started again"
    assert config.networks.keys() == {"right"}
    (made,) = found.configs["d"].inputs
    assert (made.machine, made.credit_bell) == ("right", config.node.bell), "the gateway waits for it"
    assert all(each.credit_bell == "" for each in found.configs["b"].outputs)


def test_receivers_elsewhere_need_no_channel_of_their_own_here() -> None:
    many = (item(f"i{number}", "a/x") for number in range(40))
    (output,) = planned(A, node("b", *many)).configs["a"].outputs
    assert output.overflow_channels == []


def test_what_stays_keeps_its_lines_while_other_machines_come_and_go() -> None:
    first = planned(A, B, node("d", item("j", "b/y")))
    more = planned(A, B, node("d", item("j", "b/y")), node("e", item("i", "a/x")), former=first)
    before, after = gateway(first), gateway(more)
    assert (after.node.node_slot, after.node.bell) == (before.node.node_slot, before.node.bell)
    assert [each for each in after.streams if each.machine == "right"] == before.streams
    assert after.networks["right"] == before.networks["right"]
    assert after.networks["third"] >= first.lines
    less = gateway(planned(A, B, former=more))
    assert less.networks == before.networks, "nothing goes to the third machine any more"


def test_a_late_receiver_whose_queue_is_longer_than_the_channel_gets_what_the_channel_holds() -> None:
    first = planned(A, B)
    second = node("c", item("i", "a/x", queue_size=500))
    after = stream(planned(A, B, second, former=first))
    assert after.service == stream(first).service, "a stream keeps its channel"
    assert after.queue_size == after.max_queue_size < 500


def test_a_node_that_replaces_one_of_this_id_has_other_lines_and_another_name() -> None:
    nodes = A, B, node("d", item("i", "a/x"))
    first = planned(*nodes)
    again = planned(*nodes, former=first, generations={"a": 3})
    assert [each.name for each in gateway(again).streams] == ["a/x~3"]
    assert stream(again).slot >= first.lines
    (network,) = networks_of(again.gateway)
    assert [each.output for each in network.streams] == ["a/x"], "for people it is the same"
    (made,) = again.configs["d"].inputs
    assert made.slot >= first.lines and made.late


def test_a_link_that_was_taken_away_and_made_again_has_another_line() -> None:
    nodes = A, node("d", item("i", "a/x"))
    first = planned(*nodes)
    (made,) = planned(*nodes, former=first, generations={"d/i": 2}).configs["d"].inputs
    assert (made.generation, made.late) == (2, True) and made.slot >= first.lines


def test_a_link_of_a_change_is_late_also_on_a_machine_that_begins_with_it() -> None:
    (made,) = planned(A, node("d", item("i", "a/x")), generations={"d/i": 2}).configs["d"].inputs
    assert made.late


def test_two_machines_without_a_port_cannot_be_linked() -> None:
    both = msgspec.structs.replace(REMOTE, listen="10.0.0.1:0", reach={"right": "", "third": ""})
    with pytest.raises(DoraError, match="machines `left` and `right` both have `--link-port 0`"):
        planned(A, B, remote=both)
    planned(A, node("d", item("i", "a/x")), remote=both)
    planned(A, B, remote=msgspec.structs.replace(both, listen="10.0.0.1:6014"))
    planned(A, B, remote=msgspec.structs.replace(both, reach={}))  # it is not known yet
