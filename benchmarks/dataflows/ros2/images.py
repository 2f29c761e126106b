"""Note when each image is here, until one says that it is the last."""

from arrivals import Arrivals

from dora import Node

arrivals = Arrivals()
for event in Node():
    if event["type"] == "INPUT":
        image = event["value"]
        now_ns = arrivals.now()
        header = image.field("header")[0].as_py()
        if not arrivals.add(now_ns, header["frame_id"], header["stamp"]["sec"], header["stamp"]["nanosec"]):
            break
