"""Sends the numbers 1 to 10, one for each tick, and stops."""

import pyarrow as pa

import dora
from dora import DoraStatus, Event, SendOutput


class Operator(dora.Operator):
    def __init__(self) -> None:
        self.number = 0

    def on_event(self, dora_event: Event, send_output: SendOutput) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            self.number += 1
            send_output("number", pa.array([self.number]), dora_event["metadata"])
            if self.number == 10:
                return DoraStatus.STOP  # this operator ends, and its output closes
        return DoraStatus.CONTINUE
