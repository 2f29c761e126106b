"""Note what arrives."""

from notes import note

from dora import Node

received = {"result": [], "last": []}
for event in Node():
    if event["type"] == "INPUT":
        received[event["id"]].append(
            [event["metadata"].get("number"), event["metadata"].get("how"), str(event["value"].type)]
        )
for name, messages in received.items():
    note(name, messages)
