from dora import Node

for event in Node():
    if event["type"] == "INPUT":
        print(event["value"][0], "degrees on average")
