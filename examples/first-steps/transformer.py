import pyarrow.compute as pc

from dora import Node

node = Node()
for event in node:
    if event["type"] == "INPUT":
        square = pc.multiply(event["value"], event["value"])
        node.send_output("square", square, event["metadata"])
