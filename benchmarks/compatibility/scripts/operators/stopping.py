"""Stop after the third message."""

from dora import DoraStatus


class Operator:
    def __init__(self):
        self.count = 0

    def on_event(self, dora_event, send_output):
        if dora_event["type"] == "INPUT":
            self.count += 1
            if self.count == 3:
                send_output("last", b"done", {})
                return DoraStatus.STOP
        return DoraStatus.CONTINUE
