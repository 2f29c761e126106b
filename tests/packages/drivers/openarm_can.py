"""Stands for the CAN bus of OpenArm, with the motor of its lifter: below 0 is a mechanical stop."""

from dataclasses import dataclass
from enum import Enum, auto


class MotorType(Enum):
    DM4310 = auto()


class ControlMode(Enum):
    POS_VEL = auto()


class CallbackMode(Enum):
    STATE = auto()


@dataclass
class PosVelParam:
    q: float
    dq: float


class Motor:
    def __init__(self):
        self.target = 0.0

    def get_position(self):
        return max(0.0, self.target)

    def get_torque(self):
        return 2.0 if self.target < 0 else 0.1


class OpenArm:
    def __init__(self, interface, enable_fd):
        self._motor = Motor()

    def get_arm(self):
        return self

    def get_motors(self):
        return [self._motor]

    def posvel_control_all(self, parameters):
        [wanted] = parameters
        self._motor.target = wanted.q

    def disable_all(self):
        print("the lifter is off", flush=True)

    def enable_all(self): ...
    def init_arm_motors(self, types, send_ids, receive_ids, modes): ...
    def recv_all(self, timeout_us=0): ...
    def set_callback_mode_all(self, mode): ...
