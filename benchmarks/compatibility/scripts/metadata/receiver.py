"""Note what arrives."""

import datetime

from notes import note

from dora import Node

unnamed = 0
for event in Node():
    if event["type"] != "INPUT":
        continue
    metadata = event["metadata"]
    if "name" not in metadata:
        unnamed += 1
        continue
    name = metadata["name"]
    if "value" in metadata:
        value = metadata["value"]
        note(name, value.isoformat() if isinstance(value, datetime.datetime) else value)
        note(f"{name}: class", type(value).__name__)
    note(f"{name}: keys", sorted(metadata))
    note(f"{name}: timestamp", metadata.get("timestamp"))
note("messages without a name", unnamed)
