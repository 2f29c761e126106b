"""Writes ``out/conversation.wav`` (left the human, right the robot) and ``out/conversation.png``."""

import statistics
from datetime import UTC, datetime
from pathlib import Path

import matplotlib
import numpy as np
import soundfile

from dora import Node

matplotlib.use("Agg")  # draws without a display
import matplotlib.pyplot as plt

OUT = Path("out")
HUMAN, ROBOT = "tab:blue", "tab:orange"


class Conversation:
    """Everything that was heard and said. All times are in seconds since the first sound."""

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []  # of the microphone
        self.sample_rate = 0
        self.answers: list[tuple[float, np.ndarray]] = []  # the time, and the sound at `sample_rate`
        self.probabilities: list[float] = []
        self.lines: list[tuple[float, str, str]] = []  # time, speaker, words
        self.poses: list[np.ndarray] = []
        self.delays: list[float] = []  # from the last sound of a command to the first of the answer
        self._begin: datetime | None = None

    def hear(self, chunk: np.ndarray, sample_rate: int, timestamp: datetime) -> None:
        self._begin = self._begin or timestamp
        self.sample_rate = sample_rate
        self.chunks.append(chunk)

    def now(self) -> float:
        """Return the seconds since the first sound."""
        return (datetime.now(UTC) - self._begin).total_seconds() if self._begin else 0.0

    def answer(self, sound: np.ndarray, rate: int, heard: datetime) -> None:
        """Add an answer that begins now; ``heard`` is when the last sound of its command came."""
        self.delays.append((datetime.now(UTC) - heard).total_seconds())
        times = np.arange(0, len(sound) / rate, 1 / self.sample_rate)
        sound = np.interp(times, np.arange(len(sound)) / rate, sound)
        self.answers.append((self.now(), sound))

    def sound(self) -> np.ndarray:
        """Return N × 2 samples: left the human, right the robot."""
        left = np.concatenate(self.chunks)
        starts = [round(when * self.sample_rate) for when, _ in self.answers]
        ends = [start + len(sound) for start, (_, sound) in zip(starts, self.answers, strict=True)]
        both = np.zeros((max([len(left), *ends]), 2), np.float32)
        both[: len(left), 0] = left
        for start, end, (_, sound) in zip(starts, ends, self.answers, strict=True):
            both[start:end, 1] = sound
        return both

    def draw(self, file: Path) -> None:
        sound = self.sound()
        figure, (wave, plane) = plt.subplots(
            1, 2, figsize=(15, 5), width_ratios=[3, 1], layout="constrained"
        )
        times = np.arange(len(sound)) / self.sample_rate
        for channel, colour, middle in ((0, HUMAN, 1.0), (1, ROBOT, -1.0)):
            wave.plot(times, sound[:, channel] + middle, color=colour, linewidth=0.3)
        chunk = len(self.chunks[0]) / self.sample_rate
        moments = np.arange(len(self.probabilities)) * chunk
        wave.fill_between(moments, 1.6, 1.6 + 0.3 * np.array(self.probabilities), color="0.7", linewidth=0)
        for when, speaker, words in self.lines:
            if speaker == "human":
                wave.text(when, 2, words, color=HUMAN, rotation=12, size=9)
            else:
                wave.text(when, -1.7, words, color=ROBOT, rotation=-12, size=9, va="top")
        wave.set(xlabel="seconds", xlim=(-1, times[-1] + 3), ylim=(-2.9, 3))
        wave.set(yticks=[-1, 1, 1.75], yticklabels=["robot", "human", "speech?"])
        if self.poses:
            x, y, _ = np.array(self.poses).T
            plane.plot(x, y, color=ROBOT)
            plane.plot(x[-1], y[-1], "o", color=ROBOT)
        plane.set(xlabel="x in metres", ylabel="y in metres", title="way of the robot", aspect="equal")
        figure.savefig(file, dpi=100)


def main() -> None:
    conversation = Conversation()
    for event in Node():
        if event["type"] != "INPUT":
            continue
        metadata = event["metadata"]
        match event["id"]:
            case "audio":
                conversation.hear(event.numpy().copy(), metadata["sample_rate"], metadata["timestamp"])
            case "probability":
                conversation.probabilities.append(float(event.numpy()[0]))
            case "command":
                conversation.lines.append((metadata["start"], "human", event["value"][0].as_py()))
            case "answer":
                conversation.lines.append((conversation.now(), "robot", event["value"][0].as_py()))
            case "answer_audio":
                conversation.answer(event.numpy(), metadata["sample_rate"], metadata["timestamp"])
            case "pose":
                conversation.poses.append(event.numpy().copy())
    if not conversation.chunks:
        raise SystemExit("the microphone sent no sound")
    OUT.mkdir(exist_ok=True)
    soundfile.write(OUT / "conversation.wav", conversation.sound(), conversation.sample_rate)
    conversation.draw(OUT / "conversation.png")
    for when, speaker, words in sorted(conversation.lines):
        print(f"{when:5.1f} s  {speaker}: {words}")
    if conversation.delays:
        print(f"answered {statistics.median(conversation.delays) * 1000:.0f} ms after the pause (median)")
    print(f"hear {OUT / 'conversation.wav'}, see {OUT / 'conversation.png'}")


if __name__ == "__main__":
    main()
