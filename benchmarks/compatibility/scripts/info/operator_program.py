"""Take part."""

from dora import DoraStatus


class Operator:
    def on_event(self, event, send_output):  # noqa: ARG002
        return DoraStatus.CONTINUE
