"""Servers whose clients go, parameters, logs, the watch over endpoints that come and go. Without ROS."""

from __future__ import annotations

import gc
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import TIMEOUT, wait_until

from dora import (
    CallFailed,
    Ros2ActionClient,
    Ros2ActionServer,
    Ros2Context,
    Ros2NodeOptions,
    Ros2QosPolicies,
    Ros2ServiceServer,
    Ros2Subscription,
    Ros2Transport,
    TransportError,
)
from dora.errors import ConnectError
from dora.ros2 import InterfaceLibrary
from dora.ros2.api import actions, reports, services, topics
from dora.ros2.api.answers import AnswerThread
from dora.ros2.api.parameters import ParameterError, RosParameters
from dora.ros2.api.reports import DroppedMessages, MismatchWatch, RosoutHandler, node_logger
from dora.ros2.engine import RequestId, ServiceRequest
from dora.ros2.graph import UNKNOWN_NODE, Endpoint, Kind, NodeName, RosGraph
from dora.ros2.message_queue import MessageCounters, MessageQueue
from dora.ros2.qos import INFINITE_NS, SERVICES

LIBRARY = InterfaceLibrary(prefixes=[], distribution="kilted")
FIBONACCI = LIBRARY.action("example_interfaces/Fibonacci")


class EngineServer:
    """A server of the engine. Clients whose names begin with "gone" get no responses."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.counters = MessageCounters()
        self.answered: list[bytes] = []
        self.responses: list[bytes] = []
        self.forgotten: list[bytes] = []
        self._queue: MessageQueue[ServiceRequest] = MessageQueue(None, self.counters)
        self._numbers = count(1)
        self.take_request = self._queue.take
        self.set_on_request = self._queue.set_on_arrival
        self.close = self._queue.close

    def ask(self, client: bytes, data: bytes) -> None:
        self._queue.put(ServiceRequest(RequestId(client, next(self._numbers)), data))

    def send_response(self, request: RequestId, data: bytes) -> None:
        if request.client_gid.startswith(b"gone"):
            raise TransportError("this client has gone")
        self.responses.append(data)
        self.answered.append(request.client_gid)

    def forget(self, request: RequestId) -> None:
        self.forgotten.append(request.client_gid)


class EngineNode:
    """A node of the engine."""

    name, namespace = "robot", "/"

    def __init__(self) -> None:
        self.servers: dict[str, EngineServer] = {}
        self.published: dict[str, list[bytes]] = {}

    def create_publisher(self, name: str, *_: Any) -> Any:
        messages = self.published.setdefault(name.rpartition("/")[2], [])
        return SimpleNamespace(publish=messages.append, close=lambda: None)

    def create_server(self, name: str, *_: Any) -> EngineServer:
        return self.servers.setdefault(name.rpartition("/")[2], EngineServer(name))


@pytest.fixture(name="warnings")
def _warnings() -> list[str]:
    return []


def test_a_client_that_has_gone_costs_no_other_one_its_answer(warnings: list[str]) -> None:
    node: Any = EngineNode()
    dropped = DroppedMessages("the action of /fibonacci", warnings.append)
    actions = Ros2ActionServer(node, "/fibonacci", FIBONACCI, SERVICES, LIBRARY, dropped, time.time_ns)
    goals, results = node.servers["send_goal"], node.servers["get_result"]
    for client in (b"gone", b"here"):
        goals.ask(client, FIBONACCI.send_goal.request.encode({"goal_id": {"uuid": uuid.uuid4().bytes}}))
    wait_until(lambda: goals.answered == [b"here"], "the answer")
    assert warnings == ["the action of /fibonacci has dropped a message: this client has gone"]
    taken = actions.take_goal(TIMEOUT)
    assert taken is not None
    for client in (b"gone", b"here"):
        data = FIBONACCI.get_result.request.encode({"goal_id": {"uuid": uuid.UUID(taken[0]).bytes}})
        results.ask(client, data)
    wait_until(lambda: len(actions._goals[taken[0]].waiting) == 2, "the questions for the result")
    actions.send_result(taken[0], {"sequence": [1]})
    assert results.answered == [b"here"]
    actions.close()


class FibonacciServer:
    """A server of an action, and what its clients ask. The time of its node is the number of seconds."""

    def __init__(self, warnings: list[str]) -> None:
        self.now = 1
        node: Any = EngineNode()
        dropped = DroppedMessages("the action of /fibonacci", warnings.append)
        self.actions = Ros2ActionServer(
            node, "/fibonacci", FIBONACCI, SERVICES, LIBRARY, dropped, lambda: self.now * 1_000_000_000
        )
        self._servers = node.servers
        self._status = node.published["status"]

    def ask(self, service: str, type: Any, request: dict[str, Any]) -> Any:
        """Return the response to a request."""
        server = self._servers[service]
        before = len(server.responses)
        server.ask(b"client", type.request.encode(request))
        wait_until(lambda: len(server.responses) > before, "the response")
        return type.response.decode(server.responses[-1])[0].as_py()

    def goal(self, goal_id: uuid.UUID) -> bool:
        """Send a goal; return whether it is accepted."""
        request = {"goal_id": {"uuid": goal_id.bytes}}
        return bool(self.ask("send_goal", FIBONACCI.send_goal, request)["accepted"])

    def result(self, goal_id: uuid.UUID) -> int:
        """Return the status of a goal that has ended."""
        request = {"goal_id": {"uuid": goal_id.bytes}}
        return int(self.ask("get_result", FIBONACCI.get_result, request)["status"])

    def cancel(self, goal_id: bytes = bytes(16), until: int = 0) -> tuple[int, list[uuid.UUID]]:
        """Return the answer to a request to cancel, and the goals in it."""
        info = {"goal_id": {"uuid": goal_id}, "stamp": {"sec": until}}
        found = self.ask("cancel_goal", LIBRARY.service("action_msgs/CancelGoal"), {"goal_info": info})
        ids = [uuid.UUID(bytes=bytes(item["goal_id"]["uuid"])) for item in found["goals_canceling"]]
        return found["return_code"], ids

    def states(self) -> list[int]:
        """Return the states of the goals, as they were published last."""
        found: Any = LIBRARY.message("action_msgs/GoalStatusArray").decode(self._status[-1])
        return [item["status"] for item in found[0].as_py()["status_list"]]


@pytest.fixture(name="fibonacci")
def _fibonacci(warnings: list[str]) -> Iterator[FibonacciServer]:
    found = FibonacciServer(warnings)
    yield found
    found.actions.close()


def test_each_change_of_a_goal_is_published_and_goals_and_cancellations_ring(
    fibonacci: FibonacciServer,
) -> None:
    rings: list[int] = []
    fibonacci.actions.set_on_goal(lambda: rings.append(1))
    goal_id = uuid.uuid4()
    assert fibonacci.goal(goal_id)
    assert (fibonacci.states(), len(rings)) == ([1], 1)
    assert fibonacci.actions.take_goal(TIMEOUT) is not None
    assert fibonacci.states() == [2]
    fibonacci.cancel(goal_id.bytes)
    assert (fibonacci.states(), len(rings)) == ([3], 2)
    fibonacci.actions.send_result(str(goal_id), {}, "canceled")
    assert fibonacci.states() == [5]


def test_a_goal_that_comes_twice_is_accepted_once(fibonacci: FibonacciServer) -> None:
    goal_id = uuid.uuid4()
    assert fibonacci.goal(goal_id)
    assert not fibonacci.goal(goal_id)
    assert fibonacci.actions.take_goal(TIMEOUT) is not None
    assert fibonacci.actions.take_goal(0) is None


def test_goals_are_canceled_by_their_id_their_time_or_all(fibonacci: FibonacciServer) -> None:
    goals = [uuid.uuid4() for _ in range(4)]
    for fibonacci.now, goal_id in enumerate(goals, start=1):
        assert fibonacci.goal(goal_id)
    assert fibonacci.cancel(until=2) == (0, goals[:2])
    assert fibonacci.cancel(until=2) == (0, [])  # they are canceled already
    assert fibonacci.cancel(goals[3].bytes) == (0, [goals[3]])
    assert fibonacci.cancel() == (0, [goals[2]])
    assert fibonacci.actions.take_cancel(0) == [str(goals[place]) for place in (0, 1, 3, 2)]
    assert fibonacci.cancel(uuid.uuid4().bytes) == (2, [])


def test_a_goal_that_is_canceled_before_it_is_taken_stays_canceled(fibonacci: FibonacciServer) -> None:
    goal_id = uuid.uuid4()
    assert fibonacci.goal(goal_id)
    assert fibonacci.cancel(goal_id.bytes) == (0, [goal_id])
    assert fibonacci.actions.take_goal(TIMEOUT) is not None
    assert fibonacci.cancel(goal_id.bytes) == (3, [])


@pytest.mark.parametrize("what", ["take_goal", "take_cancel"])
def test_an_end_wakes_who_waits_for_a_goal_or_a_cancellation(fibonacci: FibonacciServer, what: str) -> None:
    found: list[object] = []
    take = getattr(fibonacci.actions, what)
    waiting = threading.Thread(target=lambda: found.append(take(10 * TIMEOUT)), daemon=True)
    waiting.start()
    fibonacci.actions.close()
    waiting.join(TIMEOUT)
    assert found == [None]


def test_the_results_of_the_last_goals_are_kept_and_open_goals_too(
    fibonacci: FibonacciServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "_MAX_KEPT", 2)
    opened, *ended = [uuid.uuid4() for _ in range(5)]
    assert fibonacci.goal(opened)
    for goal_id in ended:
        assert fibonacci.goal(goal_id)
        fibonacci.actions.send_result(str(goal_id), {})
    assert fibonacci.result(ended[0]) == 0  # not known any more
    assert [fibonacci.result(goal_id) for goal_id in ended[-2:]] == [4, 4]
    fibonacci.actions.send_result(str(opened), {}, "aborted")
    assert fibonacci.result(opened) == 6


class FarServer:
    """The node of a client, whose server of an action answers as a test says."""

    def __init__(self) -> None:
        self.accepts = True
        self.interrupts = ""  # what Ctrl-C ends
        self.closed: list[str] = []  # what the client has left
        self.results: list[Future[bytes]] = []
        self.graph = SimpleNamespace(wait_for=lambda condition, timeout: self._reach("wait"))  # noqa: ARG005

    def _reach(self, what: str) -> None:
        if what == self.interrupts:
            raise KeyboardInterrupt

    def create_subscription(self, topic: str, *_: Any) -> Any:
        return SimpleNamespace(topic=topic, take=lambda timeout: None, close=lambda: None)  # noqa: ARG005

    def create_client(self, name: str, *_: Any) -> Any:
        return SimpleNamespace(
            call=self._call, send_request=self._send_request, close=lambda: self.closed.append(name)
        )

    def _call(self, data: bytes, timeout: float) -> bytes:  # noqa: ARG002
        self._reach("call")
        return FIBONACCI.send_goal.response.encode({"accepted": self.accepts})

    def _send_request(self, data: bytes) -> Future[bytes]:  # noqa: ARG002
        self.results.append(Future())
        return self.results[-1]


def client_of(server: FarServer) -> Ros2ActionClient:
    node: Any = server
    dropped = DroppedMessages("the action of /fibonacci", lambda _: None)
    return Ros2ActionClient(node, "/fibonacci", FIBONACCI, SERVICES, LIBRARY, dropped)


def test_nothing_is_kept_of_a_goal_that_is_refused() -> None:
    server = FarServer()
    server.accepts = False
    client = client_of(server)
    assert client.send_goal({"order": 1}) is None
    assert client._feedback == {}


@pytest.mark.parametrize("what", ["wait", "call"])
def test_nothing_is_kept_of_a_goal_that_ctrl_c_ends(what: str) -> None:
    server = FarServer()
    server.interrupts = what
    client = client_of(server)
    with pytest.raises(KeyboardInterrupt):
        client.send_goal({"order": 1})
    assert client._feedback == {}


def test_a_goal_whose_result_has_come_is_not_given_up() -> None:
    server = FarServer()
    client = client_of(server)
    done, open_ = (client.send_goal({"order": 1}) for _ in range(2))
    assert done is not None and open_ is not None
    client.request_result(done)
    assert client.request_result(open_) is client.request_result(open_)
    server.results[0].set_result(FIBONACCI.get_result.response.encode({"status": 4}))
    assert not client.give_up(done)
    assert client.give_up(open_)
    assert server.results[1].cancelled()
    assert list(client._feedback) == list(client._asked) == [done]
    found = client.take_result(done, 0)
    assert found is not None and found[0] == "succeeded"
    assert client._feedback == client._asked == {}


def test_a_result_that_cannot_be_read_is_an_error_and_nothing_is_kept_of_its_goal() -> None:
    server = FarServer()
    client = client_of(server)
    goal_id = client.send_goal({"order": 1})
    assert goal_id is not None
    client.request_result(goal_id).set_result(b"odd")
    with pytest.raises(CallFailed, match="the result of a goal cannot be read"):
        client.take_result(goal_id, 0)
    assert client._feedback == client._asked == {}


class TalkingServer(FarServer):
    """One that also sends feedback."""

    def __init__(self) -> None:
        super().__init__()
        self.counters = MessageCounters()
        self.feedback: MessageQueue[bytes] = MessageQueue(None, self.counters)

    def create_subscription(self, topic: str, *_: Any) -> Any:
        def close() -> None:
            self.closed.append(topic)
            self.feedback.close()

        return SimpleNamespace(topic=topic, take=self.feedback.take, counters=self.counters, close=close)


def test_feedback_that_cannot_be_read_is_counted_and_the_next_one_arrives() -> None:
    server = TalkingServer()
    client = client_of(server)
    goal_id = client.send_goal({"order": 1})
    assert goal_id is not None
    good = {"goal_id": {"uuid": uuid.UUID(goal_id).bytes}, "feedback": {"sequence": [1]}}
    for data in (b"odd", FIBONACCI.feedback_message.encode(good)):
        server.feedback.put(data)
    found = client.take_feedback(goal_id, TIMEOUT)
    assert found is not None
    assert found.to_pylist() == [{"sequence": [1]}]
    assert server.counters.malformed == 1
    client.close()
    parts = ("send_goal", "get_result", "cancel_goal", "feedback")
    assert server.closed == [f"/fibonacci/_action/{part}" for part in parts]


def test_a_request_that_cannot_be_read_does_not_end_the_wait_for_the_next(warnings: list[str]) -> None:
    engine: Any = EngineServer("/lamp")
    type = LIBRARY.service("std_srvs/SetBool")
    server = Ros2ServiceServer(engine, type, DroppedMessages("the server of /lamp", warnings.append))
    taken: list[Any] = []
    waiting = threading.Thread(target=lambda: taken.append(server.take_request(TIMEOUT)))
    waiting.start()
    engine.ask(b"odd", b"no message")
    wait_until(lambda: warnings, "the warning")
    engine.ask(b"here", type.request.encode({"data": True}))
    waiting.join(TIMEOUT)
    assert [value.to_pylist() for _, value in taken] == [[{"data": True}]]
    assert engine.forgotten == [b"odd"]
    engine.close()


def test_bytes_that_are_no_part_of_the_graph_are_told_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    context = Ros2Context()
    engine: Any = SimpleNamespace(malformed=3, close=lambda: None)
    watch: Any = SimpleNamespace(close=lambda: None)
    context._open.append((engine, watch))
    context.close()
    assert caplog.messages == ["3 times, what came about the ROS graph could not be read"]


def test_a_context_keeps_no_node_that_is_closed() -> None:
    context = Ros2Context()
    engine: Any = SimpleNamespace(
        engine="zenoh",
        has_services=False,
        malformed=0,
        create_node=lambda *_: SimpleNamespace(close=lambda: None),
        close=lambda: None,
    )
    watch: Any = SimpleNamespace(close=lambda: None)
    context._open.append((engine, watch))
    node = context.new_node("robot", "/", Ros2NodeOptions())
    assert context._nodes == {node}
    node.close()
    assert context._nodes == set()
    context.close()


class Engines:
    """The contexts of engines that a context of the Python interface opens. The first has no services."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[Any] = []
        self.told: list[object] = []  # the callbacks for the end of an engine
        monkeypatch.setattr("dora.ros2.choose.choose", lambda *_, **__: None)
        monkeypatch.setattr(Ros2Transport, "open", lambda *_: self._open())

    def _open(self) -> Any:
        engine = SimpleNamespace(
            graph=RosGraph(),
            malformed=0,
            has_services=bool(self.opened),
            set_on_failure=self.told.append,
            close=lambda: None,
        )
        self.opened.append(engine)
        return engine


def test_the_end_of_an_engine_is_told_also_if_it_was_opened_before(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = Engines(monkeypatch)
    first, second = list[object](), list[object]()
    with Ros2Context() as context:
        context.set_on_failure(first.append)
        context.engine(services=False)
        context.set_on_failure(second.append)
    assert engines.told == [first.append, second.append]


def test_an_engine_with_services_is_opened_once_and_none_after_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engines = Engines(monkeypatch)
    with Ros2Context() as context:
        found = [context.engine(services=services)[0] for services in (False, True, False, True)]
    assert len(engines.opened) == 2
    assert [engines.opened.index(engine) for engine in found] == [0, 1, 0, 1]
    with pytest.raises(ConnectError, match="the ROS context is closed"):
        context.engine(services=False)


def test_parameters_are_served_after_a_client_has_gone(warnings: list[str]) -> None:
    node: Any = EngineNode()
    parameters = RosParameters({"speed": 1.0})
    parameters.serve(node, LIBRARY, time.time_ns, DroppedMessages("node /robot", warnings.append))
    server = node.servers["get_parameters"]
    asked = LIBRARY.service("rcl_interfaces/GetParameters").request.encode({"names": ["speed"]})
    server.ask(b"gone", asked)
    server.ask(b"odd", b"no message")
    server.ask(b"here", asked)
    wait_until(lambda: server.answered == [b"here"], "the answer")
    assert server.counters.malformed == 1
    assert server.forgotten == [b"odd"]
    assert warnings == ["node /robot has dropped a message: this client has gone"]
    parameters.close()


def test_requests_that_come_before_the_thread_are_answered(warnings: list[str]) -> None:
    node: Any = EngineNode()
    type = LIBRARY.service("std_srvs/SetBool")
    early = node.create_server("/lamp")
    for client in (b"first", b"second"):
        early.ask(client, type.request.encode({"data": True}))
    answers = AnswerThread(node, SERVICES, DroppedMessages("the server of /lamp", warnings.append))
    answers.serve("/lamp", type, lambda request, asked: {"success": True})  # noqa: ARG005
    answers.start("answers")
    wait_until(lambda: early.answered == [b"first", b"second"], "the answers")
    answers.close()


def test_requests_that_wait_at_the_end_get_no_response(warnings: list[str]) -> None:
    node: Any = EngineNode()
    type = LIBRARY.service("std_srvs/SetBool")
    answers = AnswerThread(node, SERVICES, DroppedMessages("the server of /lamp", warnings.append))
    server: Any = answers.serve("/lamp", type, lambda request, asked: {"success": True})  # noqa: ARG005
    server.ask(b"late", type.request.encode({"data": True}))
    answers.close()
    answers._run()
    assert (server.answered, warnings) == ([], [])


class Clock:
    """The time, which passes while somebody waits for a message, and brings one that cannot be read."""

    service = topic = "/odd"

    def __init__(self) -> None:
        self.now = 100.0
        self.counters = MessageCounters()
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def take(self, left: float) -> bytes | None:
        if left <= 0 or len(self.waits) == 9:
            return None
        self.waits.append(left)
        self.now += 0.25
        return b"no message"

    def take_request(self, left: float) -> ServiceRequest | None:
        data = self.take(left)
        return None if data is None else ServiceRequest(RequestId(b"odd", 1), data)

    def forget(self, request: RequestId) -> None:
        pass


@pytest.mark.parametrize("kind", ["requests", "messages"])
def test_what_cannot_be_read_makes_no_wait_longer(
    kind: str, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock: Any = Clock()
    dropped = DroppedMessages("the topic", warnings.append)
    for module in (services, topics):
        monkeypatch.setattr(module, "time", clock)
    if kind == "requests":
        server = Ros2ServiceServer(clock, LIBRARY.service("std_srvs/SetBool"), dropped)
        assert server.take_request(0.75) is None
    else:
        subscription = Ros2Subscription(clock, LIBRARY.message("std_msgs/String"), dropped)
        assert subscription.next(0.75) is None
    assert clock.waits == [0.75, 0.5, 0.25]
    assert clock.counters.malformed == 3


def test_dropped_messages_are_told_once_a_second_and_once_each(
    warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, counts = Clock(), list[int]()
    monkeypatch.setattr(reports, "time", clock)
    dropped = DroppedMessages("the topic", warnings.append, counts.append)
    for passed in (0.0, 0.5, 0.25, 0.25, 1.0):
        clock.now += passed
        dropped.add("odd")
    assert warnings == [
        "the topic has dropped a message: odd",
        "the topic has dropped 3 messages, the last one: odd",
        "the topic has dropped a message: odd",
    ]
    assert counts == [1] * 5


def test_an_answer_that_raises_costs_no_other_client_its_answer(
    warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    node: Any = EngineNode()
    type = LIBRARY.service("std_srvs/SetBool")

    def answer(request: RequestId, asked: Any) -> dict[str, Any]:  # noqa: ARG001
        if request.client_gid == b"unlucky":
            raise ZeroDivisionError("a bug")
        return {"success": True, "message": 5 if request.client_gid == b"odd" else ""}

    answers = AnswerThread(node, SERVICES, DroppedMessages("the server of /lamp", warnings.append))
    server: Any = answers.serve("/lamp", type, answer)
    answers.start("answers")
    for client in (b"unlucky", b"odd", b"here"):
        server.ask(client, type.request.encode({"data": True}))
    wait_until(lambda: server.answered == [b"here"], "the answer")
    assert server.forgotten == [b"unlucky", b"odd"]
    assert warnings == ["the server of /lamp has dropped a message: a bug"]
    assert caplog.messages == ["a request of /lamp cannot be answered"] * 2
    answers.close()


def test_a_text_that_ros_cannot_send_does_not_end_a_change_of_parameters(warnings: list[str]) -> None:
    node: Any = EngineNode()
    parameters = RosParameters({"name": "arm"})
    parameters.serve(node, LIBRARY, time.time_ns, DroppedMessages("node /robot", warnings.append))
    parameters.set("name", "\ud800")
    assert "half of a surrogate pair" in warnings[0]
    parameters.set("name", "leg")
    assert parameters.get("name") == "leg"
    parameters.close()


def test_a_clock_that_cannot_be_followed_refuses_the_whole_change_before_the_dataflow_hears_of_it() -> None:
    parameters = RosParameters({"gain": 1})
    told: list[dict[str, Any]] = []

    def follow(simulated: bool) -> None:
        if simulated:
            raise TransportError("there is no /clock")

    parameters.follow(follow)
    parameters.on_set = lambda values: told.append(dict(values))
    with pytest.raises(ParameterError, match="`use_sim_time` cannot be set: there is no /clock"):
        parameters.set_all({"gain": 2, "use_sim_time": True})
    assert (told, parameters.get("gain"), parameters.get("use_sim_time")) == ([], 1, False)


def test_a_change_that_the_dataflow_refuses_leaves_the_clock_as_it_was() -> None:
    parameters = RosParameters({"gain": 1})
    followed: list[bool] = []

    def refuse(_: Any) -> None:
        raise ParameterError("the dataflow has ended")

    parameters.follow(followed.append)
    parameters.on_set = refuse
    with pytest.raises(ParameterError, match="the dataflow has ended"):
        parameters.set_all({"gain": 2, "use_sim_time": True})
    assert (followed[-1], parameters.get("gain"), parameters.get("use_sim_time")) == (False, 1, False)


def test_a_change_of_the_dataflow_during_one_of_ros_comes_after_it() -> None:
    parameters = RosParameters({"gain": 1})
    later = threading.Thread(target=lambda: parameters.take_over({"gain": 7}))

    def on_set(_: Any) -> None:
        later.start()
        later.join(0.1)  # it is not over before the change of ROS is

    parameters.on_set = on_set
    parameters.set("gain", 2)
    later.join(TIMEOUT)
    assert parameters.get("gain") == 7


@pytest.mark.parametrize("message", [("half a letter: \ud800",), ("not %d", "a number")], ids=str)
def test_a_log_message_that_ros_cannot_have_does_not_end_the_program(
    message: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    published: list[bytes] = []
    publisher: Any = SimpleNamespace(publish=published.append)
    logger = node_logger("/robot")
    logger.propagate = False
    logger.addHandler(RosoutHandler(publisher, LIBRARY.message("rcl_interfaces/Log")))
    logger.warning(*message)
    logger.warning("the next one")
    assert len(published) == 1
    assert "Logging error" in capsys.readouterr().err


def test_a_publisher_may_wait_without_limit_for_slow_subscriptions() -> None:
    for seconds, nanoseconds in ((None, 0), (0.5, 500_000_000), (math.inf, INFINITE_NS)):
        assert Ros2QosPolicies(max_blocking_time=seconds).qos.max_blocking_time == nanoseconds


class Subscription:
    """A subscription of ours."""

    gid = b"ours"


def endpoint(kind: Kind, type_name: str, gid: bytes) -> Endpoint:
    return Endpoint(kind, NodeName(gid.decode(), "/"), "/chatter", type_name, "", gid, None)


def test_the_watch_keeps_nothing_of_endpoints_and_problems_that_are_over(warnings: list[str]) -> None:
    graph = RosGraph()
    context: Any = SimpleNamespace(graph=graph, checks_qos=False)
    watch = MismatchWatch(context)
    subscription = Subscription()
    watch.add(subscription, warnings.append)
    other = endpoint(Kind.PUBLISHER, "std_msgs/msg/Bool", b"other")
    graph.update(endpoints=[("ours", endpoint(Kind.SUBSCRIPTION, "std_msgs/msg/String", b"ours"))])
    graph.update(endpoints=[("other", other)])
    wait_until(lambda: len(warnings) == 1, "the warning")
    graph.update(gone=["other"])
    wait_until(lambda: not watch._reported, "the end of the problem")
    graph.update(endpoints=[("other", other)])
    wait_until(lambda: len(warnings) == 2, "the warning of the problem that is back")
    del subscription
    watch._changed.set()

    def forgotten() -> bool:
        gc.collect()
        return not watch._endpoints and not watch._reported

    wait_until(forgotten, "the end of the subscription")
    wait_until(lambda: not watch._changed.is_set(), "the rest until the next change")
    watch.close()


class WatchedGraph(RosGraph):
    """A graph with a subscription of ours, which counts how often a watch has looked at it."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.after_look: Callable[[], None] = lambda: None
        self.update(endpoints=[("ours", endpoint(Kind.SUBSCRIPTION, "std_msgs/msg/String", b"ours"))])

    def problems(self, gid: bytes, *, checks_qos: bool) -> list[str]:
        found = super().problems(gid, checks_qos=checks_qos)
        self.after_look()
        self.looks += 1
        return found


def test_a_change_during_the_look_of_the_watch_is_not_missed(warnings: list[str]) -> None:
    graph, subscription = WatchedGraph(), Subscription()
    other = endpoint(Kind.PUBLISHER, "std_msgs/msg/Bool", b"other")

    def change() -> None:
        graph.after_look = lambda: None
        graph.update(endpoints=[("other", other)])

    graph.after_look = change
    watch = MismatchWatch(SimpleNamespace(graph=graph, checks_qos=False))  # type: ignore[arg-type]
    watch.add(subscription, warnings.append)  # type: ignore[arg-type]
    wait_until(lambda: warnings, "the warning")
    watch.close()


@pytest.mark.parametrize("named", [True, False])
def test_a_problem_is_told_with_the_name_of_its_node_or_late_without_it(
    named: bool, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_NAME_PERIOD", 10 * TIMEOUT if named else 0.05)
    graph, subscription = WatchedGraph(), Subscription()
    other = endpoint(Kind.PUBLISHER, "std_msgs/msg/Bool", b"other")
    graph.update(endpoints=[("other", replace(other, node=UNKNOWN_NODE))])
    watch = MismatchWatch(SimpleNamespace(graph=graph, checks_qos=False))  # type: ignore[arg-type]
    watch.add(subscription, warnings.append)  # type: ignore[arg-type]
    wait_until(lambda: graph.looks, "the look at the node without a name")
    if named:
        graph.update(endpoints=[("other", other)])
    wait_until(lambda: warnings, "the warning")
    watch.close()
    assert [("/other" if named else UNKNOWN_NODE.name) in text for text in warnings] == [True]
