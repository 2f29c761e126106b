"""Stands for the driver of the arms of OpenArm: an arm is at once where it was sent."""

BUS = "bus_off error_passive error_warning ack_error tx_overflow rx_overflow write_net_down"


class Config:
    def __init__(self, path):
        self.path = path


class SingleArmDriver:
    def __init__(self, name, config, can_interface=None):
        self.name = name
        self._position = [0.0] * 8

    def start(self):
        print(f"{self.name} has power", flush=True)

    def stop(self):
        print(f"{self.name} has no power", flush=True)

    def send_position(self, position):
        self._position = list(position)

    def fetch_position(self, refresh=True):
        return self._position

    def fetch_state(self, refresh=True):
        temperatures = [40] * 8
        torques = [0.5] * 8
        return {
            "qpos": self._position,
            "qvel": [0.0] * 8,
            "qtorque": torques,
            "tmos": temperatures,
            "trotor": temperatures,
        }

    def get_health(self):
        return ["ENABLED"] * 8, {"carrier": True, **dict.fromkeys(BUS.split(), 0)}
