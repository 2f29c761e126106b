"""Note what a node knows of itself and of its dataflow."""

import os
import sys
import uuid

from notes import attempt, note

from dora import Node

node = Node()
note("node_config", node.node_config())
descriptor = node.dataflow_descriptor()
note("descriptor names", sorted(descriptor))
note("descriptor without nodes", {key: value for key, value in descriptor.items() if key != "nodes"})
for entry in descriptor["nodes"]:
    note(f"descriptor of {entry['id']}", entry)
note("dataflow_id: version", uuid.UUID(node.dataflow_id()).version)
note("is_restart", node.is_restart())
note("restart_count", node.restart_count())
note("timestamp", node.timestamp())
for level in ("error", "WARN", "warning", "info", "debug", "trace", "loud"):
    attempt(f"log {level}", node.log, level, "text")
attempt("log with target and fields", node.log, "info", "text", "target", {"a": "b"})
attempt("log with keywords", node.log, level="info", message="text", target=None, fields=None)
attempt("log a number", node.log, "info", 3)
attempt("log fields of numbers", node.log, "info", "text", None, {"a": 1})
for name in ("log_error", "log_warn", "log_info", "log_debug", "log_trace"):
    attempt(name, getattr(node, name), "text")
note("working folder has the dataflow", os.path.exists("dataflow.yml"))
note("arguments", sys.argv[1:])
note("unbuffered", os.environ.get("PYTHONUNBUFFERED"))
note("standard input is closed", sys.stdin.read() == "")
note("a node config is set", "DORA_NODE_CONFIG" in os.environ)
note("shared variable", os.environ.get("SHARED"))
attempt("an id in a spawned node", lambda: Node("other") and None)
