"""Stands for the driver of Orbbec cameras: one that sees grey, two metres away."""

from enum import Enum, auto
from types import SimpleNamespace

import numpy

WIDTH, HEIGHT = 16, 12


class OBFormat(Enum):
    RGB = auto()
    Y16 = auto()


class OBSensorType(Enum):
    COLOR_SENSOR = auto()
    DEPTH_SENSOR = auto()


class OBError(Exception): ...


class FrameSet:
    def get_color_frame(self):
        return VideoFrame(numpy.full(WIDTH * HEIGHT * 3, 90, numpy.uint8))

    def get_depth_frame(self):
        return VideoFrame(numpy.full(WIDTH * HEIGHT, 2000, numpy.uint16))


class VideoFrame:
    def __init__(self, data):
        self.get_data = lambda: data
        self.get_width = lambda: WIDTH
        self.get_height = lambda: HEIGHT
        self.get_format = lambda: OBFormat.RGB
        self.get_depth_scale = lambda: 1.0


class VideoStreamProfile: ...


class Config:
    def enable_stream(self, profile): ...


class Context:
    def query_devices(self):
        return SimpleNamespace(get_device_by_index=lambda index: index)


class Pipeline:
    def __init__(self, device): ...
    def start(self, config): ...
    def stop(self): ...

    def get_stream_profile_list(self, sensor):
        return SimpleNamespace(get_video_stream_profile=lambda *options: VideoStreamProfile())

    def wait_for_frames(self, timeout):
        return FrameSet()
