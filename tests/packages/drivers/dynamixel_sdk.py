"""Stands for the driver of Dynamixel motors: each is at once at its goal."""

COMM_SUCCESS = 0
GOAL = 116  # an address in the memory of a motor
memory = {}


def DXL_LOBYTE(value):
    return value & 0xFF


def DXL_HIBYTE(value):
    return value >> 8 & 0xFF


def DXL_LOWORD(value):
    return value & 0xFFFF


def DXL_HIWORD(value):
    return value >> 16 & 0xFFFF


class PortHandler:
    def __init__(self, port): ...
    def closePort(self): ...
    def setBaudRate(self, rate): ...
    def setPacketTimeoutMillis(self, timeout): ...

    def openPort(self):
        return True


class PacketHandler:
    def __init__(self, version): ...


class GroupSyncWrite:
    def __init__(self, port, packets, address, size):
        self._address = address

    def addParam(self, motor, data):
        if self._address == GOAL:
            memory[motor] = int.from_bytes(data, "little")

    changeParam = addParam

    def txPacket(self):
        return COMM_SUCCESS


class GroupSyncRead:
    def __init__(self, port, packets, address, size): ...
    def addParam(self, motor): ...

    def txRxPacket(self):
        return COMM_SUCCESS

    def getData(self, motor, address, size):
        return memory.get(motor, 0)
