"""A port that is polled while the program does not receive, and holds events for it meanwhile."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from dora.node.events import Event, Input
from dora.node.receive.input_port import InputPort, WrappingInput
from dora.wire.correlation import kept_metadata
from dora.wire.metadata import MetadataError


class HoldingInput(WrappingInput, ABC):
    """A layer whose held events are a queue under the contract of the input."""

    holds = True

    def __init__(self, port: InputPort, queue_size: int, keep: Iterable[str] = ()) -> None:
        """``queue_size``: messages that are held; of more, the oldest is dropped that need not be kept."""
        super().__init__(port)
        self._queue_size = queue_size
        self._is_kept = kept_metadata(keep)
        self._droppable = 0  # held events that may be dropped

    @abstractmethod
    def _poll_port(self) -> Event | None:
        """Return the next event for the program, None if there is none; never blocks."""

    def _dropped(self) -> None:
        """Count a held message that was dropped."""
        self._port.count_as_dropped()

    def poll(self) -> Event | None:
        if not self._next:
            return self._poll_port()
        event = self._next.popleft()
        self._droppable -= self._is_droppable(event)
        return event

    def dispatch(self) -> None:
        while (event := self._poll_port()) is not None:
            self._next.append(event)
            self._droppable += self._is_droppable(event)
            if self._droppable > self._queue_size:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        for index, event in enumerate(self._next):
            if self._is_droppable(event):
                del self._next[index]
                self._droppable -= 1
                self._dropped()
                return

    def _is_droppable(self, event: Event) -> bool:
        """Return whether an event is a message that need not be kept."""
        try:
            return isinstance(event, Input) and not self._is_kept(event["metadata"])
        except MetadataError:  # the program gets the error when it reads the event
            return True

    def source_back(self, node_id: str) -> bool:
        was_open = self.open
        return self._port.source_back(node_id) and not was_open

    def close(self) -> None:
        self._droppable = 0
        super().close()
