"""A module of the package, which ends the program."""

import inspect


def end() -> str:
    frames = [f"{frame.filename} {frame.function}" for frame in inspect.stack()]
    raise ValueError("\n".join(frames))
