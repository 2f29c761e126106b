"""Call a service by hand."""

import uuid

import pyarrow as pa
from notes import attempt, note

from dora import Node

node = Node()
identifier = node.send_service_request("request", pa.array([1]), {"name": "first"})
note("request id: version", uuid.UUID(identifier).version)
event = node.next(timeout=10)
note("response keys", sorted(event["metadata"]))
note("response has the id of the request", event["metadata"].get("request_id") == identifier)
note("response", event["value"])
own = attempt(
    "an id of one's own",
    lambda: node.send_service_request("request", pa.array([2]), {"request_id": "mine"}) == "mine",
)
event = node.next(timeout=10)
note("the second response", event["value"])
attempt("without metadata", lambda: type(node.send_service_request("request", pa.array([3]))).__name__)
event = node.next(timeout=10)
note("the third response", event["value"])
attempt("undeclared output", lambda: type(node.send_service_request("other", pa.array([3]))).__name__)
