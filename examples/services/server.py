"""Adds two numbers on request."""

import pyarrow as pa
import pyarrow.compute as pc

from dora import Node

node = Node()


@node.serve("request", "response")
def add(request):
    return pa.array([pc.sum(request["value"]).as_py()])


for _ in node:  # requests are answered meanwhile
    pass
