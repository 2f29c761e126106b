"""A controller with one gain, 20 times a second."""

import time

import pyarrow as pa

from dora import Node

node = Node()
print(f"gain {node.parameters['gain']}", flush=True)
for event in node:
    if event["type"] == "INPUT":
        time.sleep(0.05)
        command = node.parameters["gain"] * event["value"][0].as_py()
        node.send_output("command", pa.array([command]))
    elif event["type"] == "PARAM_UPDATE" and not node.parameters["quiet"]:
        print(f"{event['id']} is now {event['value']}", flush=True)
