"""Note the events of an operator, and what `send_output` of operators does."""

import pyarrow as pa
from notes import attempt, note, plain

from dora import DoraStatus

NAME = "relay"


class Operator:
    def __init__(self):
        self.seen = set()

    def on_event(self, dora_event, send_output):
        name = f"{dora_event['type']} {dora_event.get('id', '')}"
        if name not in self.seen:
            self.seen.add(name)
            note(f"{name} names", sorted(dora_event), NAME)
            note(f"{name}: class", isinstance(dora_event, dict), NAME)
            if "value" in dora_event:
                note(f"{name}: value", plain(dora_event["value"]), NAME)
            note(f"{name}: metadata names", sorted(dora_event.get("metadata", {})), NAME)
        if dora_event["type"] == "INPUT" and dora_event["id"] == "value":
            number = dora_event["metadata"]["number"]
            if number == 0:
                self.bad(send_output)
            send_output("result", dora_event["value"], {"number": number, "how": "array"})
            send_output("result", b"bytes", dora_event["metadata"])
        return DoraStatus.CONTINUE

    def bad(self, send_output):
        attempt("send text", send_output, "result", "text", {"number": -1, "how": "text"}, node=NAME)
        attempt("send None", send_output, "result", None, {"number": -1, "how": "None"}, node=NAME)
        attempt("undeclared output", send_output, "other", pa.array([1]), {}, node=NAME)
        attempt("without metadata", send_output, "result", pa.array([1]), node=NAME)
