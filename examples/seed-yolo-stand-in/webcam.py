"""Films an orange ball that rolls over a grey floor: 25 frames."""

import numpy as np
import pyarrow as pa

from dora import Node

CAMERA_WIDTH, CAMERA_HEIGHT = 640, 480
BGR_ORANGE = (0, 128, 255)

node = Node()
number = 0
for event in node:
    if event["type"] == "STOP":
        break
    if event["type"] != "INPUT":
        continue
    frame = np.full((CAMERA_HEIGHT, CAMERA_WIDTH, 3), 90, dtype=np.uint8)
    left = 20 * number
    frame[200:300, left : left + 100] = BGR_ORANGE
    node.send_output("image", pa.array(frame.ravel()), {"left": left})
    number += 1
    if number == 25:
        break
