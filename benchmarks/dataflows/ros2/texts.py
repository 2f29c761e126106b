"""Note when each text is here, until one says that it is the last."""

from arrivals import Arrivals

from dora import Node

arrivals = Arrivals()
for event in Node():
    if event["type"] == "INPUT":
        text = event["value"].field("data")[0].as_py()
        if not arrivals.add(arrivals.now(), *text.split()):
            break
