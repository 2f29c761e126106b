"""Send metadata of every kind."""

import datetime

import numpy as np
import pyarrow as pa
from notes import attempt

from dora import Node

VALUES = {
    "true": True,
    "int": 7,
    "negative int": -(2**63),
    "int beyond 64 bit": 2**63,
    "float": 0.1,
    "infinity": float("inf"),
    "text": "a ä\n",
    "empty text": "",
    "list of int": [1, 2],
    "list of float": [1.5, 2.0],
    "list of text": ["a", "b"],
    "tuple of int": (1, 2),
    "empty list": [],
    "empty tuple": (),
    "int then bool": [1, True],
    "float then int": [1.0, 2],
    "int then float": [1, 2.0],
    "text then int": ["a", 1],
    "list of bool": [True, False],
    "list of None": [None],
    "list of lists": [[1], [2]],
    "None": None,
    "dict": {"a": 1},
    "bytes": b"ab",
    "NumPy int": np.int64(3),
    "NumPy float": np.float64(0.5),
    "NumPy float32": np.float32(0.5),
    "NumPy array": np.array([1, 2]),
    "datetime in UTC": datetime.datetime(2024, 1, 2, 3, 4, 5, 6, datetime.UTC),
    "datetime without zone": datetime.datetime(2024, 1, 2, 3, 4, 5, 6),
    "set": {1},
}

node = Node()
for name, value in VALUES.items():
    attempt(f"send {name}", node.send_output, "value", pa.array([1]), {"name": name, "value": value})
attempt("a key that is no text", node.send_output, "value", pa.array([1]), {1: 2})
attempt("a list as metadata", node.send_output, "value", pa.array([1]), [1])
attempt("metadata None", node.send_output, "value", pa.array([1]), None)
for name, value in {"int": 5, "text": "now", "datetime": VALUES["datetime in UTC"]}.items():
    node.send_output("value", pa.array([1]), {"name": f"timestamp {name}", "timestamp": value})
node.send_output("value", pa.array([1]), {"name": "framing", "_framing": "x", "_own": 1, "__dora_x": 2})
node.send_output("value", pa.array([1]), {"name": "keys", "a/b": 1, "ä ö": 2, "": 3})
