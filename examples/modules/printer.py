from dora import Node

seen: dict[str, list[int]] = {"once": [], "twice": []}
for event in Node():
    if event["type"] == "INPUT":
        seen[event["id"]] += event["value"].to_pylist()
for name, numbers in seen.items():
    print(name, *numbers)
