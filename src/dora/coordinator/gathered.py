"""The logs of dataflows that run on other machines, gathered in the coordinator's data folder.

They are written as a machine writes those of its own nodes, so `dora logs` reads both the same way. The
machines keep theirs too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from dora.coordinator.places import data_folder
from dora.dataflow.model import LogOptions
from dora.logs.entry import LogEntry
from dora.logs.files import LogFiles


class GatheredLogs:
    """Log files of several dataflows. ``options`` gives those of the nodes of one."""

    def __init__(self, options: Callable[[str], Mapping[str, LogOptions]]) -> None:
        self._options = options
        self._files: dict[str, LogFiles] = {}

    def directory(self, dataflow_id: str) -> str:
        """Return where the log files of a dataflow are."""
        return f"{data_folder()}/out/{dataflow_id}"

    def write(self, dataflow_id: str, entries: Iterable[LogEntry]) -> None:
        """Append entries of nodes of this dataflow, or of a daemon; others are nobody's."""
        files = self._files.get(dataflow_id)
        options = self._options(dataflow_id)
        if files is None:
            files = self._files[dataflow_id] = LogFiles(self.directory(dataflow_id), options)
        for entry in entries:
            if entry.node_id is None or entry.node_id in options:
                files.write(entry)

    def ended(self, dataflow_id: str) -> None:
        """Close the files of a dataflow; what comes afterwards opens them again."""
        if (files := self._files.pop(dataflow_id, None)) is not None:
            files.close()

    def close(self) -> None:
        for files in self._files.values():
            files.close()
        self._files.clear()
