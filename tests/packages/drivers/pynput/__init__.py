"""Stands for pynput: somebody presses a, then b."""
