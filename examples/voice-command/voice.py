"""Speaks the answers with eSpeak NG. With ``LOUDSPEAKER=1`` one hears them while the dataflow runs."""

import os

from espeak import Speaker

from dora import Node


def main() -> None:
    speaker = Speaker("en+m3", words_per_minute=160)
    play = None
    if os.environ.get("LOUDSPEAKER"):
        try:
            from sounddevice import play
        except ImportError:
            raise SystemExit("the loudspeaker needs sounddevice: pip install sounddevice") from None
        except OSError as error:
            raise SystemExit(f"{error}; on Debian and Ubuntu: apt install libportaudio2") from None
    with Node() as node:
        for event in node:
            if event["type"] != "INPUT":
                continue
            sound = speaker.say(event["value"][0].as_py())
            node.send_output("audio", sound, {**event["metadata"], "sample_rate": speaker.sample_rate})
            if play:
                play(sound, speaker.sample_rate)


if __name__ == "__main__":
    main()
