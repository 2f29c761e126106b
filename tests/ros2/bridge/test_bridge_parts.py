"""Parts of a bridge at its edges: bad values, late answers, nodes that never answer. Without ROS."""

from __future__ import annotations

import math
import threading
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from waiting import TIMEOUT, wait_until

from dora.dataflow.ros2 import Ros2Block, Ros2BlockCalls, Ros2BlockTopic
from dora.errors import CallFailed, SharedMemoryFull, TransportError
from dora.node.events import Input, ParamDeleted, ParamUpdate, Reference
from dora.node.external import External
from dora.ros2 import InterfaceLibrary
from dora.ros2.api.actions import RESULT_TIMEOUT
from dora.ros2.api.reports import DroppedMessages
from dora.ros2.api.services import CALL_TIMEOUT, Ros2ServiceServer
from dora.ros2.bridge import actions, services
from dora.ros2.bridge.actions import MAX_OPEN as MAX_GOALS
from dora.ros2.bridge.actions import CalledAction, ServedAction
from dora.ros2.bridge.run import BridgeNode, EngineFailures, Losses
from dora.ros2.bridge.services import MAX_OPEN, CalledService, ServedService
from dora.ros2.bridge.topics import PublishedTopic, SubscribedTopic
from dora.ros2.engine import RequestId, ServiceRequest
from dora.ros2.message_queue import MessageCounters, MessageQueue
from dora.transport.board import WORDS
from dora.wire.counters import ROS2_LOST

LIBRARY = InterfaceLibrary(prefixes=[], distribution="kilted")
IMAGE = LIBRARY.message("sensor_msgs/Image")
FIBONACCI = LIBRARY.action("example_interfaces/Fibonacci")
SET_BOOL = LIBRARY.service("std_srvs/SetBool")


class DoraSide:
    """Stands for the node: keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any, dict[str, Any]]] = []
        self.warnings: list[str] = []
        self.waits = False  # whether the outputs have back-pressure
        self.lost: list[int] = []  # numbers of messages

    def may_wait(self, output: str) -> bool:  # noqa: ARG002
        return self.waits

    def send_output(self, output: str, value: Any, metadata: dict[str, Any], follows: Any = None) -> None:  # noqa: ARG002
        self.sent.append((output, value, metadata))

    def log_warn(self, text: str) -> None:
        self.warnings.append(text)

    @property
    def ros(self) -> Any:
        """The node in ROS, which logs into the same list."""
        warn = self.warnings.append
        return SimpleNamespace(
            logger=SimpleNamespace(warning=warn),
            is_simulated=False,
            dropped=lambda where: DroppedMessages(where, warn, self.lost.append),
            on_loss=self.lost.append,
        )


class Event(dict[str, Any]):
    """An input."""

    sequence = 1

    @property
    def send_time(self) -> datetime:
        return self["send_time"]  # type: ignore[no-any-return]


def event(port: str, value: Any, **metadata: Any) -> Any:
    now = datetime.now(UTC)
    return Event(id=port, value=value, send_time=now, metadata={"timestamp": now, **metadata})


def topic(direction: Any, *, form: Any = "message") -> Any:
    return Ros2BlockTopic(
        topic="/image", message_type=IMAGE.name, direction=direction, ports=("image",), format=form
    )


def test_a_text_for_an_image_topic_is_left_out() -> None:
    node, published = DoraSide(), list[Any]()
    side: Any = node
    publisher: Any = SimpleNamespace(publish=published.append)
    images = PublishedTopic(side.ros, topic("publish"), publisher, IMAGE.name)
    images.handle(event("image", pa.array(["hello"]), width=1, height=1))
    assert published == []
    assert "expected the bytes of an image, got an array of string" in node.warnings[0]
    images.handle(event("image", pa.array([1, 2, 3], pa.uint8()), width=1, height=1))
    assert len(published) == 1


def simulated(node: DoraSide, time_ns: int) -> Any:
    ros: Any = node.ros
    ros.is_simulated, ros.time_ns = True, lambda: time_ns
    return ros


def stamp_of_image(ros: Any, **metadata: Any) -> int:
    """Return the seconds in the stamp of an image that is published."""
    published = list[Any]()
    publisher: Any = SimpleNamespace(publish=published.append)
    images = PublishedTopic(ros, topic("publish"), publisher, IMAGE.name)
    images.handle(
        event("image", pa.array([1], pa.uint8()), width=1, height=1, encoding="mono8", **metadata)
    )
    return int(published[0]["header"]["stamp"]["sec"])


def test_an_image_has_the_time_of_its_sender_else_the_one_of_the_node() -> None:
    node = DoraSide()
    sent = datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)  # a round number
    assert stamp_of_image(node.ros, timestamp=sent) == 1_000_000_000
    assert stamp_of_image(node.ros) > 1_700_000_000
    assert stamp_of_image(simulated(node, 7_000_000_000), timestamp=sent) == 1_000_000_000
    assert stamp_of_image(simulated(node, 7_000_000_000)) == 7
    assert stamp_of_image(node.ros, stamp=3_000_000_000, timestamp=sent) == 3
    assert stamp_of_image(node.ros, stamp="then", timestamp=sent) == 1_000_000_000
    for impossible in (-1, 2**31 * 1_000_000_000):  # of which ROS has no seconds
        assert stamp_of_image(node.ros, stamp=impossible, timestamp=sent) == 1_000_000_000
    assert stamp_of_image(node.ros, stamp=2**31 * 1_000_000_000 - 1, timestamp=sent) == 2**31 - 1


def test_in_a_simulation_messages_of_ros_have_the_simulated_time() -> None:
    node = DoraSide()
    side: Any = node
    subscription: Any = SimpleNamespace(
        topic="/image",
        pending=1,
        take_encoded=lambda timeout: "message",  # noqa: ARG005
    )
    ros = simulated(node, 7_000_001_999)
    deliver = SubscribedTopic(side, ros, topic("subscribe"), subscription, IMAGE.name).next(0)
    assert deliver is not None
    deliver()
    assert node.sent[0][2]["timestamp"] == datetime(1970, 1, 1, 0, 0, 7, 1, tzinfo=UTC)


def test_what_comes_for_a_clock_is_published_as_its_time() -> None:
    node, published = DoraSide(), list[Any]()
    publisher: Any = SimpleNamespace(publish=published.append)
    side: Any = node
    clock = Ros2BlockTopic("/clock", "rosgraph_msgs/Clock", "publish", ("tick",))
    topics = PublishedTopic(side.ros, clock, publisher, "rosgraph_msgs/msg/Clock")
    at = datetime(2001, 9, 9, 1, 46, 40, 250, tzinfo=UTC)
    topics.handle(event("tick", pa.array([], pa.null()), timestamp=at))
    topics.handle(event("tick", pa.array([{"data": "a message"}]), timestamp=at))
    given = pa.array([{"clock": {"sec": 3}}])
    topics.handle(event("tick", given, timestamp=at))
    assert published == [{"clock": {"sec": 1_000_000_000, "nanosec": 250_000}}] * 2 + [given]


def test_an_image_of_ros_says_its_type_and_topic() -> None:
    node = DoraSide()
    side: Any = node
    header = {"stamp": {"sec": 7, "nanosec": 8}}
    value = {"header": header, "width": 1, "height": 1, "step": 3, "encoding": "rgb8", "data": [1, 2, 3]}
    subscription: Any = SimpleNamespace(
        topic="/robot/image",
        pending=1,
        next=lambda timeout: IMAGE.decode(IMAGE.encode(value)),  # noqa: ARG005
    )
    deliver = SubscribedTopic(
        side, side.ros, topic("subscribe", form="image"), subscription, IMAGE.name
    ).next(0)
    assert deliver is not None
    deliver()
    size = {"width": 1, "height": 1, "encoding": "rgb8", "stamp": 7_000_000_008}
    assert [metadata for _, _, metadata in node.sent] == [
        {"ros2_type": IMAGE.name, "ros2_topic": "/robot/image", **size}
    ]


def test_an_image_of_ros_with_half_a_value_is_left_out() -> None:
    node = DoraSide()
    side: Any = node
    subscription: Any = SimpleNamespace(
        topic="/image",
        counters=MessageCounters(),
        pending=1,
        next=lambda timeout: IMAGE.decode(  # noqa: ARG005
            IMAGE.encode(
                {"height": 3, "step": 1, "encoding": "mono16", "is_bigendian": 1, "data": [1, 2, 3]}
            )
        ),
    )
    images = SubscribedTopic(side, side.ros, topic("subscribe", form="image"), subscription, IMAGE.name)
    deliver = images.next(0)
    assert deliver is not None
    deliver()
    assert node.sent == []
    assert "mono16 has values of 2 bytes" in node.warnings[0]
    assert node.lost == [1]


class TextSubscription:
    """Stands for a subscription, whose engine is the test."""

    topic = "/texts"

    def __init__(self) -> None:
        self._queue: MessageQueue[str] = MessageQueue(10, MessageCounters())
        self.set_on_message = self._queue.set_on_arrival
        self.set_consumer = self._queue.set_consumer
        self.arrive = self._queue.put

    @property
    def pending(self) -> int:
        return len(self._queue)

    def take_encoded(self, timeout: float) -> str | None:
        return self._queue.take(timeout)

    def read_encoded(self, message: str) -> str:
        return message


def texts_of(side: DoraSide) -> tuple[TextSubscription, SubscribedTopic, list[str]]:
    """Return a subscription, the part of the bridge that has it, and what that wakes."""
    subscription, woken = TextSubscription(), list[str]()
    node: Any = side
    given: Any = subscription
    texts = SubscribedTopic(node, side.ros, topic("subscribe"), given, "std_msgs/msg/String")
    texts.set_on_message(lambda: woken.append("the node"))
    return subscription, texts, woken


def test_a_message_is_sent_on_in_the_thread_that_brings_it() -> None:
    node = DoraSide()
    subscription, texts, woken = texts_of(node)
    for text in ("a", "b"):
        subscription.arrive(text)
    assert [value for _, value, _ in node.sent] == ["a", "b"]
    assert (woken, texts.next(0)) == ([], None)


def test_where_a_send_may_wait_the_thread_of_the_node_sends_in_order() -> None:
    node = DoraSide()
    node.waits = True
    subscription, texts, woken = texts_of(node)
    subscription.arrive("a")
    subscription.arrive("b")
    assert (node.sent, woken) == ([], ["the node", "the node"])
    deliveries = [texts.next(0), texts.next(0)]
    assert texts.next(0) is None, "both messages have one that delivers them"
    node.waits = False
    subscription.arrive("c")  # the engine may send again, but older ones wait
    for deliver in [*deliveries, texts.next(0)]:
        assert deliver is not None
        deliver()
    assert [value for _, value, _ in node.sent] == ["a", "b", "c"]
    node.waits = True
    subscription.arrive("d")
    assert texts.next(0) is not None, "those that are delivered count no more"


def test_where_one_output_may_wait_the_thread_of_the_node_sends_to_all() -> None:
    node = DoraSide()
    node.may_wait = lambda output: output == "b"  # type: ignore[method-assign]
    side: Any = node
    subscription: Any = TextSubscription()
    both = Ros2BlockTopic("/texts", "std_msgs/String", "subscribe", ("a", "b"))
    texts = SubscribedTopic(side, side.ros, both, subscription, "std_msgs/msg/String")
    texts.set_on_message(lambda: None)
    subscription.arrive("text")
    assert node.sent == []
    deliver = texts.next(0)
    assert deliver is not None
    deliver()
    assert [(output, value) for output, value, _ in node.sent] == [("a", "text"), ("b", "text")]


def test_a_message_after_a_stop_is_sent_in_no_thread_of_the_engine() -> None:
    node = DoraSide()
    subscription, texts, woken = texts_of(node)
    texts.set_on_message(None)
    subscription.arrive("late")
    assert (node.sent, woken, subscription.pending) == ([], [], 1)


def test_messages_that_come_while_one_is_sent_are_left_to_the_thread_of_the_node() -> None:
    node = DoraSide()
    subscription, texts, woken = texts_of(node)

    def send(output: str, value: Any, metadata: Any, follows: Any = None) -> None:  # noqa: ARG001
        node.sent.append((output, value, metadata))
        if value == "a":
            arriving = threading.Thread(target=subscription.arrive, args=("b",))
            arriving.start()
            arriving.join()

    node.send_output = send  # type: ignore[method-assign]
    subscription.arrive("a")
    assert woken == ["the node"]
    assert [value for _, value, _ in node.sent] == ["a"]
    deliver = texts.next(0)
    assert deliver is not None
    deliver()
    assert [value for _, value, _ in node.sent] == ["a", "b"]
    assert texts.next(0) is None


def test_a_send_that_fails_in_the_thread_of_the_engine_is_raised_in_the_one_of_the_node() -> None:
    node = DoraSide()
    subscription, texts, woken = texts_of(node)

    def send(*_: Any, **__: Any) -> None:
        raise SharedMemoryFull("no memory is left")

    node.send_output = send  # type: ignore[method-assign]
    subscription.arrive("a")
    assert woken == ["the node"]
    deliver = texts.next(0)
    assert deliver is not None
    with pytest.raises(SharedMemoryFull, match="no memory is left"):
        deliver()


class Clock:
    """The time of the bridge's services and actions, which passes when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (actions, services):
        monkeypatch.setattr(module, "time", clock)
    return clock


class Callers:
    """A server of the engine, with callers that always have one more request."""

    service = "/lamp"

    def __init__(self) -> None:
        self.counters = MessageCounters()
        self.answered: list[int] = []
        self.forgotten: list[int] = []
        self._numbers = count(1)

    def take_request(self, timeout: float | None = 0) -> ServiceRequest:  # noqa: ARG002
        data = SET_BOOL.request.encode({"data": True})
        return ServiceRequest(RequestId(b"caller", next(self._numbers)), data)

    def send_response(self, request: RequestId, data: bytes) -> None:  # noqa: ARG002
        self.answered.append(request.sequence_number)

    def forget(self, request: RequestId) -> None:
        self.forgotten.append(request.sequence_number)


def test_requests_that_no_node_answers_are_given_up(clock: Clock) -> None:
    side: Any = DoraSide()
    callers: Any = Callers()
    server = Ros2ServiceServer(callers, SET_BOOL, DroppedMessages("a server", side.log_warn))
    ports = {"request": "request", "response": "response"}
    served = ServedService(side, side.ros, Ros2BlockCalls("/lamp", SET_BOOL.name, "server", ports), server)

    def deliver() -> None:
        delivery = served.next(0)
        assert delivery is not None
        delivery()

    for _ in range(2 * MAX_OPEN):
        deliver()
    assert len(side.sent) == MAX_OPEN
    assert len(server._open) == MAX_OPEN
    assert served.due() == clock.now + CALL_TIMEOUT
    clock.now += CALL_TIMEOUT
    served.on_due()
    assert served.due() is None
    assert server._open == {}
    assert sorted(callers.forgotten) == list(range(1, 2 * MAX_OPEN + 1))
    deliver()
    assert len(side.sent) == MAX_OPEN + 1
    # A response without an id belongs to the request that came last, not to one that was given up.
    served.handle(event("response", pa.array([{"success": True}])))
    assert callers.answered == [2 * MAX_OPEN + 1]
    assert server._open == {}


def test_a_response_belongs_to_the_request_that_it_names_or_to_the_oldest() -> None:
    side: Any = DoraSide()
    callers: Any = Callers()
    server = Ros2ServiceServer(callers, SET_BOOL, DroppedMessages("a server", side.log_warn))
    ports = {"request": "request", "response": "response"}
    served = ServedService(side, side.ros, Ros2BlockCalls("/lamp", SET_BOOL.name, "server", ports), server)
    for _ in range(3):
        delivery = served.next(0)
        assert delivery is not None
        delivery()
    third = side.sent[2][2]["request_id"]
    for named in ({"request_id": third}, {}, {}):
        served.handle(event("response", pa.array([{"success": True}]), **named))
    assert callers.answered == [3, 1, 2]


def test_a_request_whose_answer_is_an_error_or_does_not_fit_is_given_up() -> None:
    node, engine = DoraSide(), Callers()
    side: Any = node
    callers: Any = engine
    server = Ros2ServiceServer(callers, SET_BOOL, DroppedMessages("a server", side.log_warn))
    ports = {"request": "request", "response": "response"}
    served = ServedService(side, side.ros, Ros2BlockCalls("/lamp", SET_BOOL.name, "server", ports), server)
    for answer in (
        event("response", pa.array([]), error="broken"),
        event("response", pa.array([{"no": 1}])),
    ):
        delivery = served.next(0)
        assert delivery is not None
        delivery()
        served.handle(answer)
    assert (engine.forgotten, engine.answered, server._open) == ([1, 2], [], {})
    assert node.lost == [1, 1]
    assert served.due() is None


def test_losses_are_told_without_a_message_and_only_once() -> None:
    node = DoraSide()
    side: Any = node
    subscription: Any = SimpleNamespace(topic="/image", counters=MessageCounters())
    images = SubscribedTopic(side, side.ros, topic("subscribe", form="image"), subscription, IMAGE.name)
    images.on_due()
    assert node.warnings == []
    subscription.counters = MessageCounters(dropped=3, lost=2, malformed=1)
    images.on_due()
    images.on_due()
    assert node.warnings == [
        "topic /image, until now: 3 messages did not fit into the queue, 2 were lost on the way, "
        "1 could not be read"
    ]
    assert node.lost == [5]  # the subscription itself counts what it cannot read
    subscription.counters.lost += 1
    images.on_due()
    assert node.lost == [5, 1]


class Lamp:
    """A client of the engine, whose server answers when the test says so."""

    service = "/lamp"

    def __init__(self) -> None:
        self.asked: list[Future[bytes]] = []

    def is_ready(self) -> bool:
        return True

    def send_request(self, data: bytes) -> Future[bytes]:  # noqa: ARG002
        self.asked.append(Future())
        return self.asked[-1]


def test_a_call_is_answered_once_when_its_response_comes_at_the_last_moment(clock: Clock) -> None:
    node, lamp = DoraSide(), Lamp()
    side: Any = node
    client: Any = lamp
    ports = {"request": "request", "response": "response"}
    calls = Ros2BlockCalls("/lamp", SET_BOOL.name, "client", ports)
    called = CalledService(side, side.ros, calls, client, SET_BOOL)
    for request_id in ("in time", "late"):
        called.handle(event("request", pa.array([{"data": True}]), request_id=request_id))
    lamp.asked[0].set_result(SET_BOOL.response.encode({"success": True}))
    clock.now += CALL_TIMEOUT
    called.on_due()
    while (delivery := called.next(0)) is not None:
        delivery()
    found = {metadata["request_id"]: metadata.get("error") for _, _, metadata in node.sent}
    assert found == {"in time": None, "late": f"there is no response after {CALL_TIMEOUT:g} s"}
    assert len(node.sent) == 2
    assert called.due() is None


class LateLamp(Lamp):
    """A client whose server comes and goes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_there = threading.Event()
        self.values: list[bool] = []

    def is_ready(self) -> bool:
        return self.is_there.is_set()

    def wait_for_service(self, timeout: float | None) -> bool:  # noqa: ARG002
        return self.is_there.wait(TIMEOUT)

    def send_request(self, data: bytes) -> Future[bytes]:
        self.values.append(SET_BOOL.request.decode(data)[0].as_py()["data"])
        return super().send_request(data)


def lamp_of(node: DoraSide, lamp: Lamp) -> CalledService:
    side: Any = node
    client: Any = lamp
    ports = {"request": "request", "response": "response"}
    return CalledService(
        side, side.ros, Ros2BlockCalls("/lamp", SET_BOOL.name, "client", ports), client, SET_BOOL
    )


def test_requests_and_responses_that_do_not_fit_fail_and_the_next_ones_pass() -> None:
    node, lamp = DoraSide(), Lamp()
    called = lamp_of(node, lamp)
    for name, value in (("asked", {"wrong": 1}), ("answered", {"data": True}), ("good", {"data": True})):
        called.handle(event("request", pa.array([value]), request_id=name))
    for future, data in zip(lamp.asked, (b"odd", SET_BOOL.response.encode({})), strict=True):
        future.set_result(data)
    while (delivery := called.next(0)) is not None:
        delivery()
    found = {metadata["request_id"]: metadata.get("error", "") for _, _, metadata in node.sent}
    assert list(found) == ["asked", "answered", "good"]
    assert "field 'wrong'" in found["asked"]
    assert "a received message is no std_srvs/srv/SetBool_Response" in found["answered"]
    assert found["good"] == ""


def test_requests_wait_for_each_server_and_go_out_in_order() -> None:
    lamp = LateLamp()
    called = lamp_of(DoraSide(), lamp)
    called.handle(event("request", pa.array([{"data": True}])))
    lamp.is_there.set()
    called.handle(event("request", pa.array([{"data": False}])))
    assert lamp.values == [], "the one that waits comes first"
    for _ in range(2):  # once more after the server was gone
        delivery = called.next(TIMEOUT)
        assert delivery is not None
        lamp.is_there.clear()
        delivery()
        assert lamp.values == [True, False]
        lamp.values.clear()
        for value in (True, False):
            called.handle(event("request", pa.array([{"data": value}])))
        lamp.is_there.set()


def test_a_request_fails_when_no_server_comes_in_time(clock: Clock) -> None:
    node, lamp = DoraSide(), LateLamp()
    called = lamp_of(node, lamp)
    for request_id in ("early", "late"):
        called.handle(event("request", pa.array([{"data": True}]), request_id=request_id))
        clock.now += 1
    assert called.due() == clock.now - 2 + CALL_TIMEOUT
    clock.now += CALL_TIMEOUT - 2
    called.on_due()
    assert [metadata for _, _, metadata in node.sent] == [
        {"request_id": "early", "error": f"no server has come within {CALL_TIMEOUT:g} s"}
    ]
    assert called.due() == clock.now + 1
    lamp.is_there.set()
    delivery = called.next(TIMEOUT)
    assert delivery is not None
    delivery()
    assert len(lamp.asked) == 1


class ClosedClient:
    """A client of the engine that is closed while it waits for a server."""

    service = "/lamp"

    def is_ready(self) -> bool:
        return False

    def wait_for_service(self, timeout: float | None) -> bool:  # noqa: ARG002
        raise TransportError("the client of /lamp is closed")

    def send_request(self, data: bytes) -> Future[bytes]:  # noqa: ARG002
        raise TransportError("the client of /lamp is closed")


def test_a_call_fails_when_its_client_is_closed_while_it_waits_for_a_server() -> None:
    node = DoraSide()
    side: Any = node
    client: Any = ClosedClient()
    ports = {"request": "request", "response": "response"}
    calls = Ros2BlockCalls("/lamp", SET_BOOL.name, "client", ports)
    called = CalledService(side, side.ros, calls, client, SET_BOOL)
    called.handle(event("request", pa.array([{"data": True}]), request_id="mine"))
    delivery = called.next(TIMEOUT)
    assert delivery is not None
    delivery()
    assert [metadata for _, _, metadata in node.sent] == [
        {"request_id": "mine", "error": "the client of /lamp is closed"}
    ]


class FarServer:
    """A client of an action, whose server accepts goals when the test says so, and then does nothing."""

    type = FIBONACCI

    def __init__(self) -> None:
        self.accepts = threading.Event()
        self.canceled: list[str] = []
        self.results: dict[str, Future[bytes]] = {}
        self.feedback: list[Any] = []
        self._numbers = count(1)

    def send_goal(self, value: Any) -> str:  # noqa: ARG002
        assert self.accepts.wait(TIMEOUT)
        return f"ros-{next(self._numbers)}"

    def request_result(self, goal_id: str) -> Future[bytes]:
        return self.results.setdefault(goal_id, Future())

    def set_on_feedback(self, goal_id: str, callback: Any) -> None:
        pass

    def take_feedback(self, goal_id: str, timeout: float) -> Any:  # noqa: ARG002
        return self.feedback.pop() if self.feedback else None

    def cancel(self, goal_id: str) -> None:
        self.canceled.append(goal_id)

    def read_result(self, goal_id: str, data: bytes) -> Any:
        raise AssertionError(f"{goal_id} has no result, not {data!r}")

    def forget(self, goal_id: str) -> None:
        del self.results[goal_id]

    def give_up(self, goal_id: str) -> bool:
        return self.results[goal_id].cancel()


def fibonacci(side: Any, server: Any) -> CalledAction:
    ports = {"goal": "goal", "cancel": "cancel", "feedback": "feedback", "result": "result"}
    calls = Ros2BlockCalls("/fibonacci", FIBONACCI.name, "client", ports)
    return CalledAction(side, side.ros, calls, server)


def deliver_next(called: CalledAction) -> None:
    delivery = called.next(TIMEOUT)
    assert delivery is not None
    delivery()


def test_a_goal_that_is_canceled_before_it_is_accepted_is_canceled_then() -> None:
    node, server = DoraSide(), FarServer()
    called = fibonacci(node, server)
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="mine"))
    called.handle(event("cancel", pa.array([], pa.uint8()), goal_id="mine"))
    assert server.canceled == []
    server.accepts.set()
    deliver_next(called)
    wait_until(lambda: server.canceled, "the cancellation")
    assert server.canceled == ["ros-1"]
    assert node.warnings == []


def test_goals_of_a_server_that_has_gone_end_and_make_room(clock: Clock) -> None:
    node, server = DoraSide(), FarServer()
    called = fibonacci(node, server)
    server.accepts.set()
    for number in range(MAX_GOALS):
        called.handle(event("goal", pa.array([{"order": 1}]), goal_id=f"{number}"))
        deliver_next(called)
    clock.now += RESULT_TIMEOUT / 2
    server.feedback.append(pa.array([{"sequence": [1]}]))
    called._feedback("7", "ros-8")  # this server lives
    clock.now += RESULT_TIMEOUT / 2
    called.on_due()
    ended = {metadata["goal_id"]: metadata for output, _, metadata in node.sent if output == "result"}
    assert sorted(ended) == [str(number) for number in range(MAX_GOALS - 1)]
    assert ended["0"]["goal_status"] == "aborted"
    assert ended["0"]["error"] == "there is no feedback and no result after 300 s"
    assert called.due() == clock.now + RESULT_TIMEOUT / 2
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="next"))
    assert len(called._open) == 2


def test_a_goal_beyond_the_limit_fails_at_once() -> None:
    node, server = DoraSide(), FarServer()
    called = fibonacci(node, server)
    for number in range(MAX_GOALS + 1):
        called.handle(event("goal", pa.array([{"order": 1}]), goal_id=f"{number}"))
    assert [(metadata["goal_id"], metadata["error"]) for _, _, metadata in node.sent] == [
        (f"{MAX_GOALS}", f"{MAX_GOALS} goals have not ended yet")
    ]
    assert len(called._open) == MAX_GOALS
    server.accepts.set()


def test_a_goal_with_the_id_of_an_open_one_is_left_out() -> None:
    node, server = DoraSide(), FarServer()
    called = fibonacci(node, server)
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="mine"))
    called.handle(event("goal", pa.array([{"order": 2}]), goal_id="mine"))
    assert node.warnings == ["action /fibonacci has an open goal mine; another one with its id is left out"]
    server.accepts.set()
    deliver_next(called)
    wait_until(lambda: "ros-1" in server.results, "the question for the result")
    server.results["ros-1"].set_exception(CallFailed("the server has gone"))
    deliver_next(called)
    assert [metadata["error"] for _, _, metadata in node.sent] == ["the server has gone"]
    called.handle(event("goal", pa.array([{"order": 3}]), goal_id="mine"))
    assert list(called._open) == ["mine"]


def test_a_late_result_does_not_end_the_next_goal_of_its_id() -> None:
    node, server = DoraSide(), FarServer()
    called = fibonacci(node, server)
    server.accepts.set()
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="mine"))
    deliver_next(called)
    late: Future[bytes] = server.request_result("ros-0")
    late.set_exception(CallFailed("too late"))
    called._result("mine", "ros-0", late)
    assert list(server.results) == ["ros-1"]
    assert (list(called._open), node.sent) == (["mine"], [])


@pytest.mark.parametrize("odd", [["mine"], {"a": 1}, 5, b"mine"], ids=str)
def test_an_id_that_is_no_text_counts_as_none(odd: Any) -> None:
    node, server = DoraSide(), FarServer()
    called = fibonacci(node, server)
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id=odd))
    called.handle(event("cancel", pa.array([], pa.uint8()), goal_id=odd))
    assert list(called._open) == ["goal-1"]
    assert node.warnings == ["action /fibonacci has no open goal  to cancel"]
    server.accepts.set()
    side: Any = DoraSide()
    engine: Any = Callers()
    lamp = Ros2ServiceServer(engine, SET_BOOL, DroppedMessages("the server of /lamp", side.log_warn))
    ports = {"request": "request", "response": "response"}
    served = ServedService(side, side.ros, Ros2BlockCalls("/lamp", SET_BOOL.name, "server", ports), lamp)
    served.handle(event("response", pa.array([{"success": True}]), request_id=odd))
    assert side.warnings[0].endswith("a response on input `response` belongs to no open request")


def test_a_goal_that_the_client_cannot_send_ends() -> None:
    node, server = DoraSide(), FarServer()

    def send_goal(value: Any) -> str:  # noqa: ARG001
        raise ZeroDivisionError("a bug")

    server.send_goal = send_goal  # type: ignore[method-assign]
    called = fibonacci(node, server)
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="mine"))
    deliver_next(called)
    assert called._open == {}
    assert [metadata["error"] for _, _, metadata in node.sent] == ["a bug"]


def test_a_goal_that_the_server_refuses_ends() -> None:
    node, server = DoraSide(), FarServer()
    server.send_goal = lambda value: None  # type: ignore[method-assign,assignment,return-value]  # noqa: ARG005
    called = fibonacci(node, server)
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="mine"))
    deliver_next(called)
    assert (called._open, server.results) == ({}, {})
    assert [metadata["error"] for _, _, metadata in node.sent] == ["the server refuses the goal"]


def test_a_cancellation_that_fails_is_told_and_the_goal_goes_on() -> None:
    node, server = DoraSide(), FarServer()

    def cancel(goal_id: str) -> None:  # noqa: ARG001
        raise CallFailed("the server is busy")

    server.cancel = cancel  # type: ignore[method-assign]
    called = fibonacci(node, server)
    server.accepts.set()
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="mine"))
    deliver_next(called)
    called.handle(event("cancel", pa.array([], pa.uint8()), goal_id="mine"))
    deliver_next(called)
    assert node.warnings == ["goal mine of /fibonacci cannot be canceled: the server is busy"]
    assert (list(called._open), node.sent) == (["mine"], [])


def test_feedback_that_came_before_its_goal_was_accepted_goes_out_at_once() -> None:
    node, server = DoraSide(), FarServer()
    server.set_on_feedback = lambda goal_id, callback: callback()  # type: ignore[method-assign]  # noqa: ARG005
    server.feedback.append("feedback")
    called = fibonacci(node, server)
    server.accepts.set()
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="mine"))
    for _ in range(2):
        deliver_next(called)
    assert [(output, value) for output, value, _ in node.sent] == [("feedback", "feedback")]


class ActionServer:
    """A server of an action, which checks results."""

    type = FIBONACCI

    def __init__(self) -> None:
        self.results: list[tuple[str, Any, str | None]] = []

    def send_result(self, goal_id: str, result: Any, status: str | None) -> None:
        self.type.result.encode(result)
        if goal_id != "open":
            raise TransportError(f"there is no open goal {goal_id}")
        self.results.append((goal_id, result, status))

    def send_feedback(self, goal_id: str, feedback: Any) -> None:
        self.type.feedback.encode(feedback)
        raise TransportError(f"there is no open goal {goal_id}")


def test_a_goal_whose_result_says_an_error_is_aborted() -> None:
    node: Any = DoraSide()
    server: Any = ActionServer()
    ports = {"goal": "goal", "feedback": "feedback", "result": "result"}
    served = ServedAction(
        node, node.ros, Ros2BlockCalls("/fibonacci", FIBONACCI.name, "server", ports), server
    )
    served.handle(event("result", pa.array([]), goal_id="open", goal_status="succeeded", error="broken"))
    assert server.results == [("open", {}, "aborted")]


def test_a_goal_whose_result_does_not_fit_is_aborted() -> None:
    node = DoraSide()
    side: Any = node
    server: Any = ActionServer()
    ports = {"goal": "goal", "feedback": "feedback", "result": "result"}
    calls = Ros2BlockCalls("/fibonacci", FIBONACCI.name, "server", ports)
    served = ServedAction(side, side.ros, calls, server)
    served.handle(event("feedback", pa.array([{"wrong": 1}]), goal_id="open"))
    assert server.results == []
    served.handle(event("result", pa.array([{"wrong": 1}]), goal_id="open", goal_status="succeeded"))
    assert server.results == [("open", {}, "aborted")]
    assert len(node.lost) == 2
    served.handle(event("result", pa.array([{"wrong": 1}]), goal_id="ended"))
    served.handle(event("result", pa.array([], pa.null()), goal_id=["open"]))
    served.handle(event("result", pa.array([], pa.null()), goal_id="open", goal_status=["odd"]))
    assert server.results[1:] == [("open", {}, "aborted")]


def test_feedback_that_came_before_the_result_goes_out_before_it() -> None:
    node, server = DoraSide(), FarServer()
    server.read_result = lambda goal_id, data: ("succeeded", goal_id)  # type: ignore[method-assign]  # noqa: ARG005
    called = fibonacci(node, server)
    server.accepts.set()
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="mine"))
    deliver_next(called)
    wait_until(lambda: "ros-1" in server.results, "the question for the result")
    server.feedback.append("feedback")
    server.results["ros-1"].set_result(b"")
    deliver_next(called)
    assert [(output, value) for output, value, _ in node.sent] == [
        ("feedback", "feedback"),
        ("result", "ros-1"),
    ]
    assert called.due() is None


class BusyNode(DoraSide):
    """A node that has a few more events each time it is asked for one, and then none."""

    def __init__(self, events: list[Any]) -> None:
        super().__init__()
        self._events = events
        self.timeouts: list[float | None] = []

    def merge_external_events(self, source: Any) -> None:
        pass

    def next(self, timeout: float | None) -> Any:
        self.timeouts.append(timeout)
        return self._events.pop(0)() if self._events else None


def test_what_is_due_is_done_between_events_and_at_the_end() -> None:
    found: list[str] = []
    dues = [math.inf, 0.0, math.inf]

    def nothing() -> Any:
        return External(lambda: found.append("an event"))

    side: Any = BusyNode([nothing, nothing])
    part: Any = SimpleNamespace(
        due=lambda: dues[min(len(side.timeouts), 2)], on_due=lambda: found.append("what is due")
    )
    bridge = BridgeNode(side, side.ros, Ros2Block(), side)
    bridge._timed.append(part)
    bridge.run()
    assert found == ["an event", "what is due", "an event", "what is due"]
    assert side.timeouts == [math.inf, 0.0, math.inf]


def test_a_changed_and_a_deleted_parameter_get_to_ros() -> None:
    changes = [ParamUpdate("gain", 1), ParamDeleted("gain")]
    found: list[Any] = []
    side: Any = BusyNode([partial(changes.__getitem__, place) for place in range(2)])
    parameters: Any = SimpleNamespace(handle=found.append)
    BridgeNode(side, side.ros, Ros2Block(), parameters).run()
    assert found == changes


@pytest.mark.parametrize("kind", ["service", "action"])
def test_a_bridge_waits_no_longer_for_a_server_than_its_limit(kind: str) -> None:
    ports = {name: name for name in ("request", "response", "goal", "feedback", "result")}
    type = SET_BOOL if kind == "service" else FIBONACCI
    block = Ros2Block(**{kind: Ros2BlockCalls("/there", type.name, "client", ports)})
    server = FarServer()
    server.accepts.set()

    def asked() -> Any:
        port, value = ("request", {"data": True}) if kind == "service" else ("goal", {"order": 1})
        return Input.make(port, Reference(pa.array([value]), {"goal_id": "mine"}, 0))

    def accepted() -> Any:
        return External(action.next(TIMEOUT) if kind == "action" else lambda: None)

    side: Any = BusyNode([asked, accepted])
    ros = side.ros
    ros.create_raw_client = lambda *_: (Lamp(), SET_BOOL)
    ros.create_action_client = lambda *_: server
    bridge = BridgeNode(side, ros, block, side)
    action: Any = bridge._timed[0]
    bridge.run()
    limit = CALL_TIMEOUT if kind == "service" else RESULT_TIMEOUT
    assert side.timeouts[0] is None
    assert limit - TIMEOUT < side.timeouts[-1] <= limit


def test_an_engine_that_has_ended_is_told_in_the_thread_of_the_node() -> None:
    rung: list[int] = []
    failures = EngineFailures()
    failures.set_on_message(lambda: rung.append(1))
    assert failures.next(0) is None
    failures.add(TransportError("the process 5, which has rclpy, has ended"))
    assert rung == [1]
    deliver = failures.next(0)
    assert deliver is not None
    with pytest.raises(TransportError, match="the process 5, which has rclpy, has ended"):
        deliver()
    assert failures.next(0) is None


def test_an_engine_that_has_ended_before_the_node_listens_is_told_at_once() -> None:
    rung: list[int] = []
    failures = EngineFailures()
    failures.add(TransportError("the process 5, which has rclpy, has ended"))
    failures.set_on_message(lambda: rung.append(1))
    assert rung == [1]
    assert failures.next(0) is not None


def test_losses_beyond_the_room_on_the_board_keep_the_highest_number() -> None:
    words = memoryview(bytearray(WORDS * 8)).cast("Q")
    node: Any = SimpleNamespace(
        _session=SimpleNamespace(board=SimpleNamespace(words=words)), _config=SimpleNamespace(node_slot=0)
    )
    losses = Losses(node)
    for _ in range(3):
        losses.add(2**63 - 1)
    assert words[ROS2_LOST.word] == 2**64 - 1


def test_feedback_of_a_goal_whose_result_has_failed_does_nothing() -> None:
    node, server = DoraSide(), FarServer()
    called = fibonacci(node, server)
    server.accepts.set()
    called.handle(event("goal", pa.array([{"order": 1}]), goal_id="mine"))
    deliver_next(called)
    wait_until(lambda: "ros-1" in server.results, "the question for the result")
    server.results["ros-1"].set_exception(CallFailed("the server has gone"))
    deliver_next(called)
    assert server.results == {}
    server.feedback.append(pa.array([{"sequence": [1]}]))
    called._feedback("mine", "ros-1")
    assert [(output, metadata["error"]) for output, _, metadata in node.sent] == [
        ("result", "the server has gone")
    ]
