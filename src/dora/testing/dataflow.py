"""A whole dataflow inside one test, in virtual time: `VirtualDataflow` and `run_dataflow`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from dora.daemon.logs.entry import LogEntry
from dora.daemon.supervisor.result import DataflowResult
from dora.dataflow import load, parse
from dora.dataflow.model import Dataflow, NodeSpec
from dora.dataflow.problems import listed, no_node
from dora.errors import DataflowFailed, DoraError
from dora.node.node import Node
from dora.node.program import Body, operators_body
from dora.testing.process_image import CannotRunInTest, function_body
from dora.testing.record import Messages
from dora.testing.scheduler import START_NS, Flag
from dora.testing.virtual_daemon import VirtualDaemon

if TYPE_CHECKING:
    from dora.builder import DataflowBuilder

    NodeBody = Callable[..., object] | str | os.PathLike[str]

DEFAULT_LIMIT = 60.0  # virtual seconds; a dataflow that never ends fails its test
DEFAULT_PATIENCE = 30.0  # real seconds; a node that never waits fails its test, which would hang else

_open: list[VirtualDataflow] = []  # at most one: it replaces the clock and the streams of the process


class VirtualDataflow:
    """A dataflow whose nodes are threads of this process, one running at a time, in virtual time.

    >>> with VirtualDataflow("dataflow.yml", play=["camera"]) as flow:        # doctest: +SKIP
    ...     flow.node("camera").send_output("image", frame)
    ...     flow.advance(0.5)
    ...     assert flow.outputs["detector/bbox"][0].time == 0.5

    Time stands still while any node runs. When all of them wait, it jumps to the next moment at which
    something happens. So timers, timeouts, ``time.sleep`` and ``asyncio.sleep`` cost no real time, and a
    run is the same each time. Messages, queues, the start barrier, stops, restarts and closings are as
    in a real run. Output and log entries of nodes are in ``logs``, their messages in ``outputs``.

    The test takes part: ``time.sleep(1)`` in the test is `advance` by a second. Threads that a node
    starts itself, and ``datetime.now()``, stay in real time.
    """

    def __init__(
        self,
        dataflow: str | os.PathLike[str] | DataflowBuilder | Dataflow,
        *,
        nodes: Mapping[str, NodeBody | Mapping[str, Callable[[], Any]]] | None = None,
        play: Iterable[str] = (),
        env: Mapping[str, str] | None = None,
        working_dir: str | os.PathLike[str] | None = None,
        any_output: Iterable[str] = (),
        limit: float = DEFAULT_LIMIT,
        patience: float = DEFAULT_PATIENCE,
        echo: bool = True,
    ) -> None:
        """``dataflow``: a YAML file, the text of one (with a line break in it), or a `DataflowBuilder`.

        ``nodes``: replacements for programs of nodes: a function (without parameters, or one that takes the
        `dora.Node`; ``async`` too), a script, or for a node with operators a mapping from their ids to
        classes. ``play``: nodes that the test plays itself, see `node`. ``any_output``: nodes that
        may send to outputs they do not declare. ``limit``: seconds of virtual time that a run may take;
        ``patience``: real seconds that a node may compute without waiting. ``echo``: print what nodes
        log. Raises `DataflowError`, and `DoraError` for a node that cannot run in a test.
        """
        if _open:
            raise DoraError("another virtual dataflow is open; a process can have one at a time")
        checked = _checked(dataflow, env or {}, working_dir)
        self._played: dict[str, Node] = {}
        self._play = tuple(play)
        self._registered = Flag()
        self._seen = 0  # failures that the test knows
        self._at_close: int | None = None  # failures so far; `close` kills nodes, which is none
        given = dict(nodes or {})
        ids = [node.id for node in checked.nodes]
        for node_id in (*given, *self._play):
            if node_id not in ids:
                raise DoraError(no_node(node_id, ids))
        specs = [
            _as_process(node, given.get(node.id, self._played_body if node.id in self._play else None))
            for node in checked.nodes
        ]
        checked = msgspec.structs.replace(checked, nodes=tuple(specs))
        bodies = {
            node_id: _body(checked.node(node_id), body)
            for node_id, body in given.items()
            if not isinstance(body, (str, os.PathLike))
        }
        bodies |= {node_id: self._played_body(node_id) for node_id in self._play}
        namespaces = [namespace for body in given.values() for namespace in _namespaces(body)]
        stdout = sys.stdout
        self._daemon = VirtualDaemon(
            checked,
            bodies,
            namespaces=namespaces,
            any_output=frozenset(any_output),
            limit=limit,
            patience=patience,
            echo=(lambda line: print(line, file=stdout)) if echo else None,
        )
        _open.append(self)
        try:
            self._daemon.begin()
            self._daemon.scheduler.sleep(0)
            self._wait_for_played_nodes()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------ what happened

    @property
    def outputs(self) -> Messages:
        """The messages sent so far: ``outputs["node/output"]`` is a list of `Sent`."""
        return self._daemon.messages

    @property
    def logs(self) -> list[LogEntry]:
        """The output and log entries of all nodes so far."""
        return self._daemon.logs

    @property
    def time(self) -> float:
        """Seconds of virtual time since the start."""
        return (self._daemon.scheduler.now - START_NS) / 1e9

    @property
    def result(self) -> DataflowResult:
        """The result so far: failures, and the messages that each link carried and lost."""
        return self._daemon.result()

    @property
    def ended(self) -> bool:
        """Whether all nodes have ended."""
        return self._daemon.supervisor.state.done

    def lines(self, node_id: str) -> list[str]:
        """Return the output and log messages of a node."""
        return [entry.message for entry in self.logs if entry.node_id == node_id]

    # ------------------------------------------------------------------ what happens next

    def node(self, node_id: str) -> Node:
        """Return the `dora.Node` of a node that the test plays, to send, receive and close."""
        if node_id not in self._played:
            raise DoraError(f"the test does not play `{node_id}`; say so: play=[{node_id!r}]")
        return self._played[node_id]

    def advance(self, seconds: float) -> None:
        """Advance virtual time, with everything that happens up to and including the new moment.

        Raises the exception of the first failed node that the test does not know yet.
        """
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"time can advance by a number of seconds, at least 0, not by {seconds!r}")
        self._daemon.scheduler.sleep(round(seconds * 1e9))
        self.raise_failure()

    def stop(self) -> None:
        """Ask all nodes to stop, like Ctrl-C; `run` waits for them."""
        self._daemon.stop("the test stops it")

    def run(self, stop_after: float | None = None, *, check: bool = True) -> DataflowResult:
        """Run to the end of the dataflow; return its result.

        Nodes that the test plays are closed first. ``stop_after``: seconds of virtual time from the
        start, after which all nodes are asked to stop. With ``check``, raises the exception of the first
        failed node that the test does not know yet, or `DataflowFailed` with the report. Raises
        `VirtualTimeError` if it does not end.
        """
        for node in self._played.values():
            node.close()
        scheduler = self._daemon.scheduler
        if stop_after is not None and not self.ended:
            moment = START_NS + round(stop_after * 1e9)
            scheduler.wait(self._daemon.done, max(moment, scheduler.now), "the dataflow to end")
            if not self.ended:
                self.stop()
        if not self.ended:
            scheduler.wait(self._daemon.done, None, "the dataflow to end")
        if check:
            self.raise_failure()
        self._seen = len(self._daemon.supervisor.state.failures)
        return self.result

    def close(self) -> None:
        """Kill the nodes that still run, and restore clock and streams. A second call does nothing."""
        if self in _open:
            _open.remove(self)
            self._at_close = len(self._daemon.supervisor.state.failures)
            self._daemon.close()

    def __enter__(self) -> VirtualDataflow:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            if kind is None:
                self.raise_failure()
        finally:
            self.close()

    def raise_failure(self) -> None:
        """Raise the exception of the first failed node that the test does not know yet.

        So each failure is raised once; nodes that failed only because another one did are left out.
        """
        failures = self._daemon.supervisor.state.failures[: self._at_close]
        while self._seen < len(failures):
            failure = failures[self._seen]
            self._seen += 1
            if failure.kind == "cascading" and self._seen > 1:
                continue
            error = self._daemon.errors.get(failure.node_id)
            if error is None:
                from dora.daemon.report import failure_report

                self._seen = len(failures)  # the report has all of them
                error = DataflowFailed(failure_report(self.result, None))
            raise error

    # ------------------------------------------------------------------ nodes that the test plays

    def _played_body(self, node_id: str) -> Body:
        def play() -> None:
            closed = self._daemon.node_closed[node_id] = Flag()
            try:
                node = self._played[node_id] = Node()
            finally:
                self._daemon.scheduler.raise_flag(self._registered)
            # The process ends when the test closes its node.
            while not node._session.closed:
                self._daemon.scheduler.wait(closed, None, "the test, which plays it")

        return play

    def _wait_for_played_nodes(self) -> None:
        while len(self._played) < len(self._play):
            self._daemon.scheduler.wait(self._registered, None, "all nodes to be ready")
            self.raise_failure()


def run_dataflow(
    dataflow: str | os.PathLike[str] | DataflowBuilder | Dataflow,
    *,
    stop_after: float | None = None,
    check: bool = True,
    **options: Any,
) -> VirtualDataflow:
    """Run a dataflow in virtual time to its end; return it, with ``outputs``, ``logs`` and ``result``.

    `VirtualDataflow` takes the ``options``. `VirtualDataflow.run` takes ``stop_after`` and ``check``, and
    raises the same exceptions.
    """
    flow = VirtualDataflow(dataflow, **options)
    try:
        flow.run(stop_after, check=check)
    finally:
        flow.close()
    return flow


def _checked(
    dataflow: str | os.PathLike[str] | DataflowBuilder | Dataflow,
    env: Mapping[str, str],
    working_dir: str | os.PathLike[str] | None,
) -> Dataflow:
    folder = os.path.abspath(os.fspath(working_dir)) if working_dir is not None else None
    if isinstance(dataflow, Dataflow):
        checked = dataflow
    elif isinstance(dataflow, (str, os.PathLike)):
        text = os.fspath(dataflow)
        if "\n" in text:
            checked = parse(
                text,
                shown_file="<the test's dataflow>",
                working_dir=folder or os.getcwd(),
                environ=os.environ,
                env_overrides=env,
            )
        else:
            checked = load(text, env_overrides=env)
    else:
        checked = dataflow.check(env=env)
    return checked if folder is None else msgspec.structs.replace(checked, working_dir=folder)


def _namespaces(given: Any) -> Iterator[dict[str, Any]]:
    """Yield the globals of the modules that functions and classes come from."""
    if isinstance(given, Mapping):
        for each in given.values():
            yield from _namespaces(each)
    module = sys.modules.get(getattr(given, "__module__", None) or "")
    if module is not None and callable(given):
        yield vars(module)


def _as_process(node: NodeSpec, given: Any) -> NodeSpec:
    """Return a node for the supervisor: without health checks, and with a path if the test replaces it."""
    changes: dict[str, Any] = {"health_check_timeout": None}
    if isinstance(given, (str, os.PathLike)):
        changes["path"] = path = os.path.abspath(os.fspath(given))
        if not os.path.isfile(path):
            raise CannotRunInTest(f"there is no file {path}, which is given for node `{node.id}`")
    elif given is not None and not node.is_runtime:
        changes["path"] = "(the test)"
    return msgspec.structs.replace(node, **changes)


def _body(spec: NodeSpec, given: Any) -> Body:
    if spec.is_runtime:
        classes = given if isinstance(given, Mapping) else {spec.operators[0].id: given}
        ids = [operator.id for operator in spec.operators]
        for operator_id in classes:
            if operator_id not in ids:
                raise CannotRunInTest(
                    f"node `{spec.id}` has no operator `{operator_id}`; it has {listed(ids)}"
                )
        return operators_body(classes)
    if not callable(given):
        raise CannotRunInTest(f"what is given for node `{spec.id}` is neither a function nor a script")
    return function_body(given)
