"""Adds two numbers on request."""

import pyarrow as pa
import pyarrow.compute as pc

from dora import Input, Node

node = Node()


@node.serve("request", "response")
def add(request: Input) -> pa.Int64Array:
    total: int = pc.sum(request["value"]).as_py()
    return pa.array([total])


for _ in node:  # requests are answered meanwhile
    pass
