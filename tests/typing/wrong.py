"""A program full of mistakes: every marked line has to be rejected by a type checker; never run."""

from __future__ import annotations

import dora
from dora import DoraStatus, Input, InputClosed, Node, Stop, run

dora.Nodes()  # wrong: no such name
node = Node(5)  # wrong: the id is a string
node.send_output(b"out", b"x")  # wrong: the output is a string
node.send_output("out")  # wrong: no data
node.send_output("out", b"x", 5)  # wrong: metadata is a mapping
node.next("soon")  # wrong: the timeout is a number
print(node.next().id)  # wrong: there may be no event
node.snd_output("out", b"x")  # wrong: no such method
node.log("info", 5)  # wrong: a message is a string
node.send_service_response("out", b"x")  # wrong: a response needs metadata
len(node.drain() + 1)  # wrong: a list of events
node.send_output_raw("out", "12")  # wrong: the length is a number


def handle(event: Input | InputClosed | Stop) -> None:
    match event:
        case Input():
            event.data + "text"  # wrong: bytes
        case InputClosed(name):
            name + 1  # wrong: a string
        case Stop():
            if event.id == "LATER":  # wrong: not one of the reasons
                pass


def read(event: Input) -> None:
    event.value.upper()  # wrong: an array
    event["value"] + 1  # wrong: an array
    event["id"] + 1  # wrong: a string


class Operator(dora.Operator):
    def on_event(self, event: dora.Event, send_output: dora.SendOutput) -> int:  # wrong: a status
        print(self.descriptor)  # wrong: no such attribute
        send_output(event, b"x")  # wrong: the output is a string
        return 0


def answer() -> DoraStatus:
    return DoraStatus.PAUSE  # wrong: no such status


run(5)  # wrong: a path
run("dataflow.yml", engine="tcp")  # wrong: no such engine
