from dora import Node

for event in Node():
    if event["type"] == "INPUT":
        print(f"{event['id']}: {event['value'][0].as_py()}")
    elif event["type"] == "INPUT_CLOSED":
        print(f"{event['id']}: no more to come")
