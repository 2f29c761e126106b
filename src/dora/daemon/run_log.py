"""The log of one run: what nodes print and what the daemon says, for inputs, log files and the console."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from dora.daemon.accounting import Accounting
from dora.daemon.control_server import NodeTable
from dora.daemon.event_loop import Loop
from dora.daemon.logs.entry import LogEntry, Stream
from dora.daemon.supervisor.state import RunState
from dora.dataflow.layout import Plan
from dora.dataflow.model import Dataflow, LogLevel
from dora.wire.node_protocol import TextInput

if TYPE_CHECKING:
    from dora.daemon.logs.router import TextRouter
    from dora.daemon.logs.writer import LogFiles


class RunLog:
    """Routes text. ``text`` and ``files`` are imported when they are first used, while the nodes start."""

    def __init__(
        self,
        dataflow: Dataflow,
        plan: Plan,
        dataflow_id: str,
        directory: str,
        state: RunState,
        accounting: Accounting,
        nodes: NodeTable,
        loop: Loop,
        on_log: Callable[[LogEntry], None],
        on_broken: Callable[[], None],
        name: str,
    ) -> None:
        """``directory``: of the log files; "": ``out/<dataflow_id>`` beside the dataflow.

        ``on_log`` gets each entry. If it raises an exception, that is kept in ``error``, ``on_log`` is not
        called any more, and ``on_broken`` is called. ``name``: given to the run; "": the name of its file.
        """
        self.error: BaseException | None = None
        self._dataflow = dataflow
        self._links = plan.links
        self._dataflow_id = dataflow_id
        self.directory = directory or f"{dataflow.working_dir}/out/{dataflow_id}"
        self._state = state
        self._accounting = accounting
        self._nodes = nodes
        self._loop = loop
        self._on_log: Callable[[LogEntry], None] | None = on_log
        self._on_broken = on_broken
        self._name = name or dataflow.file_stem
        self._options = {node.id: node.log for node in dataflow.nodes}

    @cached_property
    def text(self) -> TextRouter:
        """The router of all entries."""
        from dora.daemon.logs.router import TextRouter

        return TextRouter(
            self._dataflow,
            self._links,
            self._dataflow_id,
            self._deliver,
            self._keep,
            self._loop.call_later,
        )

    @cached_property
    def files(self) -> LogFiles:
        """The log files."""
        from dora.daemon.logs.writer import LogFiles

        return LogFiles(self.directory, self._options, self.warn, dataflow=self._name)

    def change(self, dataflow: Dataflow, plan: Plan) -> None:
        """Change to another dataflow."""
        self.text.change(dataflow, plan.links)
        self._options.update((node.id, node.log) for node in dataflow.nodes)

    def write(self, level: LogLevel, node_id: str | None, text: str) -> None:
        """Log a message of the daemon; ``node_id``: the node that it is about."""
        self.text.entry(LogEntry(time.time_ns(), level, node_id, text, "daemon"))

    def warn(self, text: str) -> None:
        """Log a warning of the daemon that is about no node."""
        self.write("warn", None, text)

    def line(self, node_id: str, stream: Stream, text: str) -> None:
        """Log a line that a node has printed."""
        self.text.line(node_id, stream, text)

    def mark_restart(self, node_id: str, restart_count: int) -> None:
        """Separate the lines of a node's next process from the earlier ones."""
        self.files.mark_restart(node_id, restart_count, time.time_ns())
        self.text.forget_lines(node_id)

    def _deliver(self, node_id: str, frame: TextInput) -> bool | None:
        node = self._state.nodes[node_id]
        if node.present and (connection := self._nodes.get(node_id)) is not None:
            return connection.send_text(frame)
        if node.spec.is_dynamic or node.phase in ("running", "ended", "backoff") or node.restarts:
            return False
        return None

    def _is_refusal(self, entry: LogEntry) -> bool:
        """Return whether a node repeats why it was not let in; the report says that once for all nodes."""
        node = self._state.nodes.get(entry.node_id or "")
        return (
            node is not None
            and node.refused != ""
            and entry.message == f"error: {self._state.refusal(node)}"
        )

    def _keep(self, entry: LogEntry) -> None:
        self.files.write(entry)
        self._accounting.count_logged(entry)
        if self._on_log is None or self._is_refusal(entry):
            return
        try:
            self._on_log(entry)
        except BaseException as error:  # noqa: BLE001 - raised again once everything is cleaned up
            self._on_log = None
            self.error = error
            self._on_broken()
