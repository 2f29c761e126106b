import pyarrow as pa
import pyarrow.compute as pc

from dora import Node

node = Node()
for event in node:
    if event["type"] == "INPUT":
        temperature: pa.FloatArray = event["value"].field("temperature")
        node.send_output("mean", pa.array([pc.mean(temperature).as_py()], pa.float32()))
