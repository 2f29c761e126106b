"""The port of an input that is fed by a timer."""

from __future__ import annotations

import time

from dora.node.events import Event, Input, InputClosed, Tick
from dora.node.receive.link_input import _monotonic
from dora.wire.node_config import InputConfig


class TimerInput:
    """An input fed by a clock: a grid from ``epoch_ns``; missed ticks are skipped, never bunched."""

    is_data = False

    def __init__(self, config: InputConfig, epoch_ns: int) -> None:
        self.open = True
        self.id = config.id
        self.detached = False
        self._template = Input.template(config.id)
        self._interval = config.interval_ns
        late = max(_monotonic() - epoch_ns, 0)
        self._due = epoch_ns + late // self._interval * self._interval
        self._stopped = False

    def poll(self) -> Event | None:
        now = _monotonic()
        if self.detached:
            self.open = False
            return InputClosed(self.id)
        if now < self._due or self._stopped:
            return None
        self._due += ((now - self._due) // self._interval + 1) * self._interval
        event = Input(self._template)
        event._content = Tick(time.time_ns())
        return event

    def ready(self) -> bool:
        return self.detached or (not self._stopped and _monotonic() >= self._due)

    def wake_at(self) -> int | None:
        return None if self._stopped else self._due

    def source_closed(self) -> None:
        """A clock never closes."""

    def source_back(self, node_id: str) -> bool:  # noqa: ARG002
        return False

    def stop(self) -> None:
        self._stopped = True

    def detach(self) -> None:
        self.detached = self._stopped = True

    def close(self) -> None:
        self._stopped = True
