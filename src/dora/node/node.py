"""`Node`: a program's place in a dataflow."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter, index
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from msgspec import structs

from dora.errors import DoraError, NotInDataflow
from dora.node.current_event import current_of
from dora.node.events import Event, Input
from dora.node.log import write_log
from dora.node.process import end_tracebacks_at_the_program, freeze_gc, show_without_traceback
from dora.node.send.loan import ArrayLoan, SampleHandler
from dora.node.session.session import Session
from dora.transport.board import DROPPED, WORDS, delivered, link_counts
from dora.wire.array_shape import describe_shape
from dora.wire.arrow_formats import plain_format
from dora.wire.correlation import uuid7
from dora.wire.counters import LINK_COUNTERS, NODE_COUNTERS
from dora.wire.node_config import InputConfig, decode_descriptor
from dora.wire.node_protocol import SetOwnParameters

if TYPE_CHECKING:
    from dora.node.external import ExternalSource
    from dora.node.patterns.action import Goal, GoalRun
    from dora.node.patterns.replies import Replies
    from dora.node.patterns.service import Call, Serving
    from dora.node.patterns.stream import Stream
    from dora.node.patterns.watch import InputWatch, Take
    from dora.node.receive.inbox import Inbox

_Handler = TypeVar("_Handler", bound=Callable[[Input], Any])
_GoalHandler = TypeVar("_GoalHandler", bound="Callable[[GoalRun], Any]")


class Node:
    """This program's node in a running dataflow.

    >>> from dora import Node                                             # doctest: +SKIP
    >>> node = Node()                                                     # doctest: +SKIP
    >>> for event in node:                                                # doctest: +SKIP
    ...     if event["type"] == "INPUT":
    ...         node.send_output("out", event["value"], event["metadata"])

    Creating it connects to the dataflow that started this program, or, with ``node_id``, to the
    running dataflow that declares this node with ``path: dynamic``; and returns once every other
    (non-dynamic) node is ready too, so that nothing sent from then on misses its receivers.

    Events are taken with `next`, `try_recv`, `drain`, `recv_async`, or by iterating (``for``,
    ``async for``); sent with `send_output`, `send_output_raw`, `loan`. Methods may be called from any
    thread. ``with Node() as node`` closes it at the end of the block.

    In a process that a dataflow started, a second `Node` shares everything with the first, after a warning.
    Elsewhere, a `Node` of the same ``node_id`` replaces the one before, which is closed: so a cell of a
    notebook can run again.

    Raises `NotInDataflow`, `ConnectError`, `StartFailed` (all are ``RuntimeError``).
    """

    def __init__(self, node_id: str | None = None, daemon_port: int | None = None) -> None:
        """``daemon_port`` is accepted for dora-rs and unused: a dataflow is found by its socket."""
        del daemon_port
        self._session: Session
        started_as = os.environ.get("DORA_NODE_CONFIG", "")
        place = started_as or f"{node_id} in {os.environ.get('DORA_DATAFLOW', '')}"
        nodes = _nodes.setdefault(place, WeakSet())
        first = next((node for node in nodes if not node._session.closed), None)
        if first is not None:
            if started_as:
                first._warn_of_second_node()
                self.__dict__ = first.__dict__
                nodes.add(self)
                return
            first.close()
        try:
            self._session = Session(node_id)
        except DoraError as error:
            show_without_traceback(error)
            raise
        if self._session.owns_process:
            end_tracebacks_at_the_program()
        self._config = self._session.config
        self.id: str = self._config.node_id
        self._inbox: Inbox | Serving = self._session.inbox
        self._replies: Replies | None = None
        self._server: Serving | None = None  # the inbox, once something is served
        self._watch: InputWatch | None = None
        self._outputs = self._session.outputs
        self._is_shared = False
        if self._session.owns_process and (started_as or self._config.dynamic):
            nodes.add(self)

    # ------------------------------------------------------------------ receiving

    def next(self, timeout: float | None = None) -> Event | None:
        """Wait for the next event and return it; None once the stream has ended, and ever after.

        With ``timeout`` (seconds; 0: without waiting), returns an ``ERROR`` event when it expires, as
        existing programs expect; its ``is_timeout`` is True. Raises ``ValueError`` for a negative or
        non-finite timeout. Ctrl-C works while it waits.
        """
        return self._inbox.next(_checked(timeout))

    def try_recv(self) -> Event | None:
        """Return an event that is there, else None (also at the end); never blocks."""
        return self._inbox.try_next()

    def drain(self) -> list[Event]:
        """Return all events that are there, oldest first; raises `ReceiveClosed` after the end."""
        return self._inbox.drain()

    def is_empty(self) -> bool:
        """Return whether no event is there."""
        return self._inbox.is_empty()

    async def recv_async(self, timeout: float | None = None) -> Event | None:
        """As `next`, for asyncio: other tasks run meanwhile. No thread is involved."""
        return await self._inbox.next_async(_checked(timeout))

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        event = self._inbox.next(None)
        if event is None:
            raise StopIteration
        return event

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        event = await self._inbox.next_async(None)
        if event is None:
            raise StopAsyncIteration
        return event

    def merge_external_events(self, subscription: ExternalSource) -> None:
        """Receive the messages of a ROS 2 subscription as events, too.

        They come as `External` events, ``{"kind": "external", "value": message}``, in turn with the ones of
        the inputs, and wake a program that waits. They do not keep the stream of events open: it ends when
        it would without them. May be called for any number of subscriptions.
        """
        from dora.node.external import ExternalInput

        self._session.inbox.merge(partial(ExternalInput, subscription))

    # ------------------------------------------------------------------ sending

    def send_output(
        self,
        output_id: str,
        data: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        follows: Input | Iterable[Input] | None = None,
    ) -> None:
        """Send one message on an output.

        ``data``: ``bytes``, ``bytearray``, ``memoryview``, a NumPy array (sent flat), an Arrow array,
        chunked array, record batch or table (arrive as struct arrays). ``metadata``: string keys;
        values may nest, see the reference. It is copied before the call returns.

        ``follows``: the event, or the events, that the message follows from, for the latency of paths. By
        default that is the event that was taken last, until the program asks for the next one.

        Never waits, except on an output with a ``queue_policy: backpressure`` link whose queue is
        full. Once the dataflow was asked to stop it does not wait for that either: the message is not
        sent, and counted as ``unsent``.

        An output that is not declared is warned about once, counted and dropped; with
        ``DORA_STRICT=1`` it raises `UndeclaredOutput`. Raises `UnsupportedData` for data that
        cannot be sent, `SharedMemoryFull`, `SendError` after `close`, and in a signal handler that has
        interrupted a send on the same output.
        """
        port = self._outputs.get(output_id)
        if port is None:
            self._session.drop(output_id)
            return
        if follows is None:
            port.send(data, metadata)
        else:
            port.send(data, metadata, current=current_of(follows))

    def may_wait(self, output_id: str) -> bool:
        """Return whether `send_output` may wait, for a link with ``queue_policy: backpressure``."""
        port = self._outputs.get(output_id)
        return port is not None and bool(port._pressure)

    def send_output_raw(
        self, output_id: str, data_length: int, metadata: Mapping[str, Any] | None = None
    ) -> SampleHandler:
        """Get shared memory for ``data_length`` bytes, to be filled in place: no copy at all.

        Arrives as a ``uint8`` array. Raises `UndeclaredOutput`, `SharedMemoryFull`.
        """
        return SampleHandler(self._session.output(output_id), b"C", data_length, metadata)

    def loan(
        self,
        output_id: str,
        shape: int | tuple[int, ...],
        dtype: Any = "uint8",
        metadata: Mapping[str, Any] | None = None,
    ) -> ArrayLoan:
        """Get shared memory as a NumPy array, to be filled in place; sent at the end of the block.

        >>> with node.loan("image", (480, 640, 3)) as frame:              # doctest: +SKIP
        ...     camera.read(frame)

        Arrives as an array that was sent with `send_output`: flat, with the shape in the metadata. The
        dtypes are integers and floats. Nothing is sent if the block raises. Raises `UndeclaredOutput`,
        `SharedMemoryFull`, `UnsupportedData` for other dtypes.
        """
        port = self._session.output(output_id)
        dimensions = tuple(shape) if isinstance(shape, Iterable) else (index(shape),)
        schema, dtype_name, size = plain_format(dtype)
        for length in dimensions:
            size *= length
        if metadata or len(dimensions) != 1:
            metadata = describe_shape(dimensions, dtype_name, metadata)
        return ArrayLoan(SampleHandler(port, schema, size, metadata), dtype_name, dimensions)

    def send_service_request(
        self, output_id: str, data: Any, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Send a request and return its fresh ``request_id``, which the response will carry."""
        if metadata and "request_id" in metadata:
            self.log_warn("send_service_request: the given `request_id` is replaced by a fresh one")
        request_id = uuid7()
        self.send_output(output_id, data, {**(metadata or {}), "request_id": request_id})
        return request_id

    def send_service_response(self, output_id: str, data: Any, metadata: Mapping[str, Any]) -> None:
        """Send the response to a request; ``metadata`` carries the request's ``request_id``."""
        if "request_id" not in metadata:
            self.log_warn("send_service_response: the metadata has no `request_id`; nobody can match it")
        self.send_output(output_id, data, metadata)

    # ------------------------------------------------------------------ services, actions, streams

    def call(
        self,
        output_id: str,
        data: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        reply: str | Iterable[str] | None = None,
    ) -> Call:
        """Send a request to a service; ``await`` the `Call`, or ``wait()`` for it, to get the response.

        ``timeout``: seconds from now on. ``reply``: the input, or inputs, on which the response comes;
        by default all inputs from nodes that receive this output. Other events stay for `next`.
        Raises `UndeclaredOutput`, and `UndeclaredInput` if no response can come; what concerns the
        server is raised by waiting.
        """
        from dora.node.patterns.service import Call

        port, replies = self._session.output(output_id), self._exchanges()
        call = Call(replies, output_id, [reply] if isinstance(reply, str) else reply, _checked(timeout))
        replies.ask(call, port, data, metadata)
        return call

    def serve(self, input_id: str, output_id: str) -> Callable[[_Handler], _Handler]:
        """Register a function that answers the requests of an input, while this node receives events.

        >>> @node.serve("request", "response")                            # doctest: +SKIP
        ... def add(request):
        ...     return pa.compute.sum(request.value)

        The function gets the `Input` event and returns the data of the response (None: empty). An
        exception is printed and answered as ``error``. It may be ``async`` in a program that receives with
        asyncio. Messages without ``request_id`` remain events. Raises `UndeclaredInput`,
        `UndeclaredOutput`, ``ValueError`` for an input that is served already.
        """
        from dora.node.patterns.service import responder

        port = self._session.output(output_id)

        def register(handler: _Handler) -> _Handler:
            self._serving(input_id).add(input_id, "request_id", responder(handler, port))
            return handler

        return register

    def send_goal(
        self,
        output_id: str,
        data: Any,
        metadata: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        cancel: str = "cancel",
        reply: Iterable[str] | None = None,
    ) -> Goal:
        """Send a goal to an action; the `Goal` gives its feedback and its result, and cancels it.

        ``cancel``: the output for `Goal.cancel`. ``timeout`` (seconds from now until the result) and
        ``reply`` (the inputs of feedback and result) as for `call`; so are the errors.
        """
        from dora.node.patterns.action import Goal

        session = self._session

        def send_cancel(goal_id: str) -> None:
            session.output(cancel).send(b"", {"goal_id": goal_id})

        port, replies = session.output(output_id), self._exchanges()
        goal = Goal(replies, output_id, reply, _checked(timeout), send_cancel)
        replies.ask(goal, port, data, metadata)
        return goal

    def serve_goals(
        self, input_id: str, result: str, feedback: str | None = None, cancel: str | None = None
    ) -> Callable[[_GoalHandler], _GoalHandler]:
        """Register a function that works on the goals of an input, each in a thread of its own.

        ``result``, ``feedback``: outputs. ``cancel``: the input on which goals are canceled. The function
        gets a `GoalRun`; what it returns is the result, what it raises aborts the goal. Goals begin and
        are canceled while this node receives events; before `next` reports the end of the stream, it
        waits for those that are under way. Raises as `serve` does.
        """
        from dora.node.patterns.action import GoalServer

        ports = [self._session.output(name) for name in (result, feedback) if name is not None]

        def register(function: _GoalHandler) -> _GoalHandler:
            server = GoalServer(function, ports[0], ports[1] if feedback is not None else None)
            serving = self._serving(input_id)
            serving.add(input_id, "goal_id", server.start)
            if cancel is not None:
                self._serving(cancel).add(cancel, "goal_id", server.cancel)
            serving.on_stop(server.cancel_all, server.wait)
            return function

        return register

    def stream(
        self, output_id: str, session_id: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Stream:
        """Begin a session of chunks on an output; ``metadata`` is sent with each of them.

        ``session_id``: a fresh UUID if there is none. Raises `UndeclaredOutput`.
        """
        from dora.node.patterns.stream import Stream

        return Stream(self._session.output(output_id), session_id, metadata)

    def show(self, *input_ids: str) -> None:
        """Show inputs live, as pictures, plots or text, below the cell of a Jupyter notebook.

        A thread draws them until the node is closed, or the dataflow ends; the call returns at once.
        The messages still arrive as events. Of those that come while the program does not receive, it gets
        the newest ``queue_size``, and the sender does not wait for it.

        Raises `UndeclaredInput`, and `DoraError` outside of a notebook.
        """
        from importlib.metadata import entry_points

        # Viewers are above nodes, which only know their interface: a function of a node and input ids.
        (viewer,) = entry_points(group="dora.viewers", name="notebook")
        viewer.load()(self, input_ids)

    def _watched(self, input_id: str, take: Take | None = None) -> InputWatch:
        """Watch an input, if there is a ``take``; raises `UndeclaredInput`."""
        from dora.node.patterns.replies import check_input
        from dora.node.patterns.watch import InputWatch

        check_input(self._config, input_id)
        if self._watch is None:
            self._watch = InputWatch(self._config, self._session.inbox)
        if take is not None:
            self._watch.add(input_id, take)
        return self._watch

    def _exchanges(self) -> Replies:
        if self._replies is None:
            from dora.node.patterns.replies import Replies

            self._replies = Replies(self._config, self._session.inbox)
        return self._replies

    def _serving(self, input_id: str) -> Serving:
        from dora.node.patterns.service import Serving

        self._exchanges().check_input(input_id)
        if self._server is None:
            self._inbox = self._server = Serving(self._session.inbox)
        return self._server

    # ------------------------------------------------------------------ information

    def dataflow_id(self) -> str:
        """Return the UUID of this run of the dataflow."""
        return self._config.dataflow_id

    def dataflow_descriptor(self) -> dict[str, Any]:
        """Return the dataflow file, parsed; raises `NotInDataflow` if inputs are recorded or typed in."""
        descriptor: dict[str, Any] = decode_descriptor(self._config.descriptor)
        if not descriptor:
            raise NotInDataflow(f"node `{self.id}` runs by itself, so there is no dataflow to describe")
        return descriptor

    def node_config(self) -> dict[str, Any]:
        """Return ``{"inputs": {id: source}, "outputs": [id]}``; a source with options is a mapping."""
        return self._config.run_config

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The parameters of this node, from the YAML or changed since.

        A live view, up to date whenever this program receives events; `ParamUpdate` and
        `ParamDeleted` report changes. It cannot be written to.
        """
        return MappingProxyType(self._session.inbox.parameters)

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        """Set parameters of this node, as ``dora param set`` does. The dataflow keeps them over restarts.

        Returns at once. ``parameters`` has the values when their `ParamUpdate` events come; all are set
        together. ``values``: JSON values by name. Raises ``ValueError`` for a name or a value that no
        parameter can have, and then sets none; `DaemonLost` if the daemon is gone.
        """
        from dora.dataflow.names import parameter_fault  # its patterns are for few programs

        for key, value in values.items():
            if fault := parameter_fault(key, value):
                raise ValueError(fault)
        self._session.channel.send(SetOwnParameters(dict(values)))

    def is_restart(self) -> bool:
        """Return whether an earlier process of this node ended and was restarted."""
        return self._config.restart_count > 0

    def restart_count(self) -> int:
        """Return how often this node has been restarted."""
        return self._config.restart_count

    def save_state(self, state: bytes | bytearray | memoryview) -> None:
        """Leave something for the next process of this node, instead of what was left before.

        After a restart or a hot reload, that process gets it from `load_state`. Any size; kept until the
        dataflow ends, and in a dataflow on several machines also when this machine reboots. Raises
        `SendError` if there is no room.
        """
        self._session.state.save(state)

    def load_state(self) -> bytes | None:
        """Return what an earlier process of this node saved last; None if none did."""
        return self._session.state.load()

    def timestamp(self) -> datetime:
        """Return the current time, aware, in UTC."""
        return datetime.fromtimestamp(time.time(), UTC)

    def statistics(self) -> dict[str, Any]:
        """Return what was sent, received and lost so far.

        ``{"outputs": {id: {"sent": n}}, "inputs": {id: {"received": n, "dropped": n}}, "restarts": n, …}``:
        of all processes of the node, with each counter of nodes that the manual lists. An input also has
        the counters of its rules, such as ``"expired"`` with a ``max_age``. An output has ``"unsent": n``
        if messages were not sent because a queue was full at a stop; of a node that calls or serves also
        ``"replies": {"pending", "answered", "late", "duplicates"}``. Of a node with timers also
        ``"timers": {id: {"ticks", "missed", "lateness", "jitter"}}``: how late ticks were taken, and how
        much that differed from one to the next, each as ``{"median_ms", "p99_ms", "worst_ms"}``. With
        ``sync`` also ``"sync": {lead: {"complete": n, "incomplete": n}}``. ``"paths"``: for each
        output whose data has reached an input, a dictionary with ``source``, ``sink``, ``messages``, and in
        milliseconds ``median_ms``, ``p99_ms``, ``worst_ms``, ``mean_ms``.
        """
        words, base = self._session.board.words, self._config.node_slot * WORDS
        groups = self._session.inbox.group_statistics()
        return {
            "outputs": {port.id: port.statistics() for port in self._outputs.values()},
            "inputs": {
                item.id: _counts(item, words) for item in self._config.inputs if item.kind != "timer"
            },
            **{counter.name: words[base + counter.word] for counter in NODE_COUNTERS},
            **({"timers": timers} if (timers := self._session.inbox.tick_statistics()) else {}),
            **({"sync": groups} if groups else {}),
            "paths": [structs.asdict(path) for path in self._session.path_latencies()],
            **({} if self._replies is None else {"replies": self._replies.statistics()}),
        }

    def _warn_of_second_node(self) -> None:
        """Warn of a second object; make further ones slow, as connections of their own would be.

        Published packages make one for each message, and would send without end otherwise.
        """
        if self._is_shared:
            time.sleep(_FURTHER_NODE_PAUSE)
            return
        self._is_shared = True
        self.log_warn(
            f"`Node()` was called again in the process of node `{self.id}`; it is the same node, so "
            "both take from the same events"
        )

    # ------------------------------------------------------------------ logging

    def log(
        self,
        level: str,
        message: str,
        target: str | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        """Write a log entry. ``level``: error, warn, info, debug or trace; others count as info."""
        write_log(self.id, level, message, target, fields)

    def log_error(self, message: str) -> None:
        self.log("error", message)

    def log_warn(self, message: str) -> None:
        self.log("warn", message)

    def log_info(self, message: str) -> None:
        self.log("info", message)

    def log_debug(self, message: str) -> None:
        self.log("debug", message)

    def log_trace(self, message: str) -> None:
        self.log("trace", message)

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Leave the dataflow: receivers of this node's outputs get ``INPUT_CLOSED`` after the data.

        Called by ``with`` and when the object goes away. A program that simply ends need not call it:
        the daemon sees the end of the process, and whether it failed; a dynamic node reports it at its
        exit. Calling it again does nothing.
        """
        if self._server is not None:
            self._server.stop()
        self._session.close()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        # When the block fails, the process is about to fail too. The daemon then reports the failure to
        # the receivers (NODE_FAILED) before their inputs close. It does not watch the process of a
        # dynamic node, which lives on in a notebook.
        if kind is None or (self._config.dynamic and issubclass(kind, KeyboardInterrupt)):
            self.close()
        elif self._config.dynamic:
            self._session.fail()

    def __repr__(self) -> str:
        return f"<dora.Node {self.id!r} of dataflow {self._config.dataflow_id}>"


_LONGEST = 1e9  # seconds of a timeout: locks and clocks of the system cannot count much further
_FURTHER_NODE_PAUSE = 0.5  # seconds, see `Node._warn_of_second_node`

# Place in a dataflow → the objects there. All share one session, which lives as long as one of them.
_nodes: dict[str, WeakSet[Node]] = {}
"""The nodes of this process, by the configuration that it was started with, or by the dynamic node."""


def _checked(timeout: float | None) -> float | None:
    try:
        if timeout is None or 0.0 <= timeout < float("inf"):
            return None if timeout is None else min(timeout, _LONGEST)
    except TypeError:
        raise TypeError(f"timeout is a number of seconds or None, not {type(timeout).__name__}") from None
    raise ValueError(f"timeout must be a finite number of seconds, at least 0, not {timeout}")


freeze_gc()


def _counts(item: InputConfig, words: memoryview) -> dict[str, int]:
    """Return what an input has received and lost."""
    counts = link_counts(words, item.slot)
    return {
        "received": delivered(words, item.slot, counts),
        "dropped": words[item.slot * WORDS + DROPPED],
        **{
            counter.name: counts.get(counter.name, 0)
            for counter in LINK_COUNTERS
            if any(attrgetter(rule)(item) for rule in counter.rules)
        },
    }
