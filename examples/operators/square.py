"""Squares what comes in."""

import pyarrow.compute as pc

import dora
from dora import DoraStatus, Event, SendOutput


class Operator(dora.Operator):
    def on_event(self, dora_event: Event, send_output: SendOutput) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            value = dora_event["value"]
            send_output("square", pc.multiply(value, value), dora_event["metadata"])
        return DoraStatus.CONTINUE
