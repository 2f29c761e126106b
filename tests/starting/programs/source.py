import pickle
import sys

import numpy as np
import pyarrow as pa
from dora import Node
from facts import record

node = Node()
for number in range(100):
    node.send_output("out", pa.array([number, number + 1]))
node.send_output("out", np.arange(1_000_000, dtype=np.uint8), {"kind": "large"})
record("node", [node.node_id if hasattr(node, "node_id") else "", repr(pickle.dumps(np.float64(1)))])
record("arguments", [sys.argv, sys.path])
