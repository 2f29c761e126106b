"""Send three messages when asked."""

import pyarrow as pa

from dora import Node

node = Node()
for event in node:
    if event["type"] == "INPUT":
        for number in range(3):
            node.send_output("value", pa.array([number]))
