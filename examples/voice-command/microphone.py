"""The microphone: 32 ms of sound at each tick, from ``AUDIO``: a sound file, or ``microphone``."""

import os
from collections.abc import Callable

import numpy as np
import soundfile

from dora import Node

SAMPLE_RATE = 16_000  # a second, as the models want it
CHUNK = 512  # samples
AFTERWARDS = 4.0  # seconds of silence after the end of a file, in which the robot answers


def open_file(path: str) -> Callable[[], np.ndarray | None]:
    """Return a function that returns the next chunk, or None at the end; raises ``SystemExit``."""
    try:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise SystemExit(f"AUDIO={path} cannot be read as a sound file: {error}") from None
    duration = len(sound) / rate
    times = np.arange(0, duration + AFTERWARDS, 1 / SAMPLE_RATE)
    sound = np.interp(times, np.arange(len(sound)) / rate, sound.mean(axis=1), right=0).astype(np.float32)
    chunks = iter(np.split(sound, range(CHUNK, len(sound), CHUNK))[:-1])
    return lambda: next(chunks, None)


def open_microphone() -> Callable[[], np.ndarray]:
    """Return a function that waits for the next chunk; raises ``SystemExit``."""
    try:
        import sounddevice
    except ImportError:
        raise SystemExit("the microphone needs sounddevice: pip install sounddevice") from None
    except OSError as error:
        raise SystemExit(f"{error}; on Debian and Ubuntu: apt install libportaudio2") from None
    try:
        stream = sounddevice.InputStream(SAMPLE_RATE, CHUNK, channels=1, dtype="float32")
        stream.start()
    except sounddevice.PortAudioError as error:
        raise SystemExit(f"the microphone cannot be opened: {error}") from None
    return lambda: stream.read(CHUNK)[0][:, 0]


def main() -> None:
    source = os.environ.get("AUDIO", "commands.ogg")
    read = open_microphone() if source == "microphone" else open_file(source)
    with Node() as node:
        for event in node:
            if event["type"] == "STOP":
                break
            if event["type"] == "INPUT":
                chunk = read()
                if chunk is None:
                    break
                node.send_output("audio", chunk, {"sample_rate": SAMPLE_RATE})


if __name__ == "__main__":
    main()
