import pyarrow as pa

from dora import Node

with Node() as node:
    for number in range(1, 5):
        node.send_output("number", pa.array([number]))
