"""Send five messages."""

import pyarrow as pa

from dora import Node

node = Node()
for number in range(5):
    node.send_output("value", pa.array([number]), {"number": number})
