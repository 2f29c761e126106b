"""Orders three dishes: one is served, one is canceled, one is not on the menu."""

import pyarrow as pa

from dora import Node

node = Node()

soup = node.send_goal("goal", pa.array(["soup"]), timeout=30)
for feedback in soup:
    print("soup:", feedback["value"][0])
print(f"{soup.result()['value'][0]}: {soup.status}")

roast = node.send_goal("goal", pa.array(["roast"]), timeout=30)
print("roast:", next(roast)["value"][0])
roast.cancel()
print(f"{roast.result()['value'][0]}: {roast.status}")

pizza = node.send_goal("goal", pa.array(["pizza"]), timeout=30)
pizza.result()
print(f"{pizza.status}: {pizza.error}")
