from dora import DoraStatus


class Operator:
    count = 0

    def on_event(self, dora_event, send_output):
        if dora_event["type"] == "INPUT":
            self.count += 1
            if self.count == 101:
                raise ValueError("the last message")
        return DoraStatus.CONTINUE
