"""Send what is no array, and to outputs that do not exist."""

import array

import numpy as np
import pyarrow as pa
from notes import attempt

from dora import Node

DATA = {
    "NumPy": np.arange(3),
    "NumPy 2-D": np.zeros((2, 2), np.float32),
    "bytearray": bytearray(b"ab"),
    "memoryview": memoryview(b"ab"),
    "chunked": pa.chunked_array([[1], [2]]),
    "table": pa.table({"a": [1]}),
    "scalar": pa.scalar(1),
    "text": "ab",
    "None": None,
    "int": 3,
    "list": [1, 2],
    "dict": {"a": 1},
    "buffer": pa.py_buffer(b"ab"),
    "array": array.array("i", [1]),
}

node = Node()
for name, data in DATA.items():
    attempt(f"send {name}", node.send_output, "value", data, {"name": name})
attempt("undeclared output", node.send_output, "other", pa.array([1]))
attempt("undeclared output again", node.send_output, "other", pa.array([1]))
for name in ("", "a b", "/a", "a/", "a//b", "ä", "a.b"):
    attempt(f"output {name!r}", node.send_output, name, pa.array([1]))
attempt("output with a slash", node.send_output, "a/b", pa.array([1]), {"name": "slash"})
attempt("output as a number", node.send_output, 3, pa.array([1]))
attempt("output None", node.send_output, None, pa.array([1]))
