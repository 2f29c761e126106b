"""Parameters: kept by the run, sent to processes."""

from __future__ import annotations

from typing import Any

import pytest
from supervision import Supervised, node, sent

from dora.daemon.supervisor import commands as do
from dora.daemon.supervisor import events as on
from dora.dataflow.model import RestartOptions
from dora.wire.daemon_protocol import (
    Answer,
    DeleteParameter,
    GetParameters,
    Parameters,
    Rejected,
    SetParameter,
)
from dora.wire.node_protocol import ParamDeletedFrame, ParamUpdateFrame, Ready, SetOwnParameters, Started
from dora.wire.operations import OperationResult


def supervised(**more: Any) -> Supervised:
    return Supervised(node("a", parameters={"gain": 0.5}, **more), node("other"))


def answers(commands: list[do.Command]) -> list[Answer]:
    return [command.answer for command in commands if isinstance(command, do.Answer)]


def admitted(commands: list[do.Command]) -> dict[str, Any]:
    (admit,) = [command for command in commands if isinstance(command, do.Admit)]
    return admit.parameters


def request(what: on.ParameterRequest) -> on.Event:
    return on.RequestReceived(7, what)


def values(run: Supervised, node_id: str = "a") -> dict[str, Any]:
    (answer,) = answers(run(request(GetParameters(node_id))))
    assert isinstance(answer, Parameters)
    return answer.values


def test_a_running_node_is_sent_parameter_changes() -> None:
    run = supervised()
    run.start()
    commands = run(request(SetParameter("a", "mode", "fast")))
    assert answers(commands) == [OperationResult("a")]
    assert sent(commands, "a") == [ParamUpdateFrame("mode", "fast")]
    assert sent(commands, "other") == []
    commands = run(request(DeleteParameter("a", "gain")))
    assert sent(commands, "a") == [ParamDeletedFrame("gain")]
    assert values(run) == {"mode": "fast"}
    assert values(run, "other") == {}


def test_a_parameter_set_to_the_same_value_is_sent_again() -> None:
    run = supervised()
    run.start()
    assert sent(run(request(SetParameter("a", "gain", 0.5))), "a") == [ParamUpdateFrame("gain", 0.5)]


def test_a_node_sets_parameters_of_its_own_together() -> None:
    run = supervised()
    run.start()
    commands = run(on.MessageReceived("a", SetOwnParameters({"gain": 2.5, "limits": {"low": 1}})))
    assert sent(commands, "a") == [ParamUpdateFrame("gain", 2.5), ParamUpdateFrame("limits", {"low": 1})]
    assert values(run) == {"gain": 2.5, "limits": {"low": 1}}
    recorded = [command for command in commands if isinstance(command, do.RecordParameters)]
    assert recorded == [do.RecordParameters("a", {"gain": 2.5, "limits": {"low": 1}})]


def test_of_the_parameters_that_a_node_sets_an_impossible_one_is_left_out() -> None:
    run = supervised()
    run.start()
    run(
        on.MessageReceived(
            "a", SetOwnParameters({"": 1, "gain": float("nan"), "mode": "x" * 70_000, "good": 1})
        )
    )
    assert values(run) == {"gain": 0.5, "good": 1}


def test_a_process_gets_all_values_when_it_is_admitted() -> None:
    run = supervised()
    run(on.Begin())
    run(request(SetParameter("a", "mode", "fast")))
    assert admitted(run.register("a")) == {"gain": 0.5, "mode": "fast"}


def test_parameter_changes_before_the_start_are_sent_at_the_start() -> None:
    run = supervised()
    run(on.Begin())
    run.join("a")
    commands = run(request(SetParameter("a", "gain", 1)))
    assert answers(commands) == [OperationResult("a", was_running=False)]
    assert sent(commands, "a") == []
    run(request(SetParameter("a", "new", [1])))
    run(request(SetParameter("a", "gone", 1)))
    run(request(DeleteParameter("a", "gone")))
    assert sent(run.join("other"), "a") == [
        Started(100_000_000_000),
        ParamUpdateFrame("gain", 1),
        ParamUpdateFrame("new", [1]),
    ]


def test_values_that_are_equal_to_python_but_of_other_types_are_sent() -> None:
    run = Supervised(node("a", parameters={"flag": 1}), node("other"))
    run(on.Begin())
    run.join("a")
    run(request(SetParameter("a", "flag", True)))
    assert sent(run.join("other"), "a")[1:] == [ParamUpdateFrame("flag", True)]


def test_a_restarted_node_has_the_present_values() -> None:
    run = supervised(restart=RestartOptions(policy="always", delay=1.0))
    run.start()
    run(request(SetParameter("a", "gain", 2)))
    run.end("a", 1)
    commands = run(request(SetParameter("a", "mode", "slow")))
    assert answers(commands) == [OperationResult("a", was_running=False)]
    run.after(1.0)
    assert admitted(run.register("a", incarnation=1)) == {"gain": 2, "mode": "slow"}


def test_a_dynamic_node_gets_the_values_set_before_it_joined() -> None:
    run = Supervised(node("a"), node("visitor", path="dynamic", parameters={"x": 1}))
    run.start()
    run(request(SetParameter("visitor", "x", 2)))
    assert admitted(run.register("visitor", dynamic=True)) == {"x": 2}


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        (GetParameters("othre"), "this dataflow has no node `othre`; did you mean `other`?"),
        (SetParameter("b", "x", 1), "this dataflow has no node `b`; its nodes are `a` and `other`"),
        (DeleteParameter("a", "gian"), "node `a` has no parameter `gian`; did you mean `gain`?"),
        (SetParameter("a", " ", 1), "the key of a parameter is empty"),
        (SetParameter("a", "ä" * 129, 1), "the key of a parameter has 258 bytes, more than 256"),
        (
            SetParameter("a", "x", "y" * 65536),
            "the value of parameter `x` has 65538 bytes as JSON, more than 65536",
        ),
        (
            SetParameter("a", "x", [float("inf")]),
            "the value of parameter `x` has inf, which JSON does not know",
        ),
        (
            SetParameter("a", "x", {"y": 2**64}),
            "the value of parameter `x` has the integer 18446744073709551616, which does not fit into "
            "64 bits",
        ),
    ],
)
def test_impossible_parameters_are_declined(what: on.ParameterRequest, reason: str) -> None:
    run = supervised()
    run.start()
    commands = run(request(what))
    assert answers(commands) == [Rejected(reason)]
    assert sent(commands, "a") == []
    assert values(run) == {"gain": 0.5}


def kept(commands: list[do.Command]) -> list[tuple[str, dict[str, Any]]]:
    return [(c.node_id, c.parameters) for c in commands if isinstance(c, do.RecordParameters)]


def test_parameter_changes_are_recorded_before_they_are_answered() -> None:
    run = supervised()
    run.start()
    commands = run(request(SetParameter("a", "mode", "fast")))
    assert [type(command).__name__ for command in commands] == ["RecordParameters", "Send", "Answer"]
    assert kept(commands) == [("a", {"gain": 0.5, "mode": "fast"})]
    assert kept(run(request(DeleteParameter("a", "gain")))) == [("a", {"mode": "fast"})]
    assert kept(run(request(GetParameters("a")))) == []
    assert kept(run(request(DeleteParameter("a", "gain")))) == []


def test_a_changed_dataflow_has_the_present_parameters() -> None:
    run = supervised()
    run.start()
    run(request(SetParameter("a", "gain", 2)))
    commands = run.become(*run.state.dataflow.nodes, node("new", parameters={"x": 1}))
    (rewire,) = [command for command in commands if isinstance(command, do.ApplyDataflow)]
    assert [spec.parameters for spec in rewire.dataflow.nodes] == [{"gain": 2}, {}, {"x": 1}]


@pytest.mark.parametrize(("given", "then"), [({}, {"gain": 2}), ({"gain": 7}, {"gain": 7})])
@pytest.mark.parametrize("runs", [True, False])
def test_a_replacement_has_the_parameters_of_its_yaml_or_the_present_ones(
    given: dict[str, Any], then: dict[str, Any], runs: bool
) -> None:
    run = supervised()
    run.start()
    run(request(SetParameter("a", "gain", 2)))
    if not runs:
        run.end("a")
    commands = run.replace(node("a", parameters=given))
    commands += run.register("a", incarnation=1)
    if runs:
        commands += run(on.ReplacementReady("a", 1))
        commands += run.end("a")
    (admit,) = [command for command in commands if isinstance(command, (do.Admit, do.AdmitReplacement))]
    (rewire,) = [command for command in commands if isinstance(command, do.ApplyDataflow)]
    assert admit.parameters == values(run) == rewire.dataflow.node("a").parameters == then


def test_a_replacement_is_sent_the_parameters_that_changed_while_it_stood_by() -> None:
    run = Supervised(node("a", parameters={"gain": 0.5, "mode": "slow"}), watched=frozenset("a"))
    run.start()
    run(on.CodeChanged("a"))
    run.stand_by("a", 1)
    run(request(DeleteParameter("a", "gain")))
    run.end("a")
    started, deleted = sent(run(on.MessageReceived("a", Ready())), "a")
    assert isinstance(started, Started)
    assert deleted == ParamDeletedFrame("gain")
