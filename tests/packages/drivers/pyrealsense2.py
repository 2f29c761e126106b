"""Stands for the driver of RealSense cameras: one that sees grey, two metres away."""

from types import SimpleNamespace

import numpy

stream = SimpleNamespace(color=1, depth=2)
format = SimpleNamespace(rgb8=1, z16=2)
camera_info = SimpleNamespace(serial_number=1)


class Devices(list):
    def size(self):
        return len(self)


class context:
    def query_devices(self):
        return Devices([SimpleNamespace(get_info=lambda name: "stub")])


class config:
    def enable_device(self, serial): ...

    def enable_stream(self, stream, width, height, format, rate):
        self.size = (height, width)


class pipeline:
    def start(self, config):
        self._size = config.size
        intrinsics = SimpleNamespace(ppx=8, ppy=6, fx=50, fy=50)
        profile = SimpleNamespace(get_intrinsics=lambda: intrinsics)
        return SimpleNamespace(
            get_stream=lambda stream: SimpleNamespace(as_video_stream_profile=lambda: profile)
        )

    def wait_for_frames(self):
        color = numpy.full((*self._size, 3), 90, numpy.uint8)
        depth = numpy.full(self._size, 2000, numpy.uint16)
        frames = [SimpleNamespace(get_data=lambda image=image: image) for image in (color, depth)]
        return SimpleNamespace(get_color_frame=lambda: frames[0], get_depth_frame=lambda: frames[1])


class align:
    def __init__(self, stream): ...

    def process(self, frames):
        return frames
