"""Stands for the driver of KER, the leader of OpenArm."""
