"""Actions: a goal that takes time, with feedback, a result, and requests to cancel it.

The client's side is a `Goal`; the server's is a function that `Node.serve_goals` registers and that
gets a `GoalRun`. Both follow the convention of ``goal_id`` and ``goal_status``: each message of a goal
carries its ``goal_id``; the result, and nothing else, carries a ``goal_status``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

from dora.errors import SendError
from dora.node.events import Input
from dora.node.patterns.replies import Exchange, Replies
from dora.node.patterns.service import EMPTY, sendable
from dora.node.process import print_error_of_handler
from dora.node.send.output import OutputPort
from dora.wire.correlation import ERROR, GOAL_ID, GOAL_STATUS, GoalStatus

FEEDBACK_KEPT: Final = 1000  # messages that wait in a `Goal`; a program that wants the result reads none
GOALS_REMEMBERED: Final = 1000  # in a `GoalServer`, of those that are not under way


class Goal(Exchange):
    """A goal under way; made by `Node.send_goal`.

    >>> goal = node.send_goal("goal", target)                             # doctest: +SKIP
    >>> for feedback in goal:                                             # doctest: +SKIP
    ...     print(feedback.value)
    >>> goal.result().value, goal.status                                  # doctest: +SKIP

    Iterating (``for``, ``async for``) gives the feedback, as `Input` events, and ends with the result.
    Feedback waits here, the newest 1,000 messages; ``feedback_dropped`` counts the rest.
    """

    noun: ClassVar[str] = "goal"
    key: ClassVar[str] = GOAL_ID

    def __init__(
        self,
        replies: Replies,
        output_id: str,
        named: Iterable[str] | None,
        timeout: float | None,
        cancel: Callable[[str], None],
    ) -> None:
        """``cancel`` requests the end of the goal with this id; the other parameters are of `Exchange`."""
        super().__init__(replies, output_id, named, timeout)
        self._cancel = cancel
        self._feedback: deque[Input] = deque()
        self.feedback_dropped = 0

    @property
    def status(self) -> GoalStatus | None:
        """``succeeded``, ``aborted`` or ``canceled``; None while there is no result."""
        return None if self._answer is None else self._answer["metadata"][GOAL_STATUS]

    @property
    def error(self) -> str | None:
        """The server's error message, if it aborted the goal with one."""
        return None if self._answer is None else self._answer["metadata"].get(ERROR)

    def cancel(self) -> None:
        """Ask the server to cancel; the result shows whether it did. Raises `UndeclaredOutput`."""
        if not self._has_ended:
            self._cancel(self.id)

    def take(self, event: Input) -> bool:
        if GOAL_STATUS not in event["metadata"]:
            if len(self._feedback) >= FEEDBACK_KEPT:
                self._feedback.popleft()
                self.feedback_dropped += 1
            self._feedback.append(event)
            self._wake()
            return False
        if not self._has_ended:
            # Earlier feedback may wait, unread, on another input.
            self._replies.dispatch_others(event["id"])
            self._finish(event)
        return True

    def result(self) -> Input:
        """Wait for the result and return it, an `Input` event; `status` has the outcome.

        Raises `CallTimedOut` (a ``TimeoutError``; the goal is not canceled by it), and `CallFailed`
        once no result can come any more. Events that come meanwhile stay for `Node.next`.
        """
        return self._wait_for_answer()

    def __iter__(self) -> Iterator[Input]:
        return self

    def __next__(self) -> Input:
        self._until(self._has_feedback)
        if not self._feedback:
            raise StopIteration
        return self._feedback.popleft()

    def __aiter__(self) -> AsyncIterator[Input]:
        return self

    async def __anext__(self) -> Input:
        await self._until_async(self._has_feedback)
        if not self._feedback:
            raise StopAsyncIteration
        return self._feedback.popleft()

    def _has_feedback(self) -> bool:
        return bool(self._feedback)

    def __repr__(self) -> str:
        state = "under way" if not self._has_ended else self.status or "failed"
        return f"<dora.Goal {self.id} on {self.output_id!r}, {state}>"


class GoalRun:
    """A goal that this node works on, in a thread of its own.

    ``id``, and ``value`` and ``metadata`` of the goal's message.
    """

    def __init__(self, event: Input, result: OutputPort, feedback: OutputPort | None) -> None:
        self.event = event
        self.id: str = event["metadata"][GOAL_ID]
        self._result = result
        self._feedback = feedback
        self._canceled = threading.Event()
        # To look whether the goal has ended and to end it is one step: a client gets one result.
        self._lock = threading.Lock()
        self.status: GoalStatus | None = None

    @property
    def value(self) -> Any:
        return self.event["value"]

    @property
    def metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = self.event["metadata"]
        return metadata

    @property
    def cancel_requested(self) -> bool:
        """Whether the client wants it canceled, or this node was asked to stop."""
        return self._canceled.is_set()

    def wait_for_cancel(self, timeout: float) -> bool:
        """Sleep until a cancel request or the timeout; return whether there is a request."""
        return self._canceled.wait(timeout)

    def request_cancel(self) -> None:
        self._canceled.set()

    def send_feedback(self, data: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Send feedback to the client. Raises `SendError` if no output for feedback was named."""
        if self._feedback is None:
            raise SendError("this action has no feedback; name its output: serve_goals(..., feedback=...)")
        self._feedback.send(data, {**(metadata or {}), GOAL_ID: self.id})

    def succeed(self, data: Any = EMPTY, metadata: Mapping[str, Any] | None = None) -> None:
        """Send the result. Returning data from the function does the same."""
        self._end("succeeded", data, metadata)

    def abort(self, data: Any = EMPTY, metadata: Mapping[str, Any] | None = None) -> None:
        """End the goal without success. An exception in the function does the same."""
        self._end("aborted", data, metadata)

    def cancel(self, data: Any = EMPTY, metadata: Mapping[str, Any] | None = None) -> None:
        """End the goal as canceled."""
        self._end("canceled", data, metadata)

    def _end(self, status: GoalStatus, data: Any, metadata: Mapping[str, Any] | None) -> None:
        with self._lock:
            if self.status is not None:
                raise SendError(f"the goal {self.id} has ended already: {self.status}")
            self._result.send(data, {**(metadata or {}), GOAL_ID: self.id, GOAL_STATUS: status})
            self.status = status  # after the send: if that fails, the goal can still be aborted


class GoalServer:
    """Runs the goals of one input, each in a thread."""

    def __init__(
        self, function: Callable[[GoalRun], Any], result: OutputPort, feedback: OutputPort | None
    ) -> None:
        self._function = function
        self._name = getattr(function, "__name__", str(function))
        self._result = result
        self._feedback = feedback
        self._runs: dict[str, tuple[GoalRun, threading.Thread]] = {}
        self._stopping = False
        # Inputs take turns, so the request to cancel a goal may come before the goal does.
        self._canceled_early = _RecentIds(GOALS_REMEMBERED)
        self._ended = _RecentIds(GOALS_REMEMBERED)  # else a late request to cancel counts as an early one
        self._lock = threading.Lock()  # several threads may receive, and goals end in theirs

    def start(self, event: Input) -> None:
        """Start a goal; ignore one with the id of another that is under way.

        After a stop, goals that were sent before it still come; they are canceled from their beginning. A
        goal for which the system has no thread is aborted.
        """
        run = GoalRun(event, self._result, self._feedback)
        with self._lock:
            if run.id in self._runs:
                return
            thread = threading.Thread(target=self._run, args=(run,), name=f"dora goal {run.id}")
            self._runs[run.id] = run, thread
            if self._canceled_early.take(run.id) or self._stopping:
                run.request_cancel()
        try:
            thread.start()
        except RuntimeError as error:
            print_error_of_handler(self._name, error)
            self._abort(run, f"`{self._name}` cannot start: {error}")
            self._forget(run)

    def cancel(self, event: Input) -> None:
        """Request to cancel a goal, also one that is still to come; ignore one that has ended already."""
        goal_id = event["metadata"][GOAL_ID]
        with self._lock:
            found = self._runs.get(goal_id)
            if found is not None:
                found[0].request_cancel()
            elif goal_id not in self._ended:
                self._canceled_early.add(goal_id)

    def cancel_all(self) -> None:
        """Request to cancel all goals, and those that still come."""
        self._stopping = True  # first: a goal that begins meanwhile sees this, or is in the list
        for run, _ in list(self._runs.values()):
            run.request_cancel()

    def wait(self) -> None:
        """Wait until no goal is under way."""
        for _, thread in list(self._runs.values()):
            thread.join()

    def _run(self, run: GoalRun) -> None:
        try:
            answer = self._function(run)
            if run.status is None:
                run.succeed(EMPTY if answer is None else answer)
        except BaseException as error:  # noqa: BLE001 - also `sys.exit`, which only ends this thread
            print_error_of_handler(self._name, error)
            if run.status is None:
                self._abort(run, f"`{self._name}` raised {type(error).__name__}: {error}")
        finally:
            self._forget(run)

    def _forget(self, run: GoalRun) -> None:
        with self._lock:
            del self._runs[run.id]
            self._ended.add(run.id)

    def _abort(self, run: GoalRun, error: str) -> None:
        try:
            run.abort(metadata={ERROR: sendable(error)})
        except SendError:
            pass  # the node was closed meanwhile: the client cannot get it


class _RecentIds:
    """The newest ids of those that were added."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, goal_id: str) -> bool:
        return goal_id in self._ids

    def add(self, goal_id: str) -> None:
        self._ids[goal_id] = None
        self._ids.move_to_end(goal_id)
        if len(self._ids) > self._size:
            self._ids.popitem(last=False)

    def take(self, goal_id: str) -> bool:
        """Remove an id; return whether it was there."""
        found = goal_id in self._ids
        self._ids.pop(goal_id, None)
        return found
