import hashlib

import cv2
import numpy as np
from facts import record

picture = (np.arange(480 * 640 * 3) % 251).astype(np.uint8).reshape(480, 640, 3)
record("blurred", hashlib.sha256(cv2.GaussianBlur(picture, (31, 31), 5).tobytes()).hexdigest())
record("resized", hashlib.sha256(cv2.resize(picture, (1000, 1000)).tobytes()).hexdigest())
record("encoded", len(cv2.imencode(".jpg", picture)[1]))
record("threads", cv2.getNumThreads())
record("optimized", cv2.useOptimized())
