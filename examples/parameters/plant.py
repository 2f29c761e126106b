"""Something to be controlled: it moves by each command, and ends when it is where it should be."""

import pyarrow as pa

from dora import Node

TARGET = 100.0

node = Node()
position = 0.0
node.send_output("error", pa.array([TARGET - position]))
for event in node:
    if event["type"] == "INPUT":
        position += event["value"][0].as_py()
        if abs(TARGET - position) < 0.1:
            print(f"arrived at {position:.1f}")
            break
        node.send_output("error", pa.array([TARGET - position]))
