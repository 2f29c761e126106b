"""Send one message and exit."""

import pyarrow as pa

from dora import Node

node = Node()
node.send_output("data", pa.array([42]))
