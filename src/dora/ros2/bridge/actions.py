"""An action of a `ros2` block: goals of inputs for a server of ROS, or of ROS for a node.

The metadata are the ones of actions in dora: `goal_id` belongs to each message of a goal, `goal_status` to
its result. So `node.send_goal` and `node.serve_goals` work with ROS.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from dora.dataflow.ros2 import Ros2BlockCalls
from dora.errors import DoraError, TransportError, UnsupportedData
from dora.node.events import Input
from dora.node.node import Node
from dora.ros2.api.actions import RESULT_TIMEOUT, Ros2ActionClient, Ros2ActionServer
from dora.ros2.api.context import Ros2Node
from dora.ros2.message_queue import Deliveries, Delivery
from dora.ros2.names import ROS2_TYPE
from dora.wire.correlation import ERROR, GOAL_ID, GOAL_STATUS

MAX_OPEN: Final = 8  # goals of a client that have not ended, as in dora-rs


class ServedAction:
    """Gives goals of ROS to an output, and feedback and results of inputs back."""

    def __init__(
        self, node: Node, ros_node: Ros2Node, calls: Ros2BlockCalls, server: Ros2ActionServer
    ) -> None:
        self._node = node
        self._ports = calls.ports
        self._server = server
        self._metadata = {ROS2_TYPE: server.type.goal.name}
        self._dropped = ros_node.dropped(f"action {calls.name}")

    def next(self, timeout: float | None = None) -> Delivery | None:
        """Return what has come; ``timeout`` counts for goals."""
        canceled = self._server.take_cancel(0)
        if canceled is not None:
            return partial(self._cancel, canceled)
        taken = self._server.take_goal(threading.TIMEOUT_MAX if timeout is None else timeout)
        return None if taken is None else partial(self._deliver, *taken)

    def set_on_message(self, callback: Callable[[], None] | None) -> None:
        self._server.set_on_goal(callback)

    def _deliver(self, goal_id: str, goal: Any) -> None:
        self._node.send_output(self._ports["goal"], goal, {**self._metadata, GOAL_ID: goal_id})

    def _cancel(self, goal_ids: list[str]) -> None:
        output = self._ports.get("cancel")
        for goal_id in goal_ids:
            if output is not None:
                self._node.send_output(output, b"", {GOAL_ID: goal_id})

    def handle(self, event: Input) -> None:
        metadata = event["metadata"]
        goal_id = _goal_id(metadata)
        is_result = event["id"] == self._ports["result"]
        try:
            if is_result:
                status = "aborted" if metadata.get(ERROR) else metadata.get(GOAL_STATUS)
                if not isinstance(status, str | None):
                    status = "aborted"
                # A goal without a result, such as one that was aborted, has the defaults of its type.
                value: Any = event["value"] if len(event["value"]) else {}
                self._server.send_result(goal_id, value, status)
            else:
                self._server.send_feedback(goal_id, event["value"])
        except TransportError as error:
            self._dropped.add(str(error))
        except UnsupportedData as error:
            self._dropped.add(str(error))
            if is_result:  # the node sends no other one, and the client waits
                self._abort(goal_id)

    def _abort(self, goal_id: str) -> None:
        try:
            self._server.send_result(goal_id, {}, "aborted")
        except TransportError as error:
            self._dropped.add(str(error))


def _goal_id(metadata: Mapping[str, Any]) -> str:
    """Return the id of the goal that a message belongs to; empty if it has none, or one that is no text."""
    found = metadata.get(GOAL_ID)
    return found if isinstance(found, str) else ""


@dataclass
class _SentGoal:
    """A goal that has not ended."""

    ros_id: str = ""  # until it is accepted
    deadline: float = math.inf  # of its next feedback, or its result
    is_canceled: bool = False  # before it was accepted


class CalledAction(Deliveries):
    """Sends goals of an input to a server of ROS, and feedback and results to outputs.

    Goals that cannot be sent end as ``aborted``, with `error` in the metadata of the result. So do goals
    whose server is silent for `RESULT_TIMEOUT`: most engines do not tell that it has gone. A goal with the
    id of one that has not ended is left out, with a warning: the result of one would end the other, too.
    """

    def __init__(
        self, node: Node, ros_node: Ros2Node, calls: Ros2BlockCalls, client: Ros2ActionClient
    ) -> None:
        super().__init__()
        self._node = node
        self._warn = ros_node.logger.warning
        self._ports = calls.ports
        self._client = client
        self._name = calls.name
        # By their ids in dora. Only the thread of the node uses it; other threads `put` what is to be done.
        self._open: dict[str, _SentGoal] = {}

    # ---------------------------------------------------------------- goals

    def handle(self, event: Input) -> None:
        metadata = event["metadata"]
        if event["id"] == self._ports.get("cancel"):
            self._cancel(_goal_id(metadata))
            return
        key = _goal_id(metadata) or f"goal-{event.sequence}"
        if key in self._open:
            self._warn(f"action {self._name} has an open goal {key}; another one with its id is left out")
            return
        if len(self._open) >= MAX_OPEN:
            self._fail(key, f"{MAX_OPEN} goals have not ended yet")
            return
        self._open[key] = _SentGoal()
        # To wait for the server and its answer takes seconds: the other goals go on meanwhile.
        threading.Thread(target=self._send, args=(key, event["value"]), daemon=True).start()

    def _send(self, key: str, value: Any) -> None:
        try:
            goal_id = self._client.send_goal(value)
            if goal_id is None:
                self.put(partial(self._fail, key, "the server refuses the goal"))
                return
            future = self._client.request_result(goal_id)
        except Exception as error:  # noqa: BLE001  # else the goal would never end, and keep its place
            self.put(partial(self._fail, key, str(error)))
            return
        # Before feedback and result: they count for a goal that has this id of ROS, which it gets there.
        self.put(partial(self._accepted, key, goal_id))
        self._client.set_on_feedback(goal_id, lambda: self.put(partial(self._feedback, key, goal_id)))
        future.add_done_callback(lambda done: self.put(partial(self._result, key, goal_id, done)))

    def _accepted(self, key: str, goal_id: str) -> None:
        goal = self._open.get(key)
        if goal is None:
            return  # it has ended
        goal.ros_id, goal.deadline = goal_id, time.monotonic() + RESULT_TIMEOUT
        if goal.is_canceled:
            self._cancel(key)

    def _cancel(self, key: str) -> None:
        goal = self._open.get(key)
        if goal is None:
            self._warn(f"action {self._name} has no open goal {key} to cancel")
            return
        if not goal.ros_id:
            goal.is_canceled = True  # ROS has no id for it yet
            return

        def ask() -> None:
            try:
                self._client.cancel(goal.ros_id)
            except DoraError as error:
                reason = f"goal {key} of {self._name} cannot be canceled: {error}"
                self.put(lambda: self._warn(reason))

        threading.Thread(target=ask, daemon=True).start()

    def _feedback(self, key: str, goal_id: str) -> None:
        output, goal = self._ports.get("feedback"), self._open.get(key)
        if goal is None or goal.ros_id != goal_id:
            return  # it has ended, and another one may have its id
        while (found := self._client.take_feedback(goal_id, 0)) is not None:
            goal.deadline = time.monotonic() + RESULT_TIMEOUT
            if output is not None:
                metadata = {ROS2_TYPE: self._client.type.feedback.name, GOAL_ID: key}
                self._node.send_output(output, found, metadata)

    def _result(self, key: str, goal_id: str, future: Future[bytes]) -> None:
        goal = self._open.get(key)
        if goal is None or goal.ros_id != goal_id:
            self._client.forget(goal_id)
            return  # it has ended or was given up, and another one may have its id
        self._feedback(key, goal_id)  # before the result, after which nobody expects feedback
        try:
            status, result = self._client.read_result(goal_id, future.result(0))
        except DoraError as error:
            self._client.forget(goal_id)
            self._fail(key, str(error))
            return
        self._open.pop(key, None)
        metadata = {ROS2_TYPE: self._client.type.result.name, GOAL_ID: key, GOAL_STATUS: status}
        self._node.send_output(self._ports["result"], result, metadata)

    def _fail(self, key: str, reason: str) -> None:
        self._open.pop(key, None)
        self._warn(f"a goal of {self._name} has failed: {reason}")
        metadata = {GOAL_ID: key, GOAL_STATUS: "aborted", ERROR: reason}
        self._node.send_output(self._ports["result"], b"", metadata)

    # ---------------------------------------------------------------- time

    def due(self) -> float | None:
        """Return when `on_due` has something to do (monotonic seconds); None: never."""
        found = min((goal.deadline for goal in self._open.values()), default=math.inf)
        return None if found == math.inf else found

    def on_due(self) -> None:
        """Give up the goals whose server is silent."""
        now = time.monotonic()
        for key, goal in list(self._open.items()):
            if goal.deadline <= now and self._client.give_up(goal.ros_id):
                self._fail(key, f"there is no feedback and no result after {RESULT_TIMEOUT:g} s")
