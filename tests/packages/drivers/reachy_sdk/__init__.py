"""Stands for the driver of the robot Reachy."""

from types import SimpleNamespace


def _first_joints(pose):
    return pose[:3, 3].round(2).tolist()


class ReachySDK:
    def __init__(self, address, with_mobile_base):
        names = ("neck_roll", "neck_yaw", "neck_pitch", "l_antenna", "r_antenna")
        self.head = SimpleNamespace(**{name: SimpleNamespace(present_position=0.0) for name in names})
        joints = {f"joint_{number}": f"joint_{number}" for number in range(7)}
        self.r_arm = SimpleNamespace(
            joints=joints, inverse_kinematics=lambda pose: pose[:3, 3].round(2).tolist()
        )

    def turn_on(self, part): ...

    def turn_off_smoothly(self, part):
        head = [getattr(self.head, name).goal_position for name in ("neck_roll", "neck_yaw", "neck_pitch")]
        print(f"{part} off, head at {[round(float(angle), 2) for angle in head]}", flush=True)
