"""Asks for three sums at once, and prints the answers."""

import pyarrow as pa

from dora import Node

PAIRS = ((1, 2), (20, 22), (-5, 5))

node = Node()
calls = [node.call("request", pa.array(pair), timeout=30) for pair in PAIRS]
for (first, second), call in zip(PAIRS, calls, strict=True):
    print(f"{first} + {second} = {call.wait()['value'][0].as_py()}")
