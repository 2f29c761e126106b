"""Makes ``commands.ogg``: what a human says to the robot, spoken by eSpeak NG, over a little noise."""

import numpy as np
import soundfile
from espeak import Speaker

SAMPLE_RATE = 16_000
SENTENCES = [  # seconds of silence before it
    (0.6, "Robot, drive forward three meters."),
    (1.6, "Robot, turn left."),
    (2.4, "The weather is nice today."),
    (0.8, "Robot, go forward five meters."),
    (3.0, "Robot, stop."),
    (1.6, "Robot, where are you?"),
]


def main() -> None:
    speaker = Speaker("en-us+f2")
    parts = []
    for silence, sentence in SENTENCES:
        sound = speaker.say(sentence)
        times = np.arange(0, len(sound) / speaker.sample_rate, 1 / SAMPLE_RATE)
        sound = np.interp(times, np.arange(len(sound)) / speaker.sample_rate, sound)
        parts += [np.zeros(round(silence * SAMPLE_RATE)), sound]
    speech = np.concatenate([*parts, np.zeros(SAMPLE_RATE)])
    noise = np.random.default_rng(1).normal(0, 0.002, len(speech))
    soundfile.write("commands.ogg", 0.6 * speech + noise, SAMPLE_RATE)


if __name__ == "__main__":
    main()
