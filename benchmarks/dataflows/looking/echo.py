"""Return every value."""

from dora import Node

node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("pong", event["value"])
