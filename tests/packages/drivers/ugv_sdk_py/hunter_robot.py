from types import SimpleNamespace


class HunterRobot:
    def __init__(self, version):
        self._version = version
        self._speed = (0.0, 0.0)

    def connect(self, can): ...
    def enable_commanded_mode(self): ...

    def get_parser_protocol_version(self):
        return self._version

    def request_version(self):
        return "stub"

    def set_motion_command(self, linear, angular):
        self._speed = (linear, angular)

    def get_robot_state(self):
        linear, angular = self._speed
        return SimpleNamespace(
            motion_state=SimpleNamespace(linear_velocity=linear, angular_velocity=angular)
        )
