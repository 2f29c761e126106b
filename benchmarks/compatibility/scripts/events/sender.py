"""Send a little, and end."""

import time

import pyarrow as pa

from dora import Node

node = Node()
for number in range(3):
    node.send_output("value", pa.array([number]), {"number": number})
    time.sleep(0.05)
node.send_output("other", pa.array(["x"]))
time.sleep(0.5)
