"""Forward every value with its metadata, as an operator."""

from collections.abc import Callable
from typing import Any

from dora import DoraStatus


class Operator:
    def on_event(self, dora_event: dict[str, Any], send_output: Callable[..., None]) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            send_output("data", dora_event["value"], dora_event["metadata"])
        return DoraStatus.CONTINUE
