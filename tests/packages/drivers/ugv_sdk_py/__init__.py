"""Stands for the driver of a car by AgileX."""

from enum import Enum


class ProtocolVersion(Enum):
    AGX_V2 = 2
