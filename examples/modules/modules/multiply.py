import argparse

import pyarrow.compute as pc

from dora import Node

parser = argparse.ArgumentParser()
parser.add_argument("--by", type=int, required=True)
factor = parser.parse_args().by

node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("product", pc.multiply(event["value"], factor))
