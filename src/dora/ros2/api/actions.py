"""Action clients and servers, as a program has them: three services and two topics of ROS.

https://design.ros2.org/articles/actions.html describes them; their names and qualities are as in rcl.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dora.errors import CallFailed, TransportError
from dora.ros2.api.answers import AnswerThread
from dora.ros2.api.clock import stamp_of
from dora.ros2.api.topics import one_message
from dora.ros2.graph import Kind
from dora.ros2.message_queue import MessageCounters, MessageQueue
from dora.ros2.qos import ACTION_STATUS, Qos
from dora.ros2.types.errors import MalformedMessage

if TYPE_CHECKING:
    import pyarrow as pa

    from dora.ros2.api.reports import DroppedMessages
    from dora.ros2.engine import RequestId, RosNode
    from dora.ros2.types.library import InterfaceLibrary
    from dora.ros2.types.message_type import ActionType, ServiceType

__all__ = ["Ros2ActionClient", "Ros2ActionServer"]

GOAL_TIMEOUT: Final = 30.0  # seconds, these four as in dora-rs
_TAKE_TIMEOUT: Final = 1.0
RESULT_TIMEOUT: Final = 300.0
_CANCEL_TIMEOUT: Final = 10.0
_FEEDBACK_DEPTH: Final = 100  # messages of a goal that wait to be taken; then the oldest one goes
# Goals whose results a server keeps for clients that ask later; of an older one the answer is `unknown`.
_MAX_KEPT: Final = 256

# action_msgs/msg/GoalStatus
_UNKNOWN, _ACCEPTED, _EXECUTING, _CANCELING, SUCCEEDED, CANCELED, ABORTED = range(7)
STATUS_NAMES: Final = {SUCCEEDED: "succeeded", CANCELED: "canceled", ABORTED: "aborted"}
_STATUS_OF: Final = {name: number for number, name in STATUS_NAMES.items()}
_CANCEL_DONE, _CANCEL_UNKNOWN_GOAL, _CANCEL_ENDED = 0, 2, 3  # action_msgs/srv/CancelGoal

Record = dict[str, Any]


def _goal_field(goal_id: str) -> Record:
    return {"uuid": uuid.UUID(goal_id).bytes}


def _goal_id_of(record: Any) -> str:
    return str(uuid.UUID(bytes=bytes(record["uuid"])))


class Ros2ActionClient:
    """Sends goals to an action. Made by `Ros2Node.create_action_client`. Goals have texts as ids."""

    def __init__(
        self,
        node: RosNode,
        name: str,
        type: ActionType,
        qos: Qos,
        library: InterfaceLibrary,
        dropped: DroppedMessages,
    ) -> None:
        self.type = type
        self._dropped = dropped
        self._cancel_type = library.service("action_msgs/CancelGoal")
        self._goals = node.create_client(f"{name}/_action/send_goal", type.send_goal, qos)
        self._results = node.create_client(f"{name}/_action/get_result", type.get_result, qos)
        self._cancels = node.create_client(f"{name}/_action/cancel_goal", self._cancel_type, qos)
        self._topic = node.create_subscription(
            f"{name}/_action/feedback", type.feedback_message, Qos(depth=_FEEDBACK_DEPTH)
        )
        self._graph = node.graph
        self._feedback: dict[str, MessageQueue[Any]] = {}
        self._feedback_counters = MessageCounters()  # of all goals together
        self._asked: dict[str, Future[bytes]] = {}  # goal → its result
        threading.Thread(target=self._distribute, name="dora-ros2-feedback", daemon=True).start()

    def _distribute(self) -> None:
        """Give the feedback of each goal to its queue, until the client is closed."""
        while (message := self._topic.take(None)) is not None:
            try:
                found = self.type.feedback_message.decode(message)
            except MalformedMessage as error:
                self._topic.counters.malformed += 1
                self._dropped.add(str(error))
                continue
            goal_id = _goal_id_of(found.field("goal_id")[0].as_py())
            waiting = self._feedback.get(goal_id)
            if waiting is not None:
                before = self._feedback_counters.dropped
                waiting.put(found.field("feedback"))
                if self._feedback_counters.dropped > before:
                    self._dropped.add(f"{_FEEDBACK_DEPTH} of its goal wait to be taken")

    def send_goal(
        self,
        goal: pa.Array[Any] | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        timeout_s: float | None = None,
    ) -> str | None:
        """Send a goal; return its id, or None if the server refuses it.

        ``timeout_s``: seconds to wait for a server and its answer, 30 by default. Raises `CallTimedOut`,
        `CallFailed`, and `ValueMismatch` for a goal that does not fit.
        """
        type = self.type
        value = one_message(goal, type.goal.name)
        type.goal.encode(value)  # raises with the names of the goal's own fields
        goal_id = str(uuid.uuid4())
        # Before the goal: its first feedback may come sooner than the answer.
        self._feedback[goal_id] = MessageQueue(_FEEDBACK_DEPTH, self._feedback_counters)
        request = type.send_goal.request.encode({"goal_id": _goal_field(goal_id), "goal": _plain(value)})
        deadline = time.monotonic() + (GOAL_TIMEOUT if timeout_s is None else timeout_s)
        try:
            # As in rcl, a server is there when its feedback is, too: else the first messages would be lost.
            self._graph.wait_for(self._hears_server, deadline - time.monotonic())
            data = self._goals.call(request, max(deadline - time.monotonic(), 0.0))
            accepted = _read(type.send_goal, data)["accepted"]
        except BaseException:  # Ctrl-C, too: nobody else knows the id, to forget the goal by it
            del self._feedback[goal_id]
            raise
        if not accepted:
            del self._feedback[goal_id]
            return None
        return goal_id

    def _hears_server(self) -> bool:
        return bool(self._graph.endpoints(Kind.PUBLISHER, self._topic.topic))

    def take_feedback(self, goal_id: str, timeout_s: float | None = None) -> pa.StructArray | None:
        """Wait for feedback of a goal, at most ``timeout_s`` seconds, 1 by default.

        None if none came, and at once after `close`.
        """
        waiting = self._feedback.get(goal_id)
        if waiting is None:
            return None
        found: pa.StructArray | None = waiting.take(_TAKE_TIMEOUT if timeout_s is None else timeout_s)
        return found

    def take_result(
        self, goal_id: str, timeout_s: float | None = None
    ) -> tuple[str, pa.StructArray] | None:
        """Wait for the result of a goal, at most ``timeout_s`` seconds, 300 by default.

        Returns ``succeeded``, ``canceled``, ``aborted`` or ``unknown``, and the result; None if it has not
        come, and may be asked for again. Raises `CallFailed`, and then forgets the goal.
        """
        future = self.request_result(goal_id)
        try:
            data = future.result(RESULT_TIMEOUT if timeout_s is None else timeout_s)
        except TimeoutError:
            return None
        except CallFailed:
            self.forget(goal_id)
            raise
        return self.read_result(goal_id, data)

    def request_result(self, goal_id: str) -> Future[bytes]:
        """Return the future of a result, which is asked for once.

        Raises `TransportError` if it cannot be asked for, and then forgets the goal.
        """
        future = self._asked.get(goal_id)
        if future is None:
            request = self.type.get_result.request.encode({"goal_id": _goal_field(goal_id)})
            try:
                future = self._asked[goal_id] = self._results.send_request(request)
            except TransportError:
                self.forget(goal_id)
                raise
        return future

    def give_up(self, goal_id: str) -> bool:
        """Forget a goal whose result is not needed any more; return False if the result has come."""
        future = self._asked.get(goal_id)
        if future is not None and not future.cancel():
            return False
        self.forget(goal_id)
        return True

    def forget(self, goal_id: str) -> None:
        """Keep nothing of a goal any more."""
        self._asked.pop(goal_id, None)
        self._feedback.pop(goal_id, None)

    def read_result(self, goal_id: str, data: bytes) -> tuple[str, pa.StructArray]:
        """Return the status and result in an answer, and forget the goal; raises `CallFailed`."""
        self.forget(goal_id)
        try:
            found: Any = self.type.get_result.response.decode(data)
        except MalformedMessage as error:
            raise CallFailed(f"the result of a goal cannot be read: {error}") from error
        status = STATUS_NAMES.get(found.field("status")[0].as_py(), "unknown")
        return status, found.field("result")

    def set_on_feedback(self, goal_id: str, callback: Callable[[], None]) -> None:
        """Set what a thread calls after each feedback of a goal, and at once if there is some."""
        if goal_id in self._feedback:
            self._feedback[goal_id].set_on_arrival(callback)

    def cancel(self, goal_id: str | None = None, timeout_s: float | None = None) -> int:
        """Ask to cancel a goal, or all (None); return the ``return_code`` of CancelGoal, 0 for success.

        ``timeout_s``: seconds, 10 by default. Raises `CallTimedOut` and `CallFailed`.
        """
        goal = {} if goal_id is None else _goal_field(goal_id)
        request = self._cancel_type.request.encode({"goal_info": {"goal_id": goal}})
        data = self._cancels.call(request, _CANCEL_TIMEOUT if timeout_s is None else timeout_s)
        return int(_read(self._cancel_type, data)["return_code"])

    def close(self) -> None:
        """Leave the action. Calls that wait raise `CallFailed`, and `take_feedback` returns."""
        for endpoint in (self._goals, self._results, self._cancels, self._topic):
            endpoint.close()
        for waiting in list(self._feedback.values()):
            waiting.close()


def _plain(value: Any) -> Any:
    """Return a message as a dictionary, for a message that contains it."""
    return value if isinstance(value, Mapping) else value[0].as_py()


def _read(type: ServiceType, data: bytes) -> Record:
    try:
        found: Any = type.response.decode(data)[0].as_py()
    except MalformedMessage as error:
        raise CallFailed(f"an answer of type {type.name} cannot be read: {error}") from error
    record: Record = found
    return record


@dataclass
class _ServedGoal:
    """A goal that a server has accepted."""

    stamp: Record
    status: int = _ACCEPTED
    result: bytes = b""  # the answer, once it has ended
    waiting: list[RequestId] = field(default_factory=list)  # requests for its result
    taken: threading.Event = field(default_factory=threading.Event)  # a client has got the result


class Ros2ActionServer:
    """Works on the goals of an action. Made by `Ros2Node.create_action_server`.

    Each goal is accepted when it comes, also while no method is called.
    """

    def __init__(
        self,
        node: RosNode,
        name: str,
        type: ActionType,
        qos: Qos,
        library: InterfaceLibrary,
        dropped: DroppedMessages,
        now: Callable[[], int],
    ) -> None:
        """``now``: the time of the node, in nanoseconds."""
        self.type = type
        self._now = now
        self._dropped = dropped
        # The thread that answers clients, and the threads of the program. A request for a result that comes
        # just when the goal ends is either among those that wait, or finds the result.
        self._lock = threading.RLock()
        self._goals: OrderedDict[str, _ServedGoal] = OrderedDict()
        self._new: MessageQueue[tuple[str, Any]] = MessageQueue(None, MessageCounters())
        self._canceled: MessageQueue[str] = MessageQueue(None, MessageCounters())
        self._status_type = library.message("action_msgs/GoalStatusArray")
        cancel = library.service("action_msgs/CancelGoal")
        self._feedback = node.create_publisher(f"{name}/_action/feedback", type.feedback_message)
        self._status = node.create_publisher(f"{name}/_action/status", self._status_type, ACTION_STATUS)
        self._answers = AnswerThread(node, qos, dropped)
        self._answers.serve(f"{name}/_action/send_goal", type.send_goal, self._accept)
        self._answers.serve(f"{name}/_action/cancel_goal", cancel, self._cancel)
        self._results = self._answers.serve(f"{name}/_action/get_result", type.get_result, self._get_result)
        self._answers.start("dora-ros2-action")

    # ------------------------------------------------------------------ what a program does

    def take_goal(self, timeout_s: float | None = None) -> tuple[str, pa.StructArray] | None:
        """Wait for a goal, at most ``timeout_s`` seconds, 1 by default; return its id and value, or None.

        From then on it is executing.
        """
        taken = self._new.take(_TAKE_TIMEOUT if timeout_s is None else timeout_s)
        if taken is not None:
            with self._lock:
                goal = self._goals.get(taken[0])
                if goal is not None and goal.status == _ACCEPTED:
                    goal.status = _EXECUTING
            self._publish_status()
        return taken

    def take_cancel(self, timeout_s: float | None = None) -> list[str] | None:
        """Wait for a request to cancel, at most ``timeout_s`` seconds, 1 by default.

        Returns the ids of the goals; None if there is no request.
        """
        first = self._canceled.take(_TAKE_TIMEOUT if timeout_s is None else timeout_s)
        if first is None:
            return None
        found = [first]
        while (more := self._canceled.take(0)) is not None:
            found.append(more)
        return found

    def set_on_goal(self, callback: Callable[[], None] | None) -> None:
        """Set what a thread calls after each goal and each request to cancel."""
        self._new.set_on_arrival(callback)
        self._canceled.set_on_arrival(callback)

    def send_feedback(
        self, goal_id: str, feedback: pa.Array[Any] | Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> None:
        """Send feedback of a goal. Raises `ValueMismatch`, and `TransportError` for one that has ended."""
        value = one_message(feedback, self.type.feedback.name)
        self.type.feedback.encode(value)
        with self._lock:
            self._open_goal(goal_id)
        message = {"goal_id": _goal_field(goal_id), "feedback": _plain(value)}
        self._feedback.publish(self.type.feedback_message.encode(message))

    def send_result(
        self,
        goal_id: str,
        result: pa.Array[Any] | Mapping[str, Any] | Sequence[Mapping[str, Any]],
        status: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """End a goal with its result; clients that ask later get it too.

        ``status``: ``succeeded`` (the default), ``canceled``, or anything else for ``aborted``. With
        ``timeout_s`` it waits until a client has got the result, at most so many seconds: for a program
        that ends afterwards. Raises as `send_feedback` does.
        """
        value = one_message(result, self.type.result.name)
        self.type.result.encode(value)
        number = SUCCEEDED if status is None else _STATUS_OF.get(status, ABORTED)
        data = self.type.get_result.response.encode({"status": number, "result": _plain(value)})
        with self._lock:
            goal = self._open_goal(goal_id)
            goal.status, goal.result = number, data  # from now on, none is added to those that wait
        for request in goal.waiting:  # outside the lock: to send may take long, and clients wait
            try:
                self._results.send_response(request, data)
                goal.taken.set()
            except TransportError as error:  # this client has gone; the others wait for theirs
                self._dropped.add(str(error))
        self._publish_status()
        if timeout_s:
            goal.taken.wait(timeout_s)

    def _open_goal(self, goal_id: str) -> _ServedGoal:
        goal = self._goals.get(goal_id)
        if goal is None or goal.status in STATUS_NAMES:
            raise TransportError(f"there is no open goal {goal_id}")
        return goal

    def close(self) -> None:
        """Leave the action, and wake what waits."""
        self._answers.close()
        self._feedback.close()
        self._status.close()
        self._new.close()
        self._canceled.close()

    # ------------------------------------------------------------------ what clients ask, in the thread

    def _accept(self, _: RequestId, asked: Any) -> Record:
        goal_id = _goal_id_of(asked.field("goal_id")[0].as_py())
        stamp = stamp_of(self._now())
        with self._lock:
            if goal_id in self._goals:
                return {"accepted": False, "stamp": stamp}
            self._goals[goal_id] = _ServedGoal(stamp)
            self._forget()
        self._new.put((goal_id, asked.field("goal")))  # once it is among the goals: it may end at once
        self._publish_status()
        return {"accepted": True, "stamp": stamp}

    def _forget(self) -> None:
        """Forget the oldest goals that have ended; the caller holds the lock."""
        ended = [goal_id for goal_id, goal in self._goals.items() if goal.status in STATUS_NAMES]
        for goal_id in ended[: max(len(ended) - _MAX_KEPT, 0)]:
            del self._goals[goal_id]

    def _get_result(self, request: RequestId, asked: Any) -> Record | None:
        goal_id = _goal_id_of(asked.field("goal_id")[0].as_py())
        with self._lock:
            goal = self._goals.get(goal_id)
            if goal is None:
                return {"status": _UNKNOWN}
            if goal.status not in STATUS_NAMES:
                goal.waiting.append(request)
                return None
            data = goal.result
        self._results.send_response(request, data)
        goal.taken.set()
        return None

    def _cancel(self, _: RequestId, asked: Any) -> Record:
        info = asked.field("goal_info")[0].as_py()
        wanted, stamp = _goal_id_of(info["goal_id"]), info["stamp"]
        every = uuid.UUID(wanted).int == 0
        until = (stamp["sec"], stamp["nanosec"])
        found = []
        with self._lock:
            for goal_id, goal in self._goals.items():
                before = until != (0, 0) and (goal.stamp["sec"], goal.stamp["nanosec"]) <= until
                is_meant = goal_id == wanted or before or (every and until == (0, 0))
                if is_meant and goal.status in (_ACCEPTED, _EXECUTING):
                    goal.status = _CANCELING
                    found.append((goal_id, goal.stamp))
            known = wanted in self._goals
        for item in found:
            self._canceled.put(item[0])
        self._publish_status()
        code = _CANCEL_DONE
        if not found and not every:
            code = _CANCEL_ENDED if known else _CANCEL_UNKNOWN_GOAL
        goals = [{"goal_id": _goal_field(goal_id), "stamp": when} for goal_id, when in found]
        return {"return_code": code, "goals_canceling": goals}

    def _publish_status(self) -> None:
        with self._lock:  # to publish, too: an older status must not follow a newer one
            items = [
                {"goal_info": {"goal_id": _goal_field(goal_id), "stamp": goal.stamp}, "status": goal.status}
                for goal_id, goal in self._goals.items()
            ]
            try:
                self._status.publish(self._status_type.encode({"status_list": items}))
            except TransportError:
                pass  # the context is closed
