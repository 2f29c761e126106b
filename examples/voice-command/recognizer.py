"""Turns a sentence into a command, with PocketSphinx and its English model.

``commands.gram`` lists the commands, and the decoder finds the one that fits best: whatever is said. So a
second decoder, which may choose any sounds of English, says how well the sentence can be explained at all.
"""

import math

import numpy as np
import pyarrow as pa
from pocketsphinx import Decoder, get_model_path

from dora import Node

# How much worse a command may fit than the best sounds, on average of frames of 10 ms, in units of
# PocketSphinx (logarithms to the base 1.0001). With six voices of eSpeak NG, commands were 0 to 10 worse,
# and other sentences 9 to 40.
MARGIN = 10


def decode(decoder: Decoder, sound: bytes) -> tuple[str, float]:
    """Return the text, "" if there is none, and the mean score of a frame: the higher, the better."""
    decoder.start_utt()
    decoder.process_raw(sound, full_utt=True)
    decoder.end_utt()
    best = decoder.hyp()
    if best is None or not best.hypstr:
        return "", -math.inf
    scores = [math.log(segment.ascore, 1.0001) for segment in decoder.seg()]
    return best.hypstr, sum(scores) / decoder.n_frames()


class Recognizer:
    def __init__(self) -> None:
        # Without `bestpath`, the decoder returns no command that breaks off in the middle.
        self._commands = Decoder(lm=None, jsgf="commands.gram", bestpath=False, loglevel="FATAL")
        sounds = get_model_path("en-us/en-us-phone.lm.bin")
        self._sounds = Decoder(lm=None, allphone=sounds, lw=2.0, beam=1e-20, pbeam=1e-20, loglevel="FATAL")

    def recognize(self, sentence: np.ndarray) -> tuple[str, float]:
        """Return the command that fits best, and how much worse it fits than the best sounds."""
        sound = (np.clip(sentence, -1, 1) * 32767).astype(np.int16).tobytes()
        command, score = decode(self._commands, sound)
        _, best = decode(self._sounds, sound)
        return command, best - score


def main() -> None:
    recognizer = Recognizer()
    with Node() as node:
        for event in node:
            if event["type"] != "INPUT":
                continue
            command, distance = recognizer.recognize(event.numpy())
            if not command or distance > MARGIN:
                print(
                    f"no command (the nearest is {command or 'none'!r}, {distance:.0f} worse than sounds)"
                )
                continue
            print(f"{command!r} ({distance:.0f} worse than sounds)")
            node.send_output("command", pa.array([command]), {**event["metadata"], "primitive": "text"})


if __name__ == "__main__":
    main()
