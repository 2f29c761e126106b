"""Stands for the driver of the arm Piper, which is at once where it was sent."""

from types import SimpleNamespace


class C_PiperInterface:
    def __init__(self, can_bus):
        self._joints = [0] * 6

    def ConnectPort(self): ...
    def EnableArm(self, motors): ...
    def MotionCtrl_2(self, *modes): ...
    def GripperCtrl(self, *angles): ...

    def JointCtrl(self, *joints):
        self._joints = joints

    def GetArmLowSpdInfoMsgs(self):
        motor = SimpleNamespace(foc_status=SimpleNamespace(driver_enable_status=True))
        return SimpleNamespace(**{f"motor_{number}": motor for number in range(1, 7)})

    def GetArmJointMsgs(self):
        joints = {f"joint_{number}": joint for number, joint in enumerate(self._joints, 1)}
        return SimpleNamespace(joint_state=SimpleNamespace(**joints))

    def GetArmGripperMsgs(self):
        return SimpleNamespace(gripper_state=SimpleNamespace(grippers_angle=50_000))

    def GetArmEndPoseMsgs(self):
        names = ("X_axis", "Y_axis", "Z_axis", "RX_axis", "RY_axis", "RZ_axis")
        return SimpleNamespace(end_pose=SimpleNamespace(**dict.fromkeys(names, 1_000_000)))
