"""Note what arrives."""

from notes import note

from dora import Node

names = []
for event in Node():
    if event["type"] != "INPUT":
        continue
    name = event["metadata"]["name"]
    names.append(name)
    note(f"{name}: type", str(event["value"].type))
    note(f"{name}: length", len(event["value"]))
    if name in ("with", "send"):
        note(name, event["value"])
note("arrived", names)
