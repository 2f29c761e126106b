from dora import Node
from facts import record

total, kinds = 0, []
for event in Node():
    if event["type"] == "INPUT":
        total += int(event["value"].to_numpy().astype("int64").sum())
    else:
        kinds.append(event["type"])
record("total", total)
record("events", kinds)
