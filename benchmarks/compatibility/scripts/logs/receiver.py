"""Note what arrives of it."""

import json

import pyarrow as pa
from notes import note

from dora import Node

node = Node()
node.send_output("go", pa.array([]))
printed, levels = [], {"logged": [], "errors": [], "infos": []}
keys = set()
closed = set()
while not {"printed", "logged"} <= closed:
    event = node.next(timeout=15)
    if event is None or event["type"] == "ERROR":
        break
    if event["type"] == "INPUT_CLOSED":
        closed.add(event["id"])
    if event["type"] != "INPUT":
        continue
    note(f"{event['id']}: type", f"{event['value'].type}, {len(event['value'])}")
    (text,) = event["value"].to_pylist()
    if event["id"] == "printed":
        if not text.lstrip().startswith("{"):
            printed.append(text)
        continue
    entry = json.loads(text)
    keys |= set(entry)
    if entry["message"].startswith(("at ", "JSON", "plain", "to stderr")):
        levels[event["id"]].append(
            [entry["level"], entry["message"], entry.get("target"), entry.get("fields")]
        )
note("printed", sorted(printed))
note("keys names", sorted(keys))
for name, found in levels.items():
    note(name, sorted(found, key=str))
