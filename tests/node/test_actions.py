"""Goals, their feedback and results, over real links."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pyarrow as pa
import pytest
from fake_daemon import FakeDaemon, StartFlow
from flows import node
from waiting import TIMEOUT, wait_until

from dora import CallFailed, CallTimedOut, GoalRun, Input, Node, SendError, UndeclaredOutput
from dora.node.patterns.action import FEEDBACK_KEPT, GOALS_REMEMBERED, GoalServer
from dora.wire.node_protocol import InputsClosed, NodeRestartedFrame


def pair(start_flow: StartFlow) -> tuple[FakeDaemon, Node, Node]:
    daemon = start_flow(
        node(
            "client",
            inputs={"feedback": ("server/feedback", {"queue_size": 2000}), "result": "server/result"},
            outputs="goal cancel",
        ),
        node(
            "server", inputs={"goal": "client/goal", "cancel": "client/cancel"}, outputs="feedback result"
        ),
    )
    return daemon, daemon.node("client"), daemon.node("server")


class Serving:
    """A server in a thread."""

    def __init__(self, server: Node, function: Any) -> None:
        self.events: list[str] = []
        server.serve_goals("goal", result="result", feedback="feedback", cancel="cancel")(function)
        self.thread = threading.Thread(target=self._receive, args=(server,), daemon=True)
        self.thread.start()

    def _receive(self, server: Node) -> None:
        for event in server:
            self.events.append(event["type"])


def take(server: Node, input_id: str) -> Input:
    event = server.next(timeout=TIMEOUT)
    assert isinstance(event, Input)
    assert event["id"] == input_id
    return event


def values(events: list[Input]) -> list[int]:
    return [event["value"][0].as_py() for event in events]


def count_to(run: GoalRun) -> pa.Array:
    for step in range(run.value[0].as_py()):
        run.send_feedback(pa.array([step]))
    return pa.array([run.value[0].as_py()])


def until_canceled(run: GoalRun) -> None:
    run.send_feedback(pa.array([0]))
    while not run.wait_for_cancel(TIMEOUT):
        raise AssertionError("nobody canceled")
    run.cancel(pa.array([-1]))


def test_a_goal_has_feedback_and_a_result(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    Serving(server, count_to)
    goal = client.send_goal("goal", pa.array([3]), timeout=TIMEOUT)
    assert values(list(goal)) == [0, 1, 2]
    result = goal.result()
    assert (values([result]), goal.status, goal.error) == ([3], "succeeded", None)
    assert list(goal) == []


def test_the_result_may_be_awaited_before_the_feedback_is_looked_at(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    Serving(server, count_to)
    goal = client.send_goal("goal", pa.array([5]), timeout=TIMEOUT)
    goal.result()
    assert values(list(goal)) == [0, 1, 2, 3, 4]


def test_several_goals_at_once(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    Serving(server, count_to)
    goals = [client.send_goal("goal", pa.array([count]), timeout=TIMEOUT) for count in (4, 0, 2)]
    assert [values([goal.result()]) for goal in goals] == [[4], [0], [2]]
    assert [len(list(goal)) for goal in goals] == [4, 0, 2]


def test_a_goal_is_canceled(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    Serving(server, until_canceled)
    goal = client.send_goal("goal", pa.array([0]), timeout=TIMEOUT)
    assert values([next(goal)]) == [0]
    assert goal.status is None
    goal.cancel()
    assert values([goal.result()]) == [-1]
    assert goal.status == "canceled"
    goal.cancel()  # too late, and no harm


def answer_or_cancel(run: GoalRun) -> None:
    if run.cancel_requested:
        run.cancel()


def serve_here(server: Node) -> None:
    """Serve in this thread; a test looks at what comes."""
    server.serve_goals("goal", result="result", cancel="cancel")(answer_or_cancel)


def goal_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dora goal mine"]


def outcome(client: Node) -> tuple[str, str]:
    metadata = take(client, "result")["metadata"]
    return metadata["goal_id"], metadata["goal_status"]


def test_a_goal_whose_cancel_request_comes_first_is_canceled_from_its_beginning(
    start_flow: StartFlow,
) -> None:
    _, client, server = pair(start_flow)
    serve_here(server)
    for goal_id in ("mine", "mine again"):
        client.send_output("cancel", b"", {"goal_id": goal_id})
        assert server.try_recv() is None
        client.send_output("goal", b"", {"goal_id": goal_id})
        assert server.try_recv() is None
        assert outcome(client) == (goal_id, "canceled")
    client.send_output("goal", b"", {"goal_id": "mine"})
    assert server.try_recv() is None
    assert outcome(client) == ("mine", "succeeded"), "a request cancels one goal"


def test_a_cancel_request_that_comes_too_late_does_not_concern_the_next_goal_of_this_id(
    start_flow: StartFlow,
) -> None:
    _, client, server = pair(start_flow)
    serve_here(server)
    for _ in range(2):
        client.send_output("goal", b"", {"goal_id": "mine"})
        assert server.try_recv() is None
        assert outcome(client) == ("mine", "succeeded")
        wait_until(lambda: not goal_threads(), "the thread of the goal to end")
        client.send_output("cancel", b"", {"goal_id": "mine"})
        assert server.try_recv() is None


def test_of_requests_to_cancel_goals_that_do_not_come_the_newest_are_remembered(
    start_flow: StartFlow,
) -> None:
    _, client, server = pair(start_flow)
    serve_here(server)
    for number in range(GOALS_REMEMBERED + 1):
        client.send_output("cancel", b"", {"goal_id": str(number)})
        assert server.try_recv() is None
    for goal_id, status in (("0", "succeeded"), ("1", "canceled"), (str(GOALS_REMEMBERED), "canceled")):
        client.send_output("goal", b"", {"goal_id": goal_id})
        assert server.try_recv() is None
        assert outcome(client) == (goal_id, status)


def test_a_request_to_cancel_that_comes_again_is_remembered_as_a_new_one(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.node.patterns.action.GOALS_REMEMBERED", 2)
    _, client, server = pair(start_flow)
    serve_here(server)
    for goal_id in ("again", "once", "again", "newest"):
        client.send_output("cancel", b"", {"goal_id": goal_id})
        assert server.try_recv() is None
    for goal_id, status in (("once", "succeeded"), ("again", "canceled")):
        client.send_output("goal", b"", {"goal_id": goal_id})
        assert server.try_recv() is None
        assert outcome(client) == (goal_id, status)


def test_a_function_that_raises_aborts_its_goal(start_flow: StartFlow, capfd: Any) -> None:
    _, client, server = pair(start_flow)

    def explode(run: GoalRun) -> None:
        raise ValueError(f"no way to {run.value[0].as_py()}")

    Serving(server, explode)
    goal = client.send_goal("goal", pa.array([7]), timeout=TIMEOUT)
    goal.result()
    assert goal.status == "aborted"
    assert goal.error == "`explode` raised ValueError: no way to 7"
    assert "in explode" in capfd.readouterr().err


def test_an_error_whose_text_is_no_unicode_aborts_its_goal(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)

    def explode(run: GoalRun) -> None:  # noqa: ARG001
        raise FileNotFoundError("caf\udce9")

    Serving(server, explode)
    goal = client.send_goal("goal", pa.array([7]), timeout=TIMEOUT)
    goal.result()
    assert goal.error == "`explode` raised FileNotFoundError: caf?"


def test_a_function_that_exits_aborts_its_goal(start_flow: StartFlow, capfd: Any) -> None:
    _, client, server = pair(start_flow)

    def leave(run: GoalRun) -> None:
        sys.exit(f"no way to {run.value[0].as_py()}")

    Serving(server, leave)
    goal = client.send_goal("goal", pa.array([7]), timeout=TIMEOUT)
    goal.result()
    assert goal.status == "aborted"
    assert goal.error == "`leave` raised SystemExit: no way to 7"
    assert "in leave" in capfd.readouterr().err


def test_a_goal_whose_result_cannot_be_sent_is_aborted(start_flow: StartFlow, capfd: Any) -> None:
    _, client, server = pair(start_flow)

    def answer(run: GoalRun) -> object:  # noqa: ARG001
        return object()

    Serving(server, answer)
    goal = client.send_goal("goal", b"", timeout=TIMEOUT)
    goal.result()
    assert goal.status == "aborted"
    assert goal.error is not None
    assert "cannot send an object of type object" in goal.error
    assert "error: in `answer`: cannot send" in capfd.readouterr().err


def test_a_goal_for_which_the_system_has_no_thread_is_aborted(
    start_flow: StartFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, client, server = pair(start_flow)
    server.serve_goals("goal", result="result")(count_to)
    goal = client.send_goal("goal", pa.array([7]), timeout=TIMEOUT)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert server.try_recv() is None
    goal.result()
    assert (goal.status, goal.error) == ("aborted", "`count_to` cannot start: can't start new thread")
    daemon.stop("server")
    assert [event["type"] for event in server] == ["STOP"]


def test_a_goal_ends_once(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    raised: list[str] = []

    def twice(run: GoalRun) -> None:
        run.abort(pa.array([1]), {"reason": "blocked"})
        try:
            run.succeed()
        except SendError as error:
            raised.append(str(error))

    Serving(server, twice)
    goal = client.send_goal("goal", b"", timeout=TIMEOUT)
    assert goal.result()["metadata"]["reason"] == "blocked"
    assert goal.status == "aborted"
    wait_until(lambda: bool(raised), "the second end")
    assert "has ended already: aborted" in raised[0]


def test_a_server_that_only_knows_the_keys(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    goal = client.send_goal("goal", pa.array([1]), {"speed": 2}, timeout=TIMEOUT)
    event = take(server, "goal")
    goal_id = event["metadata"]["goal_id"]
    assert (goal_id, event["metadata"]["speed"]) == (goal.id, 2)
    goal.cancel()
    assert take(server, "cancel")["metadata"]["goal_id"] == goal_id
    server.send_output("feedback", pa.array([5]), {"goal_id": goal_id})
    server.send_output("result", pa.array([6]), {"goal_id": goal_id, "goal_status": "canceled"})
    server.send_output("result", pa.array([7]), {"goal_id": goal_id, "goal_status": "succeeded"})
    assert values([goal.result()]) == [6]
    assert values(list(goal)) == [5]
    assert goal.status == "canceled"
    assert client.drain() == []
    assert client.statistics()["replies"]["duplicates"] == 1


def test_a_client_that_only_knows_the_keys(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    Serving(server, until_canceled)
    client.send_output("goal", pa.array([1]), {"goal_id": "mine"})
    assert take(client, "feedback")["metadata"]["goal_id"] == "mine"
    client.send_output("cancel", b"", {"goal_id": "mine"})
    client.send_output("cancel", b"", {"goal_id": "of nobody"})
    result = take(client, "result")
    assert (result["metadata"]["goal_id"], result["metadata"]["goal_status"]) == ("mine", "canceled")


def test_a_goal_fails_with_its_server(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    goal = client.send_goal("goal", pa.array([1]))
    server.send_output("feedback", pa.array([5]), {"goal_id": goal.id})
    daemon.send("client", InputsClosed(["feedback", "result"]))
    assert values(list(goal)) == [5]
    with pytest.raises(CallFailed, match="the goal on `goal` has no answer: node `server` has ended"):
        goal.result()
    assert goal.status is None


def test_a_goal_is_not_lost_by_a_restart_of_its_server_that_came_before(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    Serving(server, count_to)
    daemon.send("client", NodeRestartedFrame("server"))
    goal = client.send_goal("goal", pa.array([2]), timeout=TIMEOUT)
    assert values([goal.result()]) == [2]


def test_a_goal_times_out_and_may_still_be_canceled(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    goal = client.send_goal("goal", pa.array([1]), timeout=0)
    with pytest.raises(CallTimedOut):
        goal.result()
    take(server, "goal")
    server.send_output("result", pa.array([1]), {"goal_id": goal.id, "goal_status": "succeeded"})
    assert client.next(timeout=0)["type"] == "ERROR"  # type: ignore[index]
    assert client.statistics()["replies"]["late"] == 1


def test_feedback_that_waits_on_another_input_is_there_with_the_result(start_flow: StartFlow) -> None:
    daemon = start_flow(
        node(
            "client",
            inputs={"result": "server/result", "other": "third/other", "feedback": "server/feedback"},
            outputs="goal",
        ),
        node("server", inputs={"goal": "client/goal"}, outputs="feedback result"),
        node("third", outputs="other"),
    )
    client, server, third = (daemon.node(name) for name in ("client", "server", "third"))
    goal = client.send_goal("goal", b"", timeout=TIMEOUT)
    for number in range(3):
        server.send_output("feedback", pa.array([number]), {"goal_id": goal.id})
    server.send_output("result", b"", {"goal_id": goal.id, "goal_status": "succeeded"})
    third.send_output("other", b"")
    assert take(client, "other")  # the input after that of the result, and before that of the feedback
    assert goal.status == "succeeded"
    assert values(list(goal)) == [0, 1, 2]


@pytest.mark.lengthy
def test_unread_feedback_is_bounded_and_counted(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    goal = client.send_goal("goal", pa.array([1]), timeout=TIMEOUT)
    take(server, "goal")
    for number in range(FEEDBACK_KEPT + 5):
        server.send_output("feedback", pa.array([number]), {"goal_id": goal.id})
    server.send_output("result", b"", {"goal_id": goal.id, "goal_status": "succeeded"})
    goal.result()
    assert goal.feedback_dropped == 5
    assert values(list(goal)) == list(range(5, FEEDBACK_KEPT + 5))


def test_an_output_for_canceling_has_to_be_declared(start_flow: StartFlow) -> None:
    _, client, _server = pair(start_flow)
    goal = client.send_goal("goal", b"", cancel="cancle")
    with pytest.raises(UndeclaredOutput, match="did you mean `cancel`"):
        goal.cancel()


def test_a_stop_asks_running_goals_to_end_and_waits_for_them(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    serving = Serving(server, until_canceled)
    goal = client.send_goal("goal", pa.array([0]), timeout=TIMEOUT)
    next(goal)
    daemon.stop("server")
    serving.thread.join(TIMEOUT)
    assert serving.events == ["STOP"]
    goal.result()
    assert goal.status == "canceled"


def test_a_goal_that_arrives_after_a_stop_is_canceled(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    goal = client.send_goal("goal", pa.array([0]), timeout=TIMEOUT)
    daemon.stop("server")
    serving = Serving(server, until_canceled)
    serving.thread.join(TIMEOUT)
    assert not serving.thread.is_alive()
    goal.result()
    assert goal.status == "canceled"


def test_feedback_and_result_are_awaited(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    Serving(server, count_to)

    async def main() -> tuple[list[int], list[int]]:
        goal = client.send_goal("goal", pa.array([3]), timeout=TIMEOUT)
        feedback = [event async for event in goal]
        return values(feedback), values([await goal])

    assert asyncio.run(main()) == ([0, 1, 2], [3])


def test_an_asyncio_loop_goes_on_while_the_end_waits_for_a_goal(start_flow: StartFlow) -> None:
    daemon, client, server = pair(start_flow)
    answers: list[int] = []

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()

        async def compute() -> int:
            return 5

        @server.serve_goals("goal", result="result", cancel="cancel")
        def ask_the_loop(run: GoalRun) -> None:
            assert run.wait_for_cancel(TIMEOUT)
            assert server_ended.wait(TIMEOUT)
            answers.append(asyncio.run_coroutine_threadsafe(compute(), loop).result(TIMEOUT))

        return [event["type"] async for event in server]

    server_ended = threading.Event()
    at_end = GoalServer.wait

    def wait(goals: GoalServer) -> None:
        server_ended.set()
        at_end(goals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GoalServer, "wait", wait)
        goal = client.send_goal("goal", b"", timeout=TIMEOUT)
        daemon.stop("server")
        assert asyncio.run(main()) == ["STOP"]
    assert answers == [5]
    goal.result()
    assert goal.status == "succeeded"


def test_feedback_needs_an_output(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)

    @server.serve_goals("goal", result="result")
    def work(run: GoalRun) -> None:
        run.send_feedback(b"")

    threading.Thread(target=lambda: list(server), daemon=True).start()
    goal = client.send_goal("goal", b"", timeout=TIMEOUT)
    goal.result()
    assert "this action has no feedback" in (goal.error or "")


def test_closing_a_node_cancels_its_goals(start_flow: StartFlow) -> None:
    _, client, server = pair(start_flow)
    ended = threading.Event()

    def work(run: GoalRun) -> None:
        run.send_feedback(b"begun")
        assert run.wait_for_cancel(TIMEOUT)
        ended.set()

    server.serve_goals("goal", result="result", feedback="feedback")(work)
    goal = client.send_goal("goal", b"", timeout=TIMEOUT)
    assert server.next(timeout=0) is not None  # takes the goal in
    next(goal)
    server.close()
    assert ended.wait(TIMEOUT)
