"""Logs of dataflows on other machines, which the coordinator collects in its data folder.

The files have the format of a machine's own log files, so `dora logs` reads both the same way. The machines
keep their files too. The collected files are removed with the record of their dataflow.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Container, Iterable, Mapping

from dora._paths import data_folder
from dora.cluster.http_api import DataflowView
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.writer import LogFiles
from dora.dataflow.model import LogOptions

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

log = logging.getLogger("dora.coordinator")


def log_store_directory(dataflow_id: str) -> str:
    """Return the folder for the collected logs of a dataflow."""
    return f"{data_folder()}/logs/{dataflow_id}"


class LogStore:
    """Log files of several dataflows. ``options`` returns the log options of a dataflow's nodes."""

    def __init__(self, options: Callable[[str], Mapping[str, LogOptions]]) -> None:
        self._options = options
        self._nodes: dict[str, dict[str, LogOptions]] = {}  # also of nodes that were removed since
        self._files: dict[str, LogFiles] = {}

    def write(self, dataflow_id: str, directory: str, entries: Iterable[LogEntry]) -> None:
        """Append entries of a daemon or of nodes of this dataflow; ignore entries of unknown nodes.

        ``directory`` holds the files. If the dataflow began on this machine alone, its daemon writes those
        of its local nodes there, and this store adds the others.
        """
        nodes = self._nodes.setdefault(dataflow_id, {})
        if dataflow_id not in self._files:
            nodes.update(self._options(dataflow_id))
            self._files[dataflow_id] = LogFiles(directory, nodes)
        files = self._files[dataflow_id]
        for entry in entries:
            if entry.node_id is None or entry.node_id in nodes:
                files.write(entry)

    def close(self, dataflow_id: str) -> None:
        """Close the files of a dataflow; a later entry opens them again, with the options of that time."""
        if dataflow_id in self._files:
            self._files.pop(dataflow_id).close()

    def close_all_but(self, active: Container[str] = ()) -> None:
        """Close the files of all other dataflows."""
        for dataflow_id in [each for each in self._files if each not in active]:
            self.close(dataflow_id)
        self._nodes = {each: nodes for each, nodes in self._nodes.items() if each in active}

    def remove(self, view: DataflowView) -> None:
        """Remove the collected log files of a dataflow whose record is removed, as `remove_logs` does."""
        directory = log_store_directory(view.uuid)
        if view.log_directory != directory or not _UUID.fullmatch(view.uuid):
            return
        self.close(view.uuid)
        remove_logs(directory)


def remove_logs(directory: str) -> None:
    """Remove the log files of a dataflow, and their folder if it is empty then.

    A failure is only logged.
    """
    try:
        names = os.listdir(directory)
        logs = [name for name in names if name.startswith("log_") and name.endswith(".jsonl")]
        for name in logs:
            os.unlink(f"{directory}/{name}")
        if len(logs) == len(names):
            os.rmdir(directory)
    except FileNotFoundError:
        pass  # nothing was logged
    except OSError as error:
        log.warning("the logs in %s cannot be removed: %s", directory, error.strerror)
