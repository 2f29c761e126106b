"""Asks for three sums, and ends when all answers are there."""

import pyarrow as pa

from dora import Node

node = Node()
asked: dict[str, tuple[int, int]] = {}
for pair in ((1, 2), (20, 22), (-5, 5)):
    asked[node.send_service_request("request", pa.array(pair))] = pair

for event in node:
    if event["type"] == "INPUT":
        first, second = asked.pop(event["metadata"]["request_id"])
        print(f"{first} + {second} = {event['value'][0].as_py()}")
    if not asked:
        break
