"""The roles of nodes in a replay, and its dataflow."""

from __future__ import annotations

import pytest
import yaml

from dora.dataflow import parse
from dora.dataflow.model import Dataflow
from dora.errors import DoraError
from dora.recording.replay.replay_dataflow import ReplayRoles, assign_roles, in_cycles, replay_dataflow

FLOW = """
deploy: {machine: robot}
nodes:
  - id: camera
    path: camera.py
    inputs: {tick: dora/timer/millis/50}
    outputs: [image]
    send_stdout_as: log
  - id: detector
    path: detector.py
    env: {MODEL: small}
    inputs:
      image: {source: camera/image, queue_size: 1, input_timeout: 2}
      tick: dora/timer/secs/1
    outputs: [boxes]
    deploy: {machine: server}
  - id: planner
    operators:
      - id: op
        python: plan.py
        inputs: {boxes: detector/boxes, done: arm/done}
        outputs: [goal]
  - id: arm
    path: arm.py
    inputs: {goal: planner/op/goal}
    outputs: [done]
  - id: viewer
    path: dynamic
    inputs: {image: camera/image}
"""
ALL = {"camera/image", "detector/boxes", "planner/op/goal", "arm/done"}


@pytest.fixture(scope="module")
def flow() -> Dataflow:
    text = FLOW.replace("outputs: [image]\n", "outputs: [image, log]\n")
    return parse(text, working_dir="/lab", environ={})


def test_sources_are_replaced(flow: Dataflow) -> None:
    assert assign_roles(flow, ALL) == ReplayRoles(("camera",), ("detector", "planner", "arm"), ("viewer",))


def test_a_node_without_recorded_inputs_is_replaced_or_left_out(flow: Dataflow) -> None:
    found = assign_roles(flow, {"detector/boxes", "arm/done"})
    assert found == ReplayRoles(("detector",), ("planner", "arm"), ("camera", "viewer"))
    assert assign_roles(flow, {"arm/done"}).replaced == ("arm",)


def test_a_node_with_timers_only_runs_again_unless_it_sends() -> None:
    text = """
nodes:
  - {id: camera, path: camera.py, inputs: {tick: dora/timer/10ms}, outputs: [image]}
  - {id: clock, path: clock.py, inputs: {tick: dora/timer/10ms}}
  - {id: silent, path: silent.py}
"""
    flow = parse(text, working_dir="/lab", environ={})
    assert assign_roles(flow, {"camera/image"}) == ReplayRoles(("camera",), ("clock",), ("silent",))


def test_nodes_can_be_named(flow: Dataflow) -> None:
    found = assign_roles(flow, ALL, ["camera", "arm"])
    assert found.replaced == ("camera", "arm")
    assert found.live == ("detector", "planner", "viewer")
    assert assign_roles(flow, ALL, ["camera", "viewer"]).left_out == ("viewer",)
    with pytest.raises(DoraError, match="did you mean `detector`"):
        assign_roles(flow, ALL, ["detectr"])
    with pytest.raises(DoraError, match="nothing of `arm` is in the recording"):
        assign_roles(flow, {"camera/image"}, ["arm"])


def test_cycles_are_found(flow: Dataflow) -> None:
    assert in_cycles(flow, ["detector", "planner", "arm"]) == {("planner", "arm"), ("arm", "planner")}


def test_the_dataflow_of_a_replay(flow: Dataflow) -> None:
    who = assign_roles(flow, ALL)
    made = replay_dataflow(
        flow, who, {"DORA_REPLAY_FILE": "/a.mcap"}, directory="/d", ordered=True, lossless=True
    )
    again = parse(yaml.safe_dump(made), working_dir="/lab", environ={})
    camera, detector, planner, arm = again.nodes
    assert camera.path == "dora-replay"
    assert camera.inputs == ()
    assert camera.outputs == ("image", "log")
    assert camera.log.send_stdout_as == "log"
    assert camera.env == {
        "DORA_REPLAY_FILE": "/a.mcap",
        "DORA_REPLAY_DIRECTORY": "/d",
        "DORA_REPLAY_NODE": "camera",
    }
    image, tick = detector.inputs
    assert (image.queue_policy, image.queue_size, image.input_timeout) == ("backpressure", 1, None)
    assert str(tick.source) == "dora/timer/secs/1"
    assert detector.env == {"MODEL": "small", "DORA_REPLAY_DIRECTORY": "/d"}
    assert [item.queue_size for item in planner.inputs] == [10, 1000]
    assert arm.inputs[0].queue_size == 1000
    assert again.exit_when_nodes_finish


def test_a_free_replay_in_real_time_keeps_queues_as_they_are(flow: Dataflow) -> None:
    made = replay_dataflow(flow, assign_roles(flow, ALL), {})
    again = parse(yaml.safe_dump(made), working_dir="/lab", environ={})
    image, _ = again.node("detector").inputs
    assert (image.queue_policy, image.queue_size, image.input_timeout) == ("drop_oldest", 1, 2.0)
    assert again.node("detector").env == {"MODEL": "small"}


QOS = """
nodes:
  - {id: a, path: a.py, outputs: [x]}
  - id: b
    path: b.py
    inputs:
      newest: {source: a/x, queue_policy: latest, keep: [stop], max_age: 1s, deadline: 2s, rate: 5hz}
"""


def test_a_replay_in_recorded_order_leaves_the_qos_of_inputs_to_the_recording() -> None:
    flow = parse(QOS, working_dir="/lab", environ={})
    roles = assign_roles(flow, {"a/x"})
    made = replay_dataflow(flow, roles, {}, directory="/d", ordered=True, lossless=True)
    (newest,) = parse(yaml.safe_dump(made), working_dir="/lab", environ={}).node("b").inputs
    assert (newest.queue_policy, newest.keep) == ("backpressure", ())
    assert (newest.deadline_ns, newest.max_age_ns, newest.period_ns) == (0, 0, 0)


def test_a_free_replay_has_the_qos_of_inputs_except_ages() -> None:
    flow = parse(QOS, working_dir="/lab", environ={})
    made = replay_dataflow(flow, assign_roles(flow, {"a/x"}), {})
    (newest,) = parse(yaml.safe_dump(made), working_dir="/lab", environ={}).node("b").inputs
    assert (newest.queue_policy, newest.keep) == ("latest", ("stop",))
    assert (newest.deadline_ns, newest.max_age_ns, newest.period_ns) == (2 * 10**9, 0, 2 * 10**8)


def test_a_free_replay_that_loses_nothing_keeps_the_rules_whose_events_are_not_recorded() -> None:
    flow = parse(QOS, working_dir="/lab", environ={})
    made = replay_dataflow(flow, assign_roles(flow, {"a/x"}), {}, lossless=True)
    (newest,) = parse(yaml.safe_dump(made), working_dir="/lab", environ={}).node("b").inputs
    assert newest.queue_policy == "backpressure"
    assert (newest.deadline_ns, newest.max_age_ns, newest.period_ns) == (2 * 10**9, 0, 0)


@pytest.mark.parametrize("source", ["goals/op/goal", "goals/goal"])
@pytest.mark.parametrize(
    ("options", "size"),
    [("queue_policy: latest", 1000), ("queue_size: 5", 1000), ("queue_size: 2000", 2000)],
)
def test_an_input_of_a_latched_output_has_room_for_all_in_a_replay(
    source: str, options: str, size: int
) -> None:
    flow = parse(
        f"""
nodes:
  - id: goals
    operator: {{id: op, python: goals.py, outputs: [{{goal: {{latched: 2}}}}]}}
  - {{id: arm, path: arm.py, inputs: {{goal: {{source: {source}, {options}}}}}}}
""",
        working_dir="/lab",
        environ={},
    )
    roles = assign_roles(flow, {"goals/op/goal"})
    made = replay_dataflow(flow, roles, {}, directory="/d", ordered=True, lossless=True)
    (goal,) = parse(yaml.safe_dump(made), working_dir="/lab", environ={}).node("arm").inputs
    assert (goal.queue_policy, goal.queue_size) == ("drop_oldest", size)


@pytest.mark.parametrize(
    "program",
    [
        "path: arm.py, {}",
        "operator: {{id: op, python: arm.py, {}}}",
        "operators: [{{id: op, python: arm.py, {}}}]",
    ],
)
@pytest.mark.parametrize("lossless", [False, True])
def test_outputs_of_replaced_operators_may_be_named_without_the_operator(
    program: str, lossless: bool
) -> None:
    inputs = "inputs: {goal: goals/goal, again: {source: goals/goal, queue_size: 5}}"
    flow = parse(
        f"""
nodes:
  - {{id: goals, operator: {{id: op, python: goals.py, outputs: [goal]}}}}
  - {{id: arm, {program.format(inputs)}}}
""",
        working_dir="/lab",
        environ={},
    )
    roles = assign_roles(flow, {"goals/op/goal"})
    made = replay_dataflow(flow, roles, {}, lossless=lossless)
    again = parse(yaml.safe_dump(made), working_dir="/lab", environ={})
    assert [str(item.source) for item in again.node("arm").inputs] == ["goals/op/goal"] * 2


def test_a_replay_has_no_black_box() -> None:
    for written in (QOS, "black_box: {duration: 5s}" + QOS):
        flow = parse(written, working_dir="/lab", environ={})
        made = replay_dataflow(flow, assign_roles(flow, {"a/x"}), {})
        assert not parse(yaml.safe_dump(made), working_dir="/lab", environ={}).black_box.enabled


def test_the_budgets_of_paths_that_run_again_are_kept() -> None:
    paths = """
paths:
  - {from: camera/image, to: detector/image, budget: 5ms, on_miss: event}
  - {from: camera/image, to: arm/goal, budget: 40ms, after: 2}
"""
    flow = parse(FLOW.replace("    send_stdout_as: log\n", "") + paths, working_dir="/lab", environ={})

    def kept(*replaced: str) -> list[str]:
        made = replay_dataflow(flow, assign_roles(flow, ALL, list(replaced)), {})
        again = parse(yaml.safe_dump(made), working_dir="/lab", environ={})
        return [path.sink for path in again.paths]

    assert kept("camera") == ["detector/image", "arm/goal"]
    assert kept("camera", "planner") == ["detector/image"]
    assert kept("camera", "detector") == []


def test_a_replay_has_the_safe_states_that_are_possible_in_it() -> None:
    safe = "{safe_state: {value: [0, 0.5], metadata: {mode: hold}, when: [deadline, budget]}}"
    flow = parse(
        f"""
nodes:
  - {{id: camera, path: a.py, outputs: [{{image: {safe}}}]}}
  - id: planner
    path: b.py
    inputs: {{i: {{source: camera/image, deadline: 1s}}}}
    outputs: [{{x: {safe}}}]
  - {{id: motor, path: c.py, inputs: {{i: {{source: planner/x, deadline: 1s}}}}}}
paths:
  - {{from: camera/image, to: planner/i, budget: 1s, on_miss: safe_state}}
  - {{from: camera/image, to: motor/i, budget: 1s, on_miss: safe_state}}
""",
        working_dir="/lab",
        environ={},
    )
    roles = assign_roles(flow, {"camera/image"})
    assert (roles.replaced, roles.live) == (("camera",), ("planner", "motor"))
    again = parse(yaml.safe_dump(replay_dataflow(flow, roles, {})), working_dir="/lab", environ={})
    player = again.node("camera").output_rules["image"].safe_state
    assert player is not None
    assert (player.values, player.metadata) == ((0, 0.5), {"mode": "hold"})
    live = again.node("planner").output_rules["x"].safe_state
    assert live is not None
    assert live.when[-1] == "failed"
