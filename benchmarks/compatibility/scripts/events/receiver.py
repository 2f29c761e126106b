"""Note each kind of event once: its keys, and the classes of their values."""

from notes import attempt, note, plain

from dora import Node

node = Node()
for seconds in (-1, float("nan"), float("inf"), "1"):
    attempt(f"next({seconds!r})", node.next, seconds)
seen = set()
closed = set()
for event in node:
    name = f"{event['type']} {event.get('id', '')}"
    if name not in seen:
        seen.add(name)
        note(f"{name} names", sorted(event))
        note(f"{name}: class", isinstance(event, dict))
        for key, value in event.items():
            note(f"{name}: {key}", type(value).__name__ if key == "metadata" else plain(value))
        note(f"{name}: metadata names", sorted(event.get("metadata", {})))
        note(f"{name}: get", event.get("absent", "default"))
        note(f"{name}: equals its copy", event == dict(event))
    if event["type"] == "INPUT_CLOSED":
        closed.add(event["id"])
    if closed == {"value", "other"}:
        break
note("seen", sorted(seen))
