import pyarrow as pa

from dora import Node

places = pa.array(["Rome", "Oslo"])

with Node() as node:
    for rome, oslo in ((20, 4), (22, 5), (27, 9)):
        temperatures = pa.array([rome, oslo], pa.float32())
        node.send_output("reading", pa.Table.from_pydict({"temperature": temperatures, "place": places}))
