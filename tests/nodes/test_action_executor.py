"""The executor node in virtual time: steady commands, stops that hold, safe states that come in time."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import yaml

from dora.control import ActionChunk
from dora.node.events import Event, ParamUpdate
from dora.nodes.action_executor import ActionExecutor, run
from dora.nodes.parameters import WrongParameter
from dora.nodes.steady import CommandOutput, Faults, MissingInput, run_steadily
from dora.testing import MockNode, Sent, VirtualDataflow

PERIOD = 0.02  # seconds, of a step
TICK = 0.004  # seconds


def dataflow(*, outputs: list[Any] | None = None, deadline: str | None = "200ms", **parameters: Any) -> str:
    actions: dict[str, Any] = {"source": "policy/actions"}
    if deadline:
        actions["deadline"] = deadline
    executor = {
        "id": "executor",
        "path": "dora-action-executor",
        "inputs": {
            "tick": "dora/timer/250hz",
            "actions": actions,
            "stop": "human/stop",
            "start": "human/start",
        },
        "outputs": outputs
        or [{"command": {"safe_state": {"value": [0.0, 0.0], "metadata": {"mode": "brake"}}}}, "state"],
        "parameters": parameters,
    }
    return yaml.safe_dump(
        {
            "nodes": [
                executor,
                {"id": "policy", "path": "dynamic", "outputs": ["actions"]},
                {"id": "human", "path": "dynamic", "outputs": ["stop", "start"]},
            ]
        }
    )


class Flow:
    """A running executor; the test plays the policy and the human."""

    def __init__(self, flow: VirtualDataflow) -> None:
        self.flow = flow
        self.policy = flow.node("policy")
        self.human = flow.node("human")
        self.chunks = 0

    def send(self, first: float, slope: float = 0.0, steps: int = 50, late: float = 0.0) -> None:
        """Send a chunk whose numbers rise by ``slope`` a second, of an observation ``late`` seconds ago."""
        self.chunks += 1
        values = first + slope * PERIOD * np.arange(steps)
        metadata = {
            "timestamp": datetime.fromtimestamp(time.time() - late, UTC),
            "step_period": PERIOD,
            "chunk": self.chunks,
        }
        self.policy.send_output("actions", np.stack([values, -values], 1), metadata)

    @property
    def commands(self) -> list[Sent]:
        return self.flow.outputs["executor/command"]

    @property
    def states(self) -> list[str]:
        return [sent.value[0].as_py() for sent in self.flow.outputs["executor/state"]]

    @property
    def last(self) -> tuple[float, str]:
        """The first number of the last command, and the reason if it is of the safe state."""
        command = self.commands[-1]
        return float(command.numpy()[0]), command.metadata.get("safe_state", "")


@contextmanager
def running(**options: Any) -> Iterator[Flow]:
    # The executor begins to receive at 0; a little later is between two ticks.
    with VirtualDataflow(dataflow(**options), nodes={"executor": run}, play=["policy", "human"]) as flow:
        flow.advance(0.001)
        yield Flow(flow)


def test_a_command_is_sent_at_each_tick_and_knows_its_chunk_step_and_observation() -> None:
    with running() as flow:
        flow.flow.advance(0.1)
        assert flow.commands == []
        flow.send(1.0, slope=1.0, late=0.01)
        observed = datetime.fromtimestamp(time.time() - 0.01, UTC)
        flow.flow.advance(0.1)
        times = [command.time for command in flow.commands]
        assert len(times) == 25
        assert all(after - before == pytest.approx(TICK) for before, after in itertools.pairwise(times))
        for command in flow.commands:
            gone = command.time - 0.101 + 0.01
            # Between two steps, on a straight line.
            assert command.numpy() == pytest.approx([1 + gone, -1 - gone], abs=1e-6)
            assert command.metadata["chunk"] == 1
            assert command.metadata["step"] == int(gone / PERIOD)
            assert command.metadata["observed"] == observed
            assert command.metadata["late"] is False
        assert flow.states == ["waiting", "playing"]


def test_a_chunk_that_begins_at_its_arrival_is_played_from_its_first_step() -> None:
    with running(start="arrival") as flow:
        flow.send(1.0, slope=1.0, late=0.5)
        flow.flow.advance(TICK)
        assert flow.commands[0].metadata["step"] == 0
        assert flow.last[0] == pytest.approx(1.0, abs=TICK)


def test_the_newest_chunk_preempts_the_one_before() -> None:
    with running() as flow:
        flow.send(1.0)
        flow.flow.advance(0.05)
        flow.send(2.0)
        flow.flow.advance(TICK)
        assert flow.last == (2.0, "")
        assert flow.commands[-1].metadata["chunk"] == 2


def test_a_fade_goes_from_one_chunk_to_the_next_without_a_jump() -> None:
    with running(blend="fade", fade=0.1) as flow:
        flow.send(1.0)
        flow.flow.advance(0.05)
        flow.send(2.0)
        flow.flow.advance(0.15)
        values = [float(command.numpy()[0]) for command in flow.commands]
        assert max(abs(b - a) for a, b in itertools.pairwise(values)) <= TICK / 0.1 + 1e-6
        assert values[-1] == 2.0


def test_a_stop_sends_the_safe_value_at_once_and_holds_whatever_comes() -> None:
    with running() as flow:
        flow.send(1.0)
        flow.flow.advance(0.05)
        sent = len(flow.commands)
        flow.human.send_output("stop", b"")
        flow.flow.advance(0.0)
        assert len(flow.commands) == sent + 1, "it does not wait for the next tick"
        assert flow.last == (0.0, "stopped")
        assert flow.commands[-1].metadata["mode"] == "brake"
        for _ in range(10):
            flow.send(3.0)
            flow.flow.advance(0.05)
        assert {command.metadata.get("safe_state") for command in flow.commands[sent:]} == {"stopped"}
        assert flow.states[-1] == "stopped"

        flow.human.send_output("start", b"")
        flow.flow.advance(0.3)
        assert flow.states[-1] == "deadline", "the last chunk is older than the deadline"
        flow.send(4.0)
        flow.flow.advance(0.15)
        assert flow.last == (4.0, "")


def test_a_start_waits_for_a_chunk_that_came_after_the_stop() -> None:
    with running() as flow:
        flow.send(1.0, steps=50)
        flow.flow.advance(0.05)
        flow.human.send_output("stop", b"")
        flow.flow.advance(0.01)
        flow.human.send_output("start", b"")
        flow.flow.advance(0.05)
        assert flow.last == (0.0, "waiting")
        flow.send(2.0)
        flow.flow.advance(0.15)
        assert flow.last == (2.0, "")


def test_each_stop_is_confirmed() -> None:
    with running() as flow:
        for _ in range(2):
            flow.human.send_output("stop", b"")
            flow.flow.advance(0.05)
        assert flow.states == ["waiting", "stopped", "stopped"]


def test_a_policy_is_late_once_until_its_next_chunk() -> None:
    with running() as flow:
        for _ in range(2):
            flow.send(1.0)
            flow.flow.advance(0.3)
        flow.policy.close()
        flow.flow.advance(0.01)
        assert flow.last == (0.0, "closed")
        flow.flow.stop()
        flow.flow.advance(0.1)
        assert "; 2 times the policy was late" in flow.flow.lines("executor")[-1]


def test_after_a_stop_commands_begin_at_the_safe_value() -> None:
    with running(fade=0.1) as flow:
        flow.send(1.0)
        flow.flow.advance(0.05)
        flow.human.send_output("stop", b"")
        flow.flow.advance(0.01)
        flow.human.send_output("start", b"")
        flow.send(1.0)
        flow.flow.advance(0.15)
        values = [float(command.numpy()[0]) for command in flow.commands]
        rising = values[values.index(0.0) :]
        assert max(b - a for a, b in itertools.pairwise(rising)) <= TICK / 0.1 + 1e-6
        assert rising[-1] == 1.0


def test_a_stop_wins_over_a_start_that_comes_at_the_same_time() -> None:
    for order in (("stop", "start"), ("start", "stop")):
        with running() as flow:
            flow.send(1.0)
            flow.flow.advance(0.05)
            for output in order:
                flow.human.send_output(output, b"")
            flow.flow.advance(0.05)
            assert flow.last[1] == "stopped", order


def test_a_stop_counts_before_and_after_the_policy_is_late() -> None:
    with running() as flow:
        flow.send(1.0)
        flow.flow.advance(0.25)
        assert flow.last == (0.0, "deadline")
        flow.human.send_output("stop", b"")
        flow.flow.advance(0.0)
        assert flow.last == (0.0, "stopped")
        flow.send(1.0)
        flow.flow.advance(0.25)
        assert flow.last == (0.0, "stopped")
        assert flow.states == ["waiting", "playing", "deadline", "stopped"]


class Taken(list[str]):
    """A steady node that notes what it is given."""

    def take(self, event: Event) -> None:
        self.append(event["id"])

    def tick(self) -> None:
        self.append("command")


def test_of_what_is_there_together_a_start_comes_first_and_the_tick_last() -> None:
    many = [f"in{number}" for number in range(100)]
    inputs = dict.fromkeys(["tick", *many, "stop", "start"], "a/out")
    node, taken = MockNode([(name, b"") for name in inputs], node_config={"inputs": inputs}), Taken()
    run_steadily(node, taken)
    assert taken == ["start", *many, "stop", "ALL_INPUTS_CLOSED", "command"]


@pytest.mark.lengthy
def test_the_states_for_the_next_process_are_saved_in_their_order() -> None:
    saved: list[bytes] = []
    overtaken = threading.Event()

    class Saving(ConfiguredNode):
        def save_state(self, state: bytes) -> None:
            if state:
                overtaken.wait(0.2)
            saved.append(state)
            overtaken.set()

    output = CommandOutput(Saving({}), "hold")
    output.stop()
    output.start()
    assert output._saving is not None
    output._saving.join()
    assert saved == [b"stopped", b""]


def test_after_a_pause_of_the_policy_the_safe_state_begins_at_the_deadline() -> None:
    with running(deadline="200ms") as flow:
        flow.send(1.0, steps=100)
        flow.flow.advance(0.199)
        assert flow.last == (1.0, "")
        flow.flow.advance(0.002)
        assert flow.last == (0.0, "deadline")
        flow.flow.advance(0.2)
        assert {command.metadata["safe_state"] for command in flow.commands[-40:]} == {"deadline"}
        flow.send(2.0)
        flow.flow.advance(0.15)
        assert flow.last == (2.0, "")
        assert flow.states == ["waiting", "playing", "deadline", "playing"]


def test_a_policy_that_ends_leaves_the_safe_state() -> None:
    with running() as flow:
        flow.send(1.0)
        flow.flow.advance(0.05)
        flow.policy.close()
        flow.flow.advance(0.01)
        assert flow.last == (0.0, "closed")


def test_with_hold_the_last_action_is_repeated_and_marked_as_late() -> None:
    with running(deadline=None, on_late="hold", fade=0.0) as flow:
        flow.send(1.0, slope=1.0, steps=5)
        flow.flow.advance(1.0)
        assert flow.last == (pytest.approx(1.08), "")
        assert flow.commands[-1].metadata["late"] is True
        assert flow.states == ["waiting", "playing", "holding"]


def test_with_stop_a_late_policy_needs_a_start() -> None:
    with running(on_late="stop") as flow:
        flow.send(1.0)
        flow.flow.advance(0.25)
        assert flow.last[1] == "stopped"
        flow.send(1.0)
        flow.flow.advance(0.05)
        assert flow.last[1] == "stopped"
        flow.human.send_output("start", b"")
        flow.flow.advance(0.12)
        assert flow.last == (1.0, "")


def test_with_a_held_safe_action_a_stop_repeats_the_last_command() -> None:
    with running(outputs=["command"], safe_action="hold") as flow:
        flow.human.send_output("stop", b"")
        flow.flow.advance(0.05)
        assert flow.commands == [], "there is no command to hold"
        flow.human.send_output("start", b"")
        flow.send(1.0)
        flow.flow.advance(0.05)
        flow.human.send_output("stop", b"")
        flow.flow.advance(0.05)
        assert flow.last == (1.0, "stopped")


@pytest.mark.parametrize(
    ("actions", "metadata", "text"),
    [
        (np.full((5, 2), np.nan), {}, "NaN or infinite number, first in step 0"),
        (np.ones((5, 3)), {}, "3 numbers for each action; the ones before had 2"),
        (np.ones(4), {}, "shape (4,)"),
        (np.ones((5, 2)), {"step_period": -1}, "step period -1"),
    ],
)
def test_an_invalid_chunk_is_not_used_and_reported(
    actions: np.ndarray, metadata: dict[str, Any], text: str
) -> None:
    with running() as flow:
        flow.send(1.0)
        flow.flow.advance(0.05)
        now = datetime.fromtimestamp(time.time(), UTC)
        flow.policy.send_output("actions", actions, {"timestamp": now, "step_period": PERIOD, **metadata})
        flow.flow.advance(0.05)
        assert flow.last == (1.0, "")
        flow.policy.send_output("actions", actions, {"timestamp": now, "step_period": PERIOD, **metadata})
        flow.flow.advance(0.05)
        lines = [line for line in flow.flow.lines("executor") if text in line]
        assert len(lines) == 1, "each kind once"
        flow.flow.stop()
        flow.flow.advance(0.1)
        assert "2 were invalid" in flow.flow.lines("executor")[-1]


def test_of_many_kinds_of_faults_all_are_counted_and_a_hundred_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    faults = Faults(logging.getLogger("dora.nodes.test"))
    for number in range(300):
        faults.add(f"a fault with the number {number}")
    assert (faults.count, len(caplog.records)) == (300, 100)


def test_a_chunk_whose_time_is_over_is_counted() -> None:
    with running() as flow:
        flow.send(1.0, steps=5, late=1.0)
        flow.flow.advance(0.05)
        assert flow.commands == []
        flow.flow.stop()
        flow.flow.advance(0.1)
        assert "0 chunks; 1 chunks came too late" in " ".join(flow.flow.lines("executor"))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"outputs": ["command"]}, MissingInput, "no `safe_state`"),
        ({"outputs": ["state"]}, MissingInput, "no output `command`"),
        ({"deadline": None}, MissingInput, "no `deadline`"),
        ({"blend": "mean"}, WrongParameter, "parameter `blend` is 'mean'"),
        ({"fade": -1}, WrongParameter, "parameter `fade` is -1"),
        ({"fad": 1}, WrongParameter, "no parameter `fad`; did you mean `fade`?"),
        ({"fade": "long"}, WrongParameter, "parameter `fade` is 'long': Expected `float`, got `str`"),
    ],
)
def test_a_dataflow_that_does_not_do_is_refused_with_a_remedy(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text), running(**options) as flow:
        flow.flow.advance(1)


def test_a_stop_input_that_may_leave_messages_out_is_refused() -> None:
    text = dataflow().replace("stop: human/stop", "stop: {source: human/stop, max_age: 1s}")
    with (
        pytest.raises(MissingInput, match="input `stop` has `max_age`"),
        VirtualDataflow(text, nodes={"executor": run}, play=["policy", "human"]) as flow,
    ):
        flow.advance(1)


class ConfiguredNode(MockNode):
    """A node whose parameters the test changes."""

    def __init__(self, parameters: dict[str, Any], **rules: Any) -> None:
        inputs = {"tick": "dora/timer/250hz", "actions": {"source": "policy/actions", **rules}}
        super().__init__([], node_config={"inputs": inputs, "outputs": ["command"]})
        self.given = parameters

    @property
    def parameters(self) -> dict[str, Any]:
        return self.given

    def load_state(self) -> None:
        return None


def test_a_parameter_that_changes_counts_from_the_next_tick_and_a_wrong_one_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node = ConfiguredNode({"safe_action": "hold"}, deadline="200ms")
    executor = ActionExecutor(node)
    now = datetime.now(UTC)
    metadata = {"timestamp": now - timedelta(seconds=PERIOD / 2), "step_period": 1000.0}
    chunk = [("actions", np.array([[0.0], [1e9]]), metadata)]
    executor.take(next(MockNode(chunk)))
    executor.tick()
    assert node.outputs["command"][-1][0] > 0, "between two steps"

    node.given = {"safe_action": "hold", "interpolate": False}
    executor.take(ParamUpdate("interpolate", False))
    executor.tick()
    assert node.outputs["command"][-1][0] == 0

    node.given = {"safe_action": "value", "blend": "mean"}
    executor.take(ParamUpdate("blend", "mean"))
    executor.tick()
    assert node.outputs["command"][-1][0] == 0
    assert "the parameters stay as they were: parameter `blend` is 'mean'" in caplog.text


def test_a_parameter_that_changes_counts_for_the_next_chunk() -> None:
    node = ConfiguredNode({"safe_action": "hold"}, deadline="200ms")
    executor = ActionExecutor(node)
    metadata = {"timestamp": datetime.now(UTC) - timedelta(hours=1), "step_period": 10.0}
    chunks = MockNode([("actions", np.array([[value]]), metadata) for value in (1.0, 2.0)])
    executor.take(next(chunks))
    executor.tick()
    assert node.outputs == {}, "its time is over"

    node.given = {"safe_action": "hold", "start": "arrival"}
    executor.take(ParamUpdate("start", "arrival"))
    executor.take(next(chunks))
    executor.tick()
    assert [command[0] for command in node.outputs["command"]] == [2.0]


@pytest.mark.parametrize("refused", [{"safe_action": "value"}, {"on_late": "safe_state"}], ids=str)
def test_parameters_with_which_the_executor_would_not_start_change_nothing(
    refused: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    given = {"safe_action": "hold", "on_late": "hold"}
    node = ConfiguredNode(given)
    executor = ActionExecutor(node)
    metadata = {"timestamp": datetime.now(UTC) - timedelta(seconds=PERIOD / 2), "step_period": 1000.0}
    executor.take(next(MockNode([("actions", np.array([[0.0], [1e9]]), metadata)])))
    node.given = {**given, "interpolate": False, **refused}
    executor.take(ParamUpdate("interpolate", False))
    assert "the parameters stay as they were" in caplog.text
    executor.tick()
    assert node.outputs["command"][-1][0] > 0, "between two steps"
    with pytest.raises(MissingInput):
        ActionExecutor(node)


def test_a_stop_outlives_the_process_of_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    read = ActionChunk.from_message

    def fail_twice(actions: Any, metadata: Any, source: Any = None) -> ActionChunk:
        if metadata["chunk"] in (2, 5):
            raise RuntimeError("a fault")
        return read(actions, metadata, source)

    monkeypatch.setattr(ActionChunk, "from_message", fail_twice)
    text = yaml.safe_load(dataflow())
    text["nodes"][0]["restart_policy"] = "on-failure"
    with VirtualDataflow(yaml.safe_dump(text), nodes={"executor": run}, play=["policy", "human"]) as flow:
        flow.advance(0.001)
        played = Flow(flow)
        played.send(1.0)
        flow.advance(0.05)
        played.human.send_output("stop", b"")
        flow.advance(0.05)
        played.send(1.0)  # the fault
        flow.advance(0.05)
        played.send(1.0)
        flow.advance(0.05)
        assert played.last == (0.0, "stopped")
        played.human.send_output("start", b"")
        played.send(1.0)
        flow.advance(0.12)
        assert played.last == (1.0, "")
        played.send(1.0)  # the fault
        flow.advance(0.05)
        played.send(1.0)
        flow.advance(0.12)
        assert played.last == (1.0, ""), "so does a start"
