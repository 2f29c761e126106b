"""The operator of random dataflows: forwards as its plan says, and logs every event."""

from plan import Log, forward

from dora import DoraStatus


class Operator:
    def __init__(self):
        self.log = Log(0)

    def on_event(self, event, send_output):
        self.log.event(event)
        if event["type"] == "INPUT" and event["id"] != "tick":
            forward(event, send_output, self.log)
        return DoraStatus.CONTINUE
