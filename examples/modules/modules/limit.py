import os

import pyarrow.compute as pc

from dora import Node

# A parameter that is not given is no variable, so this has a default.
limit = int(os.environ.get("PARAM_LIMIT", "1000"))

node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("scaled", pc.min_element_wise(event["value"], limit))
