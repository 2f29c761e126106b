"""Touch each value once."""

from dora import Node

for event in Node():
    if event["type"] == "INPUT":
        len(event["value"])
