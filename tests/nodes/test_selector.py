"""The selector node in virtual time: the human before the policy, without a jump."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import yaml

from dora.node.node import Node
from dora.nodes.parameters import WrongParameter
from dora.nodes.selector import run
from dora.nodes.steady import MissingInput
from dora.testing import Sent, VirtualDataflow

TICK = 0.004  # seconds


def dataflow(outputs: list[Any] | None = None, **parameters: Any) -> str:
    selector = {
        "id": "selector",
        "path": "dora-selector",
        "inputs": {
            "tick": "dora/timer/250hz",
            "human": "human/command",
            "policy": "policy/command",
            "stop": "human/stop",
            "start": "human/start",
        },
        "outputs": outputs or [{"command": {"safe_state": {"value": [0.0], "type": "float32"}}}, "active"],
        "parameters": {"ramp": 0.1, "timeout": 0.05, **parameters},
    }
    return yaml.safe_dump(
        {
            "nodes": [
                selector,
                {"id": "policy", "path": "dynamic", "outputs": ["command"]},
                {"id": "human", "path": "dynamic", "outputs": ["command", "stop", "start"]},
            ]
        },
        sort_keys=False,
    )


class Flow:
    """A running selector; the test plays the sources."""

    def __init__(self, flow: VirtualDataflow) -> None:
        self.flow = flow
        self.nodes = {name: flow.node(name) for name in ("policy", "human")}

    @property
    def human(self) -> Node:
        return self.nodes["human"]

    def send(self, seconds: float, **sources: float) -> None:
        """Let sources send a constant each 10 ms for so long."""
        for _ in range(round(seconds / 0.01)):
            for source, value in sources.items():
                self.nodes[source].send_output("command", np.array([value], np.float32), {"chunk": 7})
            self.flow.advance(0.01)

    @property
    def commands(self) -> list[Sent]:
        return self.flow.outputs["selector/command"]

    @property
    def active(self) -> list[str]:
        return [sent.value[0].as_py() for sent in self.flow.outputs["selector/active"]]

    @property
    def last(self) -> tuple[float, str]:
        command = self.commands[-1]
        return float(command.numpy()[0]), command.metadata.get("safe_state", "")

    def largest_step(self) -> float:
        values = [
            (float(command.numpy()[0]), "safe_state" in command.metadata) for command in self.commands
        ]
        return max(abs(b - a) for (a, _), (b, is_safe) in itertools.pairwise(values) if not is_safe)


@contextmanager
def running(**options: Any) -> Iterator[Flow]:
    with VirtualDataflow(dataflow(**options), nodes={"selector": run}, play=["policy", "human"]) as flow:
        flow.advance(0.001)
        yield Flow(flow)


def test_a_human_takes_over_and_gives_back_without_a_jump() -> None:
    with running() as flow:
        flow.send(0.2, policy=1.0)
        assert flow.last == (1.0, "")
        flow.send(0.2, policy=1.0, human=2.0)
        assert flow.last == (2.0, "")
        flow.send(0.3, policy=1.0)
        assert flow.last == (1.0, "")
        assert flow.active == ["policy", "human", "policy"]
        assert flow.largest_step() <= TICK / 0.1 + 1e-6


def test_an_empty_command_gives_back_at_once() -> None:
    with running(timeout=10, ramp=0) as flow:
        flow.send(0.05, policy=1.0, human=2.0)
        flow.human.send_output("command", np.empty(0, np.float32))
        flow.flow.advance(TICK)
        assert flow.last == (1.0, "")


def test_a_command_is_sent_at_each_tick_with_its_source_and_what_the_source_said() -> None:
    with running() as flow:
        flow.send(0.2, policy=1.0)
        times = [command.time for command in flow.commands]
        assert len(times) == 50
        assert all(after - before == pytest.approx(TICK) for before, after in itertools.pairwise(times))
        assert flow.commands[-1].metadata["source"] == "policy"
        assert flow.commands[-1].metadata["chunk"] == 7
        assert flow.commands[-1].metadata["part"] == 1.0


def test_the_parameter_sources_sets_the_priority() -> None:
    with running(sources=["policy", "human"]) as flow:
        flow.send(0.1, policy=1.0, human=2.0)
        assert flow.active == ["policy"]


def test_a_source_in_its_safe_state_gives_back() -> None:
    with running(timeout=10, ramp=0) as flow:
        flow.send(0.05, policy=1.0, human=2.0)
        flow.human.send_output("command", np.array([5.0], np.float32), {"safe_state": "stopped"})
        flow.flow.advance(TICK)
        assert flow.last == (1.0, "")


def test_without_a_source_the_safe_state_begins_and_commands_come_back_from_it() -> None:
    with running() as flow:
        flow.send(0.1, policy=1.0)
        flow.flow.advance(0.1)
        assert flow.last == (0.0, "no source")
        flow.send(0.2, policy=1.0)
        assert flow.last == (1.0, "")
        assert flow.largest_step() <= TICK / 0.1 + 1e-6
        assert flow.active == ["policy", "", "policy"]


def test_after_a_time_without_a_source_commands_go_to_the_next_one_on_a_straight_line() -> None:
    with running() as flow:
        flow.send(0.1, policy=1.0)
        flow.flow.advance(0.1)
        flow.send(0.2, policy=5.0)
        assert flow.last == (5.0, "")
        assert flow.largest_step() <= 5 * TICK / 0.1 + 1e-6


def test_a_source_that_closes_gives_back_at_once() -> None:
    with running(timeout=10, ramp=0) as flow:
        flow.send(0.05, policy=1.0, human=2.0)
        flow.human.close()
        flow.flow.advance(TICK)
        assert flow.last == (1.0, "")


def test_a_stop_holds_over_all_sources_until_the_start() -> None:
    with running() as flow:
        flow.send(0.1, policy=1.0)
        sent = len(flow.commands)
        flow.human.send_output("stop", b"")
        flow.flow.advance(0.0)
        assert len(flow.commands) == sent + 1, "it does not wait for the next tick"
        flow.send(0.3, policy=1.0, human=2.0)
        assert {command.metadata.get("safe_state") for command in flow.commands[sent:]} == {"stopped"}
        flow.human.send_output("start", b"")
        flow.send(0.2, policy=1.0, human=2.0)
        assert flow.last == (2.0, "")
        assert flow.active == ["policy", "stopped", "human"]
        assert flow.largest_step() <= 2 * TICK / 0.1 + 1e-6


def test_each_stop_is_confirmed() -> None:
    with running() as flow:
        for _ in range(2):
            flow.human.send_output("stop", b"")
            flow.flow.advance(0.05)
        assert flow.active == ["stopped", "stopped"]


def test_a_command_of_another_size_is_not_used_and_reported() -> None:
    with running() as flow:
        flow.send(0.05, policy=1.0)
        flow.human.send_output("command", np.ones(2, np.float32))
        flow.flow.advance(TICK)
        assert flow.last == (1.0, "")
        assert "source `human`: an action has the shape (2,)" in " ".join(flow.flow.lines("selector"))


def test_a_command_keeps_what_came_with_it_although_a_later_one_is_not_used() -> None:
    with running() as flow:
        flow.send(0.05, policy=1.0)
        flow.nodes["policy"].send_output("command", np.array([np.nan], np.float32), {"chunk": 8})
        flow.flow.advance(TICK)
        assert flow.last == (1.0, "")
        assert flow.commands[-1].metadata["chunk"] == 7


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"outputs": ["command"]}, MissingInput, "no `safe_state`"),
        ({"sources": ["cat"]}, MissingInput, "names `cat`"),
        ({"sources": ["human", "human"]}, MissingInput, "each named once"),
        ({"timeout": 0}, WrongParameter, "parameter `timeout` is 0"),
    ],
)
def test_a_dataflow_that_does_not_do_is_refused_with_a_remedy(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text), running(**options) as flow:
        flow.flow.advance(1)
