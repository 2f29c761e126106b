"""Note what arrives."""

from notes import note

from dora import Node

for event in Node():
    if event["type"] == "INPUT":
        note(event["metadata"]["name"], event["value"])
