"""Stands for the driver of the robot Reachy 2: a camera that sees grey, a base that tells where it goes."""

from types import SimpleNamespace

import numpy


class Camera:
    def get_frame(self, view=None):
        return numpy.full((4, 6, 3), 90, numpy.uint8), 0

    def get_depth_frame(self):
        return numpy.full((4, 6), 1500, numpy.uint16), 0

    def get_parameters(self, view):
        return 4, 6, "none", None, numpy.diag([50.0, 50.0, 1.0]), None, None


class Base:
    def turn_on(self): ...
    def turn_off(self): ...
    def reset_odometry(self): ...

    def rotate_by(self, degrees):
        print(f"rotate by {degrees:.0f}", flush=True)

    def translate_by(self, x, y):
        print(f"translate by {x:g} {y:g}", flush=True)


class ReachySDK:
    def __init__(self, address):
        self.cameras = SimpleNamespace(teleop=Camera(), depth=Camera())
        self.mobile_base = Base()
