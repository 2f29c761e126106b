"""A leader whose joints are at ten degrees."""

CMD_STANDBY = b"\x01"
CMD_STREAM = b"\x02"


class KERStream:
    metadata = {"hw": "stub", "fw": "1.0", "updated": "never"}

    def connect(self): ...
    def close(self): ...

    def send_command(self, command):
        print(f"command {command[0]}", flush=True)

    def recv(self):
        return {"angles": [10.0] * 16}
