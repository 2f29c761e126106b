"""Actions of the Python interface, over the engines that have services."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from waiting import TIMEOUT, wait_until

from dora import (
    CallFailed,
    CallTimedOut,
    Ros2ActionClient,
    Ros2ActionServer,
    Ros2Durability,
    Ros2NodeOptions,
    Ros2QosPolicies,
    TransportError,
)
from dora.ros2 import ValueMismatch

if TYPE_CHECKING:
    from conftest import Robot

OPTIONS = Ros2NodeOptions()
RELIABLE = Ros2QosPolicies(reliable=True, keep_last=10)
LATCHED = Ros2QosPolicies(reliable=True, durability=Ros2Durability.TransientLocal)


def pair(robot: Robot) -> tuple[Ros2ActionClient, Ros2ActionServer]:
    server_node = robot.context().new_node("server", "/", OPTIONS)
    server = server_node.create_action_server("/fibonacci", robot.fibonacci, RELIABLE)
    client_node = robot.context().new_node("client", "/", OPTIONS)
    return client_node.create_action_client("/fibonacci", robot.fibonacci, RELIABLE), server


def test_a_goal_gets_feedback_and_its_result(serving_robot: Robot) -> None:
    client, server = pair(serving_robot)
    goal_id = client.send_goal({"order": 4}, TIMEOUT)
    taken = server.take_goal(TIMEOUT)
    assert goal_id is not None
    assert taken is not None
    assert (taken[0], taken[1].to_pylist()) == (goal_id, [{"order": 4}])
    for length in (1, 2):
        server.send_feedback(goal_id, {"sequence": [0, 1][:length]})
        feedback = client.take_feedback(goal_id, TIMEOUT)
        assert feedback is not None
        assert feedback.to_pylist() == [{"sequence": [0, 1][:length]}]
    assert client.take_result(goal_id, 0.01) is None
    server.send_result(goal_id, [{"sequence": [0, 1, 1, 2]}])
    found = client.take_result(goal_id, TIMEOUT)
    assert found is not None
    assert (found[0], found[1].to_pylist()) == ("succeeded", [{"sequence": [0, 1, 1, 2]}])
    with pytest.raises(TransportError, match=f"there is no open goal {goal_id}"):
        server.send_feedback(goal_id, {})
    assert server.take_goal(0) is None


def test_a_goal_can_be_canceled_and_others_go_on(serving_robot: Robot) -> None:
    client, server = pair(serving_robot)
    first, second = (client.send_goal({"order": order}, TIMEOUT) for order in (1, 2))
    assert first is not None
    assert second is not None
    assert {taken[0] for _ in range(2) if (taken := server.take_goal(TIMEOUT))} == {first, second}
    assert client.cancel(first, TIMEOUT) == 0
    assert server.take_cancel(TIMEOUT) == [first]
    server.send_result(first, {}, "canceled")
    server.send_result(second, {}, "failed")
    ended = [client.take_result(goal_id, TIMEOUT) for goal_id in (first, second)]
    assert [found[0] for found in ended if found is not None] == ["canceled", "aborted"]
    assert client.cancel(first, TIMEOUT) == 3  # it has ended
    assert client.cancel("12345678-1234-5678-1234-567812345678", TIMEOUT) == 2  # not known
    assert client.cancel(None, TIMEOUT) == 0
    assert server.take_cancel(0) is None


def test_a_result_that_came_before_the_question_is_kept(serving_robot: Robot) -> None:
    client, server = pair(serving_robot)
    goal_id = client.send_goal({}, TIMEOUT)
    assert goal_id is not None
    server.send_result(goal_id, {"sequence": [7]})
    found = client.take_result(goal_id, TIMEOUT)
    assert found is not None
    assert found[1].to_pylist() == [{"sequence": [7]}]


def test_a_server_that_is_about_to_end_waits_until_a_client_has_the_result(serving_robot: Robot) -> None:
    client, server = pair(serving_robot)
    goal_id = client.send_goal({}, TIMEOUT)
    assert goal_id is not None
    sending = threading.Thread(target=server.send_result, args=(goal_id, {"sequence": [7]}, None, TIMEOUT))
    sending.start()
    node = serving_robot.context().new_node("watcher", "/", OPTIONS)
    topic = node.create_topic("/fibonacci/_action/status", "action_msgs/GoalStatusArray", LATCHED)
    states = node.create_subscription(topic)
    while (message := states.next(TIMEOUT)) is not None:
        if [item["status"] for item in message[0].as_py()["status_list"]] == [4]:
            break
    assert message is not None, "the goal has succeeded"
    assert sending.is_alive(), "nobody has asked for the result"
    found = client.take_result(goal_id, TIMEOUT)
    assert found is not None
    sending.join(TIMEOUT)
    assert not sending.is_alive()
    server.close()


def test_the_states_of_goals_are_published_for_nodes_that_come_later(serving_robot: Robot) -> None:
    client, server = pair(serving_robot)
    goal_id = client.send_goal({}, TIMEOUT)
    assert goal_id is not None
    server.take_goal(TIMEOUT)
    node = serving_robot.context().new_node("watcher", "/", OPTIONS)
    topic = node.create_topic("/fibonacci/_action/status", "action_msgs/GoalStatusArray", LATCHED)
    message = node.create_subscription(topic).next(TIMEOUT)
    assert message is not None
    assert [item["status"] for item in message[0].as_py()["status_list"]] == [2]


def test_a_goal_that_does_not_fit_or_finds_no_server_is_an_error(serving_robot: Robot) -> None:
    node = serving_robot.context().new_node("client", "/", OPTIONS)
    client = node.create_action_client("/fibonacci", serving_robot.fibonacci, RELIABLE)
    with pytest.raises(ValueMismatch, match=r"field 'order' of .*/action/Fibonacci_Goal"):
        client.send_goal({"order": "many"})
    with pytest.raises(CallTimedOut):
        client.send_goal({"order": 1}, 0.1)


def test_feedback_of_several_goals_reaches_the_threads_that_wait_for_it(serving_robot: Robot) -> None:
    client, server = pair(serving_robot)
    goals = [client.send_goal({"order": order}, TIMEOUT) for order in range(4)]
    found: dict[str, Any] = {}

    def wait(goal_id: str) -> None:
        feedback = client.take_feedback(goal_id, TIMEOUT)
        found[goal_id] = None if feedback is None else feedback.to_pylist()

    threads = [threading.Thread(target=wait, args=(goal_id,)) for goal_id in goals]
    for thread in threads:
        thread.start()
    for index, goal_id in reversed(list(enumerate(goals))):
        assert goal_id is not None
        server.send_feedback(goal_id, {"sequence": [index]})
    for thread in threads:
        thread.join(TIMEOUT)
    assert [found[str(goal_id)] for goal_id in goals] == [[{"sequence": [index]}] for index in range(4)]


def test_a_client_that_is_closed_wakes_who_waits_for_feedback(serving_robot: Robot) -> None:
    client, _ = pair(serving_robot)
    goal_id = client.send_goal({"order": 4}, TIMEOUT)
    assert goal_id is not None
    found: list[Any] = []
    waiting = threading.Thread(
        target=lambda: found.append(client.take_feedback(goal_id, 10 * TIMEOUT)), daemon=True
    )
    waiting.start()
    client.close()
    waiting.join(TIMEOUT)
    assert found == [None]


def test_nothing_is_kept_of_a_goal_whose_result_has_failed(serving_robot: Robot) -> None:
    client, _ = pair(serving_robot)
    goal_id = client.send_goal({"order": 4}, TIMEOUT)
    assert goal_id is not None
    assert client.take_result(goal_id, 0.01) is None
    client._results.close()
    with pytest.raises(CallFailed):
        client.take_result(goal_id, TIMEOUT)
    assert (client._asked, client._feedback) == ({}, {})
    goal_id = client.send_goal({"order": 4}, TIMEOUT)
    assert goal_id is not None
    with pytest.raises(TransportError, match="is closed"):
        client.request_result(goal_id)
    assert (client._asked, client._feedback) == ({}, {})


@pytest.mark.slow
def test_feedback_that_nobody_takes_is_dropped_with_a_warning(
    serving_robot: Robot, caplog: pytest.LogCaptureFixture
) -> None:
    client, server = pair(serving_robot)
    goal_id = client.send_goal({"order": 1}, TIMEOUT)
    assert goal_id is not None
    said = "the action of /fibonacci has dropped a message: 100 of its goal wait to be taken"

    def dropped() -> bool:
        server.send_feedback(goal_id, {"sequence": [1]})
        return said in caplog.text

    wait_until(dropped, "the warning")


def test_a_closed_context_leaves_no_thread_and_wakes_who_waits_for_a_goal(serving_robot: Robot) -> None:
    before = set(threading.enumerate())
    context = serving_robot.context()
    node = context.new_node("server", "/", OPTIONS, {"speed": 1.0})
    server = node.create_action_server("/fibonacci", serving_robot.fibonacci, RELIABLE)
    node.create_action_client("/fibonacci", serving_robot.fibonacci, RELIABLE)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(server.take_goal(10 * TIMEOUT)))
    waiting.start()
    context.close()
    waiting.join(TIMEOUT)
    assert found == [None]

    def left() -> list[str]:
        return [
            one.name for one in set(threading.enumerate()) - before if one.name.startswith("dora-ros2-")
        ]

    wait_until(lambda: not left(), lambda: f"the end of {left()}")
