from dora import Node

for event in Node():
    if event["type"] == "INPUT":
        print(f"sum of the squares: {event['value'][0].as_py()}")
