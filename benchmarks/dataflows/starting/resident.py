"""Do nothing until the dataflow is stopped."""

from dora import Node

for event in Node():
    if event["type"] == "STOP":
        break
