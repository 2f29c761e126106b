"""Joins the running dataflow, listens to five messages, and leaves with thanks."""

import pyarrow as pa

from dora import Node

node = Node(node_id="visitor")
heard: list[int] = []
for event in node:
    if event["type"] == "INPUT":
        heard.append(event["value"][0].as_py())
    if len(heard) == 5:
        break
print(f"visitor: heard {heard}")
node.send_output("thanks", pa.array([f"thanks for {len(heard)} messages"]))
