"""``python -m dora.recording.replay.player``: sends the recorded messages of a node again.

`dora replay` puts it in place of that node (``path: dora-replay``). Plain values are not decoded;
everything else is, as a check: receivers trust shared memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Final

from dora.errors import DoraError
from dora.node.events import Error, Stop
from dora.node.host import REPLAY_DIRECTORY
from dora.node.log import write_log
from dora.node.replay.clock import ReplayClock
from dora.node.replay.inbox import CLOCK_FILE, STEP_POLL_NS
from dora.node.send.output import OutputPort
from dora.node.session.session import Session
from dora.recording.mcap.format import NotARecording, from_texts
from dora.recording.mcap.info import cut
from dora.recording.mcap.recording import RecordedMessage, Recording
from dora.recording.opening import open_recording
from dora.recording.replay.replay_dataflow import PlayerSettings
from dora.transport.board import RECORDED, SENT, WORDS
from dora.wire.decode import BAD_MESSAGE, check
from dora.wire.decoders import DecodeError
from dora.wire.encode import Payload

_monotonic = time.monotonic_ns
# Limits of what may wait for a recorder, for each output: what its tap holds (`QUEUE_SIZE`), and fewer
# large messages, which are shared memory.
_RECORDER_MESSAGES: Final = 256
_RECORDER_BYTES: Final = 64 << 20
_RECORDER_PAUSE: Final = 0.0005  # seconds between two polls of its progress
# Without progress; then the player no longer waits: a recorder that was killed must not stop the replay.
_RECORDER_PATIENCE_NS: Final = 10_000_000_000
CUT_SUFFIX: Final = ".cut"  # of the file in which a player reports where it had to stop reading
_LOOP_GAP_NS = 1_000_000  # between the last message and the first of the next round


def settings_from_env(environ: Mapping[str, str]) -> PlayerSettings:
    """Read the variables; raises `DoraError`."""
    try:
        return from_texts(environ, PlayerSettings)
    except DecodeError as error:
        raise DoraError(f"`dora replay` starts this program, and sets its variables: {error}") from None


class Player:
    """Sends the messages of one node, each when it is due."""

    def __init__(
        self, session: Session, recording: Recording, settings: PlayerSettings, clock: ReplayClock
    ) -> None:
        self._session = session
        self._recording = recording
        self._settings = settings
        self._clock = clock
        self._recorded = clock.recorded

    def play(self) -> None:
        """Send all messages, again and again if the settings say so; a stop ends it early."""
        epoch_ns = self._session.inbox.epoch_ns
        topic_of = partial(self._recording.topic_of, self._settings.node_id)
        outputs = {topic_of(name): port for name, port in self._session.outputs.items()}
        self._slots = {topic_of(output.id): output.slot for output in self._session.config.outputs}
        begin_ns, end_ns = window(self._recording, self._settings.begin, self._settings.end)
        while self._round(outputs, begin_ns, end_ns, epoch_ns) and self._settings.loop:
            if self._clock.speed:
                last_ns = min(end_ns, self._recording.last_ns)
                epoch_ns += int((last_ns - begin_ns + _LOOP_GAP_NS) / self._clock.speed)
        if self._recording.damage and self._recording.end is not None:
            text = f"the recording is damaged, and ends here: {self._recording.damage}"
            write_log(self._settings.node_id, "warn", text)
        if (text := cut(self._recording)) and (directory := os.environ.get(REPLAY_DIRECTORY)):
            with open(os.path.join(directory, self._settings.node_id + CUT_SUFFIX), "w") as file:
                file.write(text)

    def _round(self, outputs: Mapping[str, OutputPort], begin_ns: int, end_ns: int, epoch_ns: int) -> bool:
        sent = False
        for recorded in self._recording.messages(outputs, begin_ns, end_ns):
            if not self._wait(recorded.time_ns, epoch_ns):
                return False
            port = outputs[recorded.topic]
            self._send(port, recorded)
            if port.unsent:  # this node was asked to stop, while a queue was full
                return False
            sent = True
        return sent  # else an empty loop would never end

    def _send(self, port: OutputPort, recorded: RecordedMessage) -> None:
        message = recorded.message
        try:
            check(message)
        except BAD_MESSAGE as error:
            raise DoraError(
                f"message {recorded.sequence} of `{recorded.topic}` is damaged: {error}"
            ) from None
        if message.owner is None:
            payload = Payload(message.encoding, message.schema, message.body_size, body=message.small_body)
        else:
            address = message.address + message.body_offset
            payload = Payload(
                message.encoding, message.schema, message.body_size, address=address, keep=message.owner
            )
        if self._recorded:
            self._wait_for_recorder(recorded.topic, payload.size)
        # In recorded order, receivers see the recorded time; otherwise the current one.
        exactly = self._clock.ordered
        port.resend(message, payload, message.time_ns if exactly else time.time_ns(), exactly=exactly)

    def _wait_for_recorder(self, topic: str, size: int) -> None:
        """Wait until a recorder has taken most messages of an output: a tap has no back-pressure."""
        words = self._session.board.words
        base = self._slots[topic] * WORDS
        room = max(2, min(_RECORDER_MESSAGES, _RECORDER_BYTES // max(size, 1)))
        taken, since = words[base + RECORDED], _monotonic()
        while words[base + SENT] - words[base + RECORDED] >= room:
            time.sleep(_RECORDER_PAUSE)
            if words[base + RECORDED] != taken:
                taken, since = words[base + RECORDED], _monotonic()
            elif _monotonic() - since > _RECORDER_PATIENCE_NS:
                self._recorded = False
                return

    def _wait(self, time_ns: int, epoch_ns: int) -> bool:
        """Wait until a message is due; return False if this node has to stop."""
        inbox = self._session.inbox
        if not self._clock.speed and self._clock.due(time_ns, epoch_ns) is not None:
            event = inbox.try_next()
            return not (isinstance(event, Stop) or inbox.ended)
        while True:
            due = self._clock.due(time_ns, epoch_ns)
            left = STEP_POLL_NS if due is None else due - _monotonic()
            if left <= 0:
                return True
            event = inbox.next(left * 1e-9)
            if (
                event is None
                or isinstance(event, Stop)
                or (isinstance(event, Error) and not event.is_timeout)
            ):
                return False


def window(recording: Recording, begin: float, end: float | None) -> tuple[int, int]:
    """Return a part of a recording, in seconds from its first message, as times: from, and before."""
    begin_ns = recording.first_ns + round(begin * 1e9)
    return begin_ns, (recording.last_ns + 1 if end is None else recording.first_ns + round(end * 1e9))


def _clock(settings: PlayerSettings, recording: Recording) -> ReplayClock:
    if directory := os.environ.get(REPLAY_DIRECTORY):
        return ReplayClock.open(os.path.join(directory, CLOCK_FILE))
    start_ns, _ = window(recording, settings.begin, settings.end)
    return ReplayClock(memoryview(ReplayClock.make(start_ns=start_ns, speed=settings.speed)))


def main() -> int:
    """Play what the environment asks for; return the exit status."""
    try:
        settings = settings_from_env(os.environ)
        with open_recording(
            settings.file,
            images=settings.images,
            topics=settings.topics,
            image_topics=settings.image_topics,
        ) as recording:
            clock = _clock(settings, recording)
            session = Session()
            Player(session, recording, settings, clock).play()
            session.close()
    except (DoraError, NotARecording) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
