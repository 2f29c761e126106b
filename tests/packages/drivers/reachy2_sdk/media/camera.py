from enum import Enum, auto


class CameraView(Enum):
    LEFT = auto()
    RIGHT = auto()
    DEPTH = auto()
