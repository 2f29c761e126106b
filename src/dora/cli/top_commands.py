"""Commands of the screen of ``dora top``: the client calls of ``dora node`` and its siblings.

Each call makes a connection of its own, so it may wait in a thread beside the measurements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from dora.cli.coordinator import coordinator_client
from dora.cli.log_location import LogLocation, find_log_location
from dora.cli.running import find_running
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.reader import LogReader
from dora.daemon.report import shorter_path
from dora.errors import DoraError
from dora.observe.queries import EchoQuery, Line
from dora.observe.topics import find_tappable, node_of

_REDRAW_INTERVAL: Final = 0.25  # seconds between two messages that are shown
_LOG_SIZE: Final = 64 << 10  # bytes of each log file that are read at first


class TopCommands:
    """Commands on running dataflows, which their UUIDs name. All raise `DoraError` and ``OSError``."""

    def __init__(self) -> None:
        self._logs: dict[str, tuple[LogLocation, LogReader]] = {}

    def restart_node(self, dataflow_id: str, node_id: str) -> str:
        """Restart a node; return a sentence."""
        with find_running(dataflow_id, node_id) as running:
            running.restart_node(node_id)
        return f"node `{node_id}` is restarted"

    def stop_node(self, dataflow_id: str, node_id: str) -> str:
        """Stop a node and wait until it has ended; return a sentence."""
        with find_running(dataflow_id, node_id) as running:
            stopped = running.stop_node(node_id)
        return f"node `{node_id}` {'has stopped' if stopped else 'had ended already'}"

    def stop_dataflow(self, dataflow_id: str) -> str:
        """Begin to stop a dataflow; return a sentence."""
        with find_running(dataflow_id) as running:
            running.stop()
            return f"dataflow `{running.name}` is being stopped"

    def save(self, dataflow_id: str) -> str:
        """Save the black box of a dataflow; return a sentence."""
        with find_running(dataflow_id) as running:
            files = running.save().values()
        problems = [file.problem for file in files if file.problem]
        if problems:
            raise DoraError(f"the last seconds are not saved: {problems[0]}")
        return f"the last seconds are in {', '.join(shorter_path(file.path) for file in files)}"

    def follow(
        self, dataflow_id: str, topic: str, show: Callable[[str], None], is_over: Callable[[], bool]
    ) -> None:
        """Call ``show`` with the newest message of an output as text, several times a second."""
        newest = ""
        due = 0.0
        with find_running(dataflow_id, node_of([topic])) as running:
            wanted = find_tappable(running.inspection, [topic])
            observation = running.observe(wanted, EchoQuery, enough=is_over)
            try:
                for result in observation.results():
                    if isinstance(result, Line):
                        newest = result.text.partition("\t ")[2]
                    if newest and time.monotonic() >= due:
                        due = time.monotonic() + _REDRAW_INTERVAL
                        show(newest)
                        newest = ""
            finally:
                observation.finish()
        if observation.faults and not observation.ended:
            raise DoraError(observation.faults[-1])

    def log_entries(self, dataflow_id: str) -> Sequence[LogEntry]:
        """Return what a dataflow has logged since the last call; at first, the end of its logs."""
        if dataflow_id not in self._logs:
            location = find_log_location(coordinator_client(), dataflow_id)
            reader = LogReader(location.directory)
            reader.begin_near_end(_LOG_SIZE)
            self._logs[dataflow_id] = location, reader
        return list(self._logs[dataflow_id][1].entries())

    def failure(self, dataflow_id: str) -> str:
        """Return why a dataflow of a coordinator failed; "" if it did not, or has no coordinator."""
        return self._logs[dataflow_id][0].failure() if dataflow_id in self._logs else ""
