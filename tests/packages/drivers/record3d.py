"""Stands for the driver of the app Record3D: a telephone that sees grey, two metres away."""

import threading
from types import SimpleNamespace

import numpy


class Record3DStream:
    @staticmethod
    def get_connected_devices():
        return [SimpleNamespace(product_id=1)]

    def connect(self, device):
        threading.Thread(target=self._see, daemon=True).start()

    def _see(self):
        while not threading.Event().wait(0.02):
            self.on_new_frame()

    def get_depth_frame(self):
        return numpy.full((12, 16), 2.0, numpy.float32)

    def get_rgb_frame(self):
        return numpy.full((12, 16, 3), 90, numpy.uint8)

    def get_intrinsic_mat(self):
        return SimpleNamespace(fx=50, fy=50, tx=8, ty=6)
