"""Films a ball that circles, at a speed that others may set, until a speed of zero stops it."""

import numpy as np
import pyarrow as pa

from dora import Node

WIDTH, HEIGHT, RADIUS = 320, 240, 20

y, x = np.mgrid[:HEIGHT, :WIDTH]
turn, speed = 0.0, 1.0  # rounds, rounds in four seconds
node = Node()
print("the ball circles")
for event in node:
    if event["type"] == "STOP":
        break
    if event["type"] != "INPUT":
        continue
    if event["id"] == "speed":
        speed = float(event["value"][0].as_py())
        print(f"the speed is {speed}")
        if not speed:
            break
        continue
    turn += speed / 120
    ball = 100 * np.cos(2 * np.pi * turn), 70 * np.sin(2 * np.pi * turn)
    inside = np.hypot(x - WIDTH / 2 - ball[0], y - HEIGHT / 2 - ball[1]) < RADIUS
    frame = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    frame[inside] = (0, 128, 255)  # blue, green, red
    node.send_output("image", frame, {"width": WIDTH, "height": HEIGHT, "encoding": "bgr8"})
    node.send_output("position", pa.array(ball))
