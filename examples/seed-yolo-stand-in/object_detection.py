import numpy as np
import pyarrow as pa
from stand_in import YOLO  # with the real model: from ultralytics import YOLO

import dora
from dora import DoraStatus, Event, SendOutput

CAMERA_WIDTH, CAMERA_HEIGHT = 640, 480


class Operator(dora.Operator):
    """Sends the bounding boxes of what is seen on the image."""

    def __init__(self) -> None:
        self.model = YOLO("yolov8n.pt")

    def on_event(self, dora_event: Event, send_output: SendOutput) -> DoraStatus:
        if dora_event["type"] == "INPUT":
            frame = dora_event["value"].to_numpy().reshape((CAMERA_HEIGHT, CAMERA_WIDTH, 3))
            frame = frame[:, :, ::-1]  # blue, green, red -> red, green, blue
            found = self.model(frame)[0].boxes
            boxes = np.asarray(found.xyxy)
            confidences = np.asarray(found.conf)[:, None]
            classes = np.asarray(found.cls)[:, None]
            arrays = np.concatenate((boxes, confidences, classes), axis=1)
            send_output("bbox", pa.array(arrays.ravel()), dora_event["metadata"])
        return DoraStatus.CONTINUE
