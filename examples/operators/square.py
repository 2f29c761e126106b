"""Squares what comes in."""

import pyarrow.compute as pc

from dora import DoraStatus


class Operator:
    def on_event(self, dora_event, send_output) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            value = dora_event["value"]
            send_output("square", pc.multiply(value, value), dora_event["metadata"])
        return DoraStatus.CONTINUE
