"""Note when each image is here, until one says that it is the last."""

from arrivals import Arrivals

from dora import Node

arrivals = Arrivals()
for event in Node():
    if event["type"] == "INPUT":
        image = event["value"]
        now_ns = arrivals.now()
        if not arrivals.add(now_ns, *image.field("header").field("frame_id")[0].as_py().split()):
            break
