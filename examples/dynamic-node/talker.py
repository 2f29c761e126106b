"""Counts, until a visitor says thanks."""

import pyarrow as pa

from dora import Node

node = Node()
count = 0
print("talker: waiting for a visitor")
for event in node:
    if event["type"] == "STOP":
        break
    if event["type"] != "INPUT":
        continue
    if event["id"] == "thanks":
        print(f"talker: {event['value'][0].as_py()}")
        break
    node.send_output("count", pa.array([count]))
    count += 1
