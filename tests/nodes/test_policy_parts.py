"""The parts of the policy node: loading, joining, receiving, and one inference after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from waiting import TIMEOUT, wait_until

from dora.control import ChunkError
from dora.node.events import Input, Stop, Synced
from dora.nodes.parameters import WrongParameter
from dora.nodes.policy import inference as inference_module
from dora.nodes.policy.inference import Inference
from dora.nodes.policy.load import Policy, PolicyError, as_policy, load_policy
from dora.nodes.policy.observations import JoinedObservation, ObservationError, Observations
from dora.nodes.policy.policy import Failures, run
from dora.testing import MockNode
from dora.transforms import nanoseconds

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = 1_000_000_000
PERIOD = 20_000_000


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def messages(*given: tuple[str, float, Any]) -> list[Input]:
    """Return events: input, capture time, value."""
    node = MockNode([(name, np.asarray(value), {"timestamp": at(time)}) for name, time, value in given])
    return [event for event in node if isinstance(event, Input)]


def joined(
    *given: tuple[str, float, Any], inputs: tuple[str, ...] = ("image", "state"), **history: Any
) -> Observations:
    observations = Observations(inputs, history, on_request=False)
    for event in messages(*given):
        observations.add(event)
    return observations


def next_of(observations: Observations) -> JoinedObservation:
    found, _ = observations.next()
    assert found is not None
    return found


def set_of(**inputs: Any) -> Synced:
    (event, _) = MockNode([{"type": "SYNC", "inputs": inputs}])
    assert isinstance(event, Synced)
    return event


def test_one_request_gives_one_observation() -> None:
    observations = Observations(["image"], {}, on_request=True)
    observations.request()
    for event in messages(("image", 0.1, [1]), ("image", 0.2, [2])):
        observations.add(event)
        if event.numpy()[0] == 1:
            assert next_of(observations).values["image"].tolist() == [1]
    observations.end()
    assert observations.next() == (None, 0)


def test_an_observation_has_the_time_of_the_first_input_and_the_latest_others_before_it() -> None:
    found = next_of(
        joined(("state", 0.0, [1]), ("image", 0.1, [2]), ("state", 0.09, [3]), ("state", 0.2, [4]))
    )
    assert found.time_ns == nanoseconds(at(0.1))
    assert found.values["state"].tolist() == [3]
    assert found.values["image"].tolist() == [2]
    assert [event.id for event in found.events] == ["image", "state"]


def test_a_history_adds_a_dimension_and_repeats_the_oldest_value() -> None:
    given = [("state", tenth / 10, [tenth]) for tenth in range(3)]
    found = next_of(joined(*given, ("image", 0.2, [9]), state=5))
    assert found.values["state"].tolist() == [[0], [0], [0], [1], [2]]
    found = next_of(joined(*given, ("image", 0.2, [9]), state=[-0.1, 0.0], image=1))
    assert found.values["state"].tolist() == [[1], [2]]
    assert found.values["image"].tolist() == [[9]]


@pytest.mark.parametrize("history", [{"state": [-1.0, 0.0]}, {"image": [0.0], "state": [-1.0, -0.1]}])
def test_messages_are_kept_for_the_deepest_offset(history: dict[str, Any]) -> None:
    given = [("state", tenth / 10, [tenth]) for tenth in range(21)]
    found = next_of(joined(*given, ("image", 2.0, [9]), **history))
    assert found.values["state"].tolist()[0] == [10]


def test_messages_are_kept_longer_for_histories_that_are_counted() -> None:
    given = [("state", 0.4 * number, [number]) for number in range(5)]
    found = next_of(joined(*given, ("image", 1.6, [9]), state=5))
    assert found.values["state"].tolist() == [[0], [1], [2], [3], [4]]


def test_a_message_whose_time_stamp_is_none_counts_as_captured_now() -> None:
    (event, _) = MockNode([("state", np.array([1]), {"timestamp": "yesterday"})])
    assert isinstance(event, Input)
    before = datetime.now(UTC)
    observations = joined(inputs=("state",))
    observations.add(event)
    assert nanoseconds(before) <= next_of(observations).time_ns <= nanoseconds(datetime.now(UTC))


def waiting_for(observations: Observations, act: Callable[[], None]) -> JoinedObservation | None:
    """Return the next observation; ``act`` is called once a thread waits for it."""
    found: list[JoinedObservation | None] = []
    waiting = threading.Thread(target=lambda: found.append(observations.next()[0]), daemon=True)
    waiting.start()
    wait_until(lambda: observations._condition._waiters, "the wait")  # type: ignore[attr-defined]
    act()
    waiting.join(TIMEOUT)
    return found[0]


def test_an_observation_is_used_once_and_the_wait_for_the_next_ends_with_a_message() -> None:
    observations = joined(("state", 0.0, [1]), ("image", 0.1, [2]))
    next_of(observations)
    found = waiting_for(observations, lambda: observations.add(messages(("image", 0.3, [5]))[0]))
    assert found is not None
    assert found.values["image"].tolist() == [5]


def test_the_end_ends_the_wait() -> None:
    observations = joined(("state", 0.0, [1]))
    assert waiting_for(observations, observations.end) is None
    assert observations.next() == (None, 0)


def test_a_request_ends_the_wait_and_a_second_one_gives_no_observation_again() -> None:
    observations = Observations(("state",), {}, on_request=True)
    observations.add(messages(("state", 0.0, [1]))[0])
    found = waiting_for(observations, observations.request)
    assert found is not None
    observations.request()
    observations.end()
    assert observations.next() == (None, 0)


@pytest.mark.parametrize("on_request", [False, True])
def test_an_observation_that_waits_at_the_end_is_given_unless_the_node_is_stopped(on_request: bool) -> None:
    for stopped in (False, True):
        observations = Observations(("state",), {}, on_request=on_request)
        observations.add(messages(("state", 0.0, [1]))[0])
        observations.request()
        observations.end(drop=stopped)
        if not stopped:
            assert next_of(observations).values["state"].tolist() == [1]
        assert observations.next() == (None, 0)


def test_with_a_tick_an_observation_is_given_for_each_request() -> None:
    observations = Observations(("state",), {}, on_request=True)
    observations.add(messages(("state", 0.0, [1]))[0])
    observations.request()
    assert next_of(observations).values["state"].tolist() == [1]
    observations.add(messages(("state", 1.0, [2]))[0])
    observations.add(messages(("state", 2.0, [3]))[0])
    observations.request()
    assert next_of(observations).values["state"].tolist() == [3]


def test_a_reset_forgets_what_was_there_and_is_counted() -> None:
    observations = joined(("state", 0.0, [1]), ("image", 0.1, [2]))
    observations.reset()
    for event in messages(("image", 0.3, [5]), ("state", 0.2, [4])):
        observations.add(event)
    found, resets = observations.next()
    assert found is not None
    assert found.values["state"].tolist() == [4]
    assert resets == 1
    observations.add(messages(("image", 0.4, [5]))[0])
    assert observations.next()[1] == 1


@pytest.mark.parametrize("length", [1, 2])
def test_a_set_of_synchronised_inputs_is_an_observation(length: int) -> None:
    image, task, *states = messages(
        ("image", 0.1, [2]), ("task", 0.0, [7]), ("state", 0.0, [1]), ("state", 0.1, [3])
    )
    observations = Observations(("image", "state", "task"), {}, on_request=False)
    observations.add(task)
    observations.add(set_of(image=dict(image), state=[dict(state) for state in states[-length:]]))
    found = next_of(observations)
    assert found.values["state"].tolist() == [[1], [3]][-length:], "a history is a list, also of one"
    assert found.values["image"].tolist() == [2]
    assert found.values["task"].tolist() == [7]


def test_a_set_that_is_not_complete_is_no_observation() -> None:
    observations = Observations(("image", "state"), {}, on_request=False)
    image, state, later = messages(("image", 0.1, [2]), ("state", 0.1, [1]), ("image", 0.2, [3]))
    observations.add(set_of(image=dict(image), state=dict(state)))
    next_of(observations)
    observations.add(set_of(image=dict(later), state=None))
    observations.end()
    assert observations.next() == (None, 0)


def test_a_reset_forgets_a_set_too() -> None:
    image, state, *later = messages(
        ("image", 0.1, [1]), ("state", 0.1, [2]), ("image", 0.3, [3]), ("state", 0.2, [4])
    )
    observations = Observations(("image", "state"), {}, on_request=False)
    observations.add(set_of(image=dict(image), state=dict(state)))
    observations.reset()
    for event in later:
        observations.add(event)
    observations.end()
    assert next_of(observations).values["state"].tolist() == [4]


def test_values_of_several_shapes_make_no_history() -> None:
    observations = joined(("state", 0.0, [1]), ("state", 0.1, [1, 2]), ("image", 0.1, [2]), state=2)
    with pytest.raises(ObservationError, match=r"`state` have several shapes: \[\(1,\), \(2,\)\]"):
        observations.next()


# --------------------------------------------------------------------------- the node


class PolicyNode(MockNode):
    """A node with a policy. It gives the next event once the policy has taken the one before."""

    def __init__(self, events: Sequence[Input | Stop | Exception], **parameters: Any) -> None:
        config = {"inputs": {"state": "arm/state", "reset": "ui/reset"}, "outputs": ["actions"]}
        super().__init__([], node_config=config)
        self.events = events
        self.calls = threading.Semaphore(0)
        self.followed: list[Any] = []
        self._parameters = {"steps_per_second": 10.0, "on_error": "continue", **parameters}

    @property
    def parameters(self) -> dict[str, Any]:
        return self._parameters

    def send_output(self, output_id: str, data: Any, metadata: Any = None, **options: Any) -> None:
        self.followed.append([event.numpy().tolist() for event in options["follows"] or ()])
        super().send_output(output_id, data, metadata, **options)

    def __iter__(self) -> Any:
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Input) and event.id == "state" and "safe_state" not in event.metadata:
                assert self.calls.acquire(timeout=TIMEOUT)


def test_a_node_that_cannot_receive_fails_with_its_error() -> None:
    node: Any = PolicyNode([OSError("the connection is broken")])
    with pytest.raises(OSError, match="the connection is broken"):
        run(node, as_policy("still", lambda observation: [[0.0]]))  # noqa: ARG005


@pytest.mark.parametrize("failures", [0, 1])
def test_a_reset_reaches_the_policy_once_also_after_a_failure(failures: int) -> None:
    done: list[str] = []
    states = [("state", seconds, [seconds]) for seconds in (0.1, 0.2, 0.3)]
    node: Any = PolicyNode(messages(("reset", 0.0, [0]), *states))

    class Act:
        def __call__(self, observation: Any) -> Any:  # noqa: ARG002
            done.append("chunk")
            node.calls.release()
            return [[0.0]]

        def reset(self) -> None:
            done.append("reset")
            if done.count("reset") <= failures:
                node.calls.release()
                raise ValueError("not now")

    run(node, as_policy("act", Act()))
    assert done == [*["reset"] * (failures + 1), *["chunk"] * (3 - failures)]


STATES = [("state", seconds, [seconds]) for seconds in (0.1, 0.2, 0.3)]


def seen_by_policy(
    node: Any, *, steps: tuple[int, ...] = (0,), done: Callable[[], Any] = lambda: None
) -> list[Any]:
    """Run a policy that knows its input and its steps; return the states that it gets."""
    seen: list[Any] = []

    def act(observation: Any) -> Any:
        seen.append(observation["state"].tolist())
        node.calls.release()
        done()
        return [[0.0]]

    run(node, Policy("act", act, inputs=("state",), steps=steps))
    return seen


def test_a_chunk_follows_the_messages_of_its_observation() -> None:
    node = PolicyNode(messages(*STATES))
    seen_by_policy(node)
    assert node.followed == [[[0.1]], [[0.2]], [[0.3]]]


def test_a_safe_value_is_no_observation() -> None:
    (state,) = messages(STATES[0])
    (safe, _) = MockNode([("state", np.array([9.0]), {"timestamp": at(0.2), "safe_state": "failed"})])
    assert isinstance(safe, Input)
    assert seen_by_policy(PolicyNode([state, safe])) == [[0.1]]


@pytest.mark.parametrize(("cause", "seen"), [("MANUAL", [[0.1]]), ("ALL_INPUTS_CLOSED", [[0.1], [0.2]])])
def test_an_observation_that_waits_is_used_if_the_inputs_end_and_not_if_the_node_is_stopped(
    cause: Any, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    end = Observations.end

    def ending(self: Observations, drop: bool = False) -> None:
        end(self, drop)
        ended.set()

    monkeypatch.setattr(Observations, "end", ending)
    node = PolicyNode([*messages(*STATES[:2]), Stop(cause)])

    def wait() -> None:
        node.calls.release()  # the second message and the end come while the first chunk is computed
        assert ended.wait(TIMEOUT)

    assert seen_by_policy(node, done=wait) == seen


@pytest.mark.parametrize(
    ("parameters", "seen"),
    [
        ({}, [[[0.1], [0.1]], [[0.1], [0.2]], [[0.2], [0.3]]]),
        ({"history": {"state": 1}}, [[[0.1]], [[0.2]], [[0.3]]]),
    ],
    ids=str,
)
def test_a_policy_gets_the_steps_that_it_knows_unless_the_dataflow_says_more(
    parameters: dict[str, Any], seen: list[Any]
) -> None:
    assert seen_by_policy(PolicyNode(messages(*STATES), **parameters), steps=(-1, 0)) == seen


@pytest.mark.parametrize("wanted", [0, [], [-0.1, 0.1]], ids=str)
def test_a_history_that_is_none_is_refused(wanted: Any) -> None:
    with pytest.raises(WrongParameter, match="it has to be a number of values, 1 or more, or offsets"):
        seen_by_policy(PolicyNode([], history={"state": wanted}))


def test_each_kind_of_failure_is_reported_once_and_no_more_than_a_hundred(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logged: list[str] = []
    node: Any = SimpleNamespace(log=lambda _, text, __: logged.append(text))
    failures = Failures("act", node)
    for number in range(150):
        for _ in range(2):
            error = ValueError(f"no {number}")
            failures.add(error)
            failures.log(error)
    assert failures.count == 300
    assert logged == [f"policy `act`: ValueError: no {number}" for number in range(100)]
    assert capsys.readouterr().err.count("ValueError: no ") == 100


def test_a_reset_is_counted_also_if_its_observation_fails() -> None:
    observations = joined(inputs=("state",), state=2)
    observations.reset()
    for event in messages(("state", 0.1, [1]), ("state", 0.2, [1, 2])):
        observations.add(event)
    with pytest.raises(ObservationError):
        observations.next()
    observations.add(messages(("state", 0.3, [3, 4]))[0])
    assert observations.next()[1] == 1


# --------------------------------------------------------------------------- inference


def observation(seconds: float, **values: Any) -> JoinedObservation:
    events = messages(*((name, seconds, value) for name, value in values.items()))
    return JoinedObservation(values, nanoseconds(at(seconds)), tuple(events))


def test_a_chunk_begins_at_the_observation_and_is_numbered() -> None:
    inference = Inference(as_policy("act", lambda _: np.ones((3, 2))), PERIOD)
    for number in (1, 2):
        chunk = inference.run(observation(number, state=[0.0]))
        assert chunk.start_ns == nanoseconds(at(number))
        assert chunk.number == number
        metadata = inference.metadata(chunk)
        assert metadata["timestamp"] == at(number)
        assert metadata["inference_ms"] >= 0
        assert metadata["step_period"] == 0.02


def test_a_policy_that_asks_gets_what_is_left_of_its_last_chunk_and_the_delay_in_steps() -> None:
    seen: list[tuple[Any, int]] = []

    def act(_: Any, left_over: Any, delay: int) -> Any:
        seen.append((left_over, delay))
        return np.arange(10.0)[:, None]

    inference = Inference(as_policy("act", act), PERIOD)
    now = datetime.now(UTC)
    for later in (0.0, 0.05, 10.0):
        found = JoinedObservation({}, nanoseconds(now + timedelta(seconds=later)), ())
        inference.run(found)
    assert seen[0] == (None, 0)
    assert seen[1][0].ravel().tolist() == list(range(2, 10))
    assert seen[1][1] >= 1, "the first chunk took a part of a step"
    assert seen[2][0] is None, "the last chunk is over"


def test_the_delay_is_the_most_of_the_last_ten_times_and_the_newest_times_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inference_module, "_TIMES", 5)
    late = iter([50_000_000, *[10_000_000] * 11])
    monkeypatch.setattr(
        inference_module,
        "time",
        SimpleNamespace(time_ns=lambda: SECOND + next(late), monotonic_ns=lambda: 0),
    )
    delays: list[int] = []

    def act(_: Any, delay: int) -> Any:
        delays.append(delay)
        return [0.0]

    inference = Inference(as_policy("act", act), PERIOD)
    for _ in range(12):
        inference.run(JoinedObservation({}, SECOND, ()))
    assert delays == [0, *[3] * 10, 1]
    assert (inference.chunks, len(inference.times_ns)) == (12, 5)


def test_a_policy_gets_the_metadata_that_it_asks_for() -> None:
    seen: list[Any] = []

    def act(_: Any, metadata: Any) -> Any:
        seen.append(metadata)
        return [0.0]

    Inference(as_policy("act", act), PERIOD).run(observation(1, state=[0.0]))
    assert seen[0]["state"]["timestamp"] == at(1)


def test_a_single_action_and_a_tensor_are_chunks() -> None:
    class Tensor:
        def detach(self) -> Tensor:
            return self

        cpu = detach

        def numpy(self) -> Any:
            return np.ones((4, 2), np.float32)

    assert Inference(as_policy("act", lambda _: [1, 2]), PERIOD).run(observation(1)).actions.shape == (1, 2)
    assert Inference(as_policy("act", lambda _: Tensor()), PERIOD).run(observation(1)).actions.shape == (
        4,
        2,
    )


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (np.full((3, 2), np.nan), "NaN"),
        (np.ones((3, 4)), r"shape \(3, 4\); it has to be \(steps, 2\)"),
        (np.ones((3, 2, 2)), r"shape \(3, 2, 2\)"),
        ([[1.0, 2.0], [1.0]], "the steps differ in length"),
        (None, "shape"),
        (np.ones((0, 2)), r"shape \(0, 2\)"),
    ],
)
def test_a_result_that_is_no_chunk_is_refused_and_changes_nothing(result: Any, text: str) -> None:
    results = [np.ones((3, 2)), result]
    inference = Inference(as_policy("act", lambda _: results.pop(0)), PERIOD, action_size=2)
    inference.run(observation(1))
    with pytest.raises(ChunkError, match=text):
        inference.run(observation(2))
    assert inference.chunks == 1


def test_a_reset_reaches_the_policy_and_nothing_is_left_over() -> None:
    class Act:
        resets = 0

        def __call__(self, _: Any, left_over: Any) -> Any:
            assert left_over is None
            return np.ones((100, 1))

        def reset(self) -> None:
            self.resets += 1

    policy = Act()
    inference = Inference(as_policy("act", policy), PERIOD)
    inference.run(observation(1))
    inference.reset()
    inference.run(observation(1.1))
    assert policy.resets == 1


def test_a_reset_that_is_no_method_is_not_called() -> None:
    def act(_: Any) -> Any:
        return [0.0]

    act.reset = 5  # type: ignore[attr-defined]
    Inference(as_policy("act", act), PERIOD).reset()


# --------------------------------------------------------------------------- loading

POLICY = """
import numpy as np
import helper

def act(observation):
    return np.full((2, 1), helper.VALUE)

class Act:
    def __call__(self, observation, delay=0):
        return np.ones((2, 1))

class Dumb:
    pass

number = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    (tmp_path / "a_policy.py").write_text(POLICY)
    (tmp_path / "helper.py").write_text("VALUE = 3\n")
    return tmp_path


def test_a_function_and_a_class_are_found_in_a_file_and_in_a_module(folder: Path) -> None:
    for text in ("a_policy.py:act", f"{folder}/a_policy.py:act", "a_policy:act"):
        policy = load_policy(text)
        assert policy({}).tolist() == [[3], [3]]
        assert policy.wants == ()
    assert load_policy("a_policy.py:Act").wants == ("delay",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a_policy.py", "names no policy; write `policy.py:act`"),
        ("other.py:act", "there is no file .*other.py"),
        ("no_such_module:act", "there is no module `no_such_module`"),
        ("a_policy.py:walk", "a_policy.py has no `walk`"),
        ("a_policy.py:number", "is no function and no class"),
        ("a_policy.py:Dumb", "has no method `__call__`"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_names_of_no_policy_are_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        load_policy(text)


def test_a_module_that_a_policy_imports_and_that_is_missing_keeps_its_own_error(folder: Path) -> None:
    (folder / "broken.py").write_text("import no_such_helper\n")
    for text in ("broken.py:act", "broken:act"):
        with pytest.raises(ModuleNotFoundError, match="no_such_helper"):
            load_policy(text)


def test_a_policy_takes_all_that_is_offered_by_keywords() -> None:
    def act(_: Any, **offered: Any) -> Any:
        return [len(offered)]

    policy: Policy = as_policy("act", act)
    assert policy.wants == ("left_over", "delay", "metadata")
