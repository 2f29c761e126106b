"""Servers whose clients go, parameters, logs, the watch over endpoints that come and go. Without ROS."""

from __future__ import annotations

import gc
import math
import threading
import time
import uuid
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import TIMEOUT, wait_until

from dora import Ros2ActionServer, Ros2Context, Ros2QosPolicies, Ros2ServiceServer, TransportError
from dora.ros2 import InterfaceLibrary
from dora.ros2.api.answers import AnswerThread
from dora.ros2.api.parameters import ParameterError, RosParameters
from dora.ros2.api.reports import DroppedMessages, MismatchWatch, RosoutHandler, node_logger
from dora.ros2.engine import RequestId, ServiceRequest
from dora.ros2.graph import Endpoint, Kind, NodeName, RosGraph
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
        self.forgotten: list[bytes] = []
        self._queue: MessageQueue[ServiceRequest] = MessageQueue(None, self.counters)
        self._numbers = count(1)
        self.take_request = self._queue.take
        self.set_on_request = self._queue.set_on_arrival
        self.close = self._queue.close

    def ask(self, client: bytes, data: bytes) -> None:
        self._queue.put(ServiceRequest(RequestId(client, next(self._numbers)), data))

    def send_response(self, request: RequestId, data: bytes) -> None:  # noqa: ARG002
        if request.client_gid.startswith(b"gone"):
            raise TransportError("this client has gone")
        self.answered.append(request.client_gid)

    def forget(self, request: RequestId) -> None:
        self.forgotten.append(request.client_gid)


class EngineNode:
    """A node of the engine."""

    name, namespace = "robot", "/"

    def __init__(self) -> None:
        self.servers: dict[str, EngineServer] = {}

    def create_publisher(self, *_: Any) -> Any:
        return SimpleNamespace(publish=lambda data: None, close=lambda: None)  # noqa: ARG005

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
    watch.close()
