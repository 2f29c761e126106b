"""Adds up, and sends the sum when nothing more can come."""

import pyarrow as pa

import dora
from dora import DoraStatus, Event, SendOutput


class Operator(dora.Operator):
    def __init__(self) -> None:
        self.sum = 0

    def on_event(self, dora_event: Event, send_output: SendOutput) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            self.sum += dora_event["value"][0].as_py()
        elif dora_event["type"] == "INPUT_CLOSED":
            send_output("sum", pa.array([self.sum]))
            return DoraStatus.STOP
        return DoraStatus.CONTINUE
