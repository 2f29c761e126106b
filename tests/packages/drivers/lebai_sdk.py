"""Stands for the driver of Lebai arms, which tells where it goes."""


def init(): ...


def connect(address, simulated):
    return Arm()


class Arm:
    def start_sys(self): ...
    def stop_move(self): ...

    def get_kin_data(self):
        names = ("x", "y", "z", "rx", "ry", "rz")
        return {"actual_tcp_pose": dict.fromkeys(names, 0.0), "actual_joint_pose": [0.0] * 6}

    def kinematics_forward(self, joints):
        return dict(zip(("x", "y", "z", "rx", "ry", "rz"), joints, strict=True))

    def set_claw(self, force, amplitude):
        print(f"claw {amplitude:g}", flush=True)

    def move_pvat(self, joints, speeds, accelerations, seconds):
        print(f"move to {[round(float(joint), 2) for joint in joints]}", flush=True)
