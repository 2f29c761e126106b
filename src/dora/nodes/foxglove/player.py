"""Play a recording to Foxglove, whose own controls play, pause, jump and set the speed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from threading import Condition
from typing import Final, NoReturn

from foxglove.websocket import PlaybackCommand, PlaybackControlRequest, PlaybackState, PlaybackStatus

from dora.errors import DoraError
from dora.nodes.foxglove.channels import ChannelMap
from dora.nodes.foxglove.server import FoxgloveServer
from dora.recording.mcap.format import NotARecording
from dora.recording.mcap.recording import RecordedMessage, Recording

_TURN_NS: Final = 50_000_000  # of the recording, at most, between two looks at the controls
_MOMENT_NS: Final = 500_000_000  # before a jump's time, in which the newest messages show the moment
_SPEEDS: Final = (0.01, 100.0)  # a client may ask for 0, by which a pause would be divided
log: Final = logging.getLogger("dora.nodes.foxglove")


class RecordingPlayer:
    """Plays one recording, in the thread that calls `run`."""

    def __init__(self, recording: Recording, name: str, address: str) -> None:
        """Listen; raises `DoraError` if the recording is empty, or the address cannot be used."""
        if not recording.count:
            raise DoraError(f"{recording.path} has no messages, so there is nothing to show")
        self._recording = recording
        self._begin, self._end = recording.first_ns, recording.last_ns
        self._changed = Condition()  # threads of the SDK give commands to the thread of `run`
        self._playing = False
        self._speed = 1.0
        self._now = self._begin
        self._jumped = True  # `messages` begins at another time
        self._commanded = False  # a client has given a command since the last turn
        self._unreadable: set[str] = set()  # topics with a message that was left out
        self.server = FoxgloveServer(name, address, play=self._control, times=(self._begin, self._end))
        self._channels = ChannelMap(self.server.context)

    def run(self) -> NoReturn:
        """Play for ever; ``KeyboardInterrupt`` ends it."""
        for topic in self._recording.topics:  # so that clients know all topics from the start
            for first in self._recording.messages([topic]):
                self._show(first)
                break
        messages: Iterator[RecordedMessage] = iter(())
        waiting: RecordedMessage | None = None
        while True:
            with self._changed:
                commanded, self._commanded = self._commanded, False
                jumped, self._jumped = self._jumped, False
                begun, at, speed, state = time.monotonic(), self._now, self._speed, self._state()
                stands = not (jumped or self._playing)
                if stands and not commanded:
                    self._changed.wait()
                    continue
            if commanded:  # again: a state from before the command may have come after the answer to it
                self.server.broadcast_playback(state)
            if stands:
                continue
            if jumped:
                self._show_moment(at)
                messages, waiting = self._recording.messages(None, at + 1), None
                continue
            target = min(at + _TURN_NS, self._end)
            ended = False
            while True:
                waiting = waiting or next(messages, None)
                if waiting is None:
                    ended = True
                    break
                if waiting.time_ns > target:
                    break
                self._show(waiting)
                waiting = None
            self._advance(at, target, ended or target == self._end)
            pause = (target - at) / 1e9 / speed - (time.monotonic() - begun)
            with self._changed:
                if pause > 0 and not self._jumped:
                    self._changed.wait(pause)

    def _show_moment(self, at: int) -> None:
        """Show the newest message of each topic up to a time: a player that stands still shows it, too."""
        newest = {each.topic: each for each in self._recording.messages(None, at - _MOMENT_NS, at + 1)}
        for message in newest.values():
            self._show(message)

    def _show(self, recorded: RecordedMessage) -> None:
        """Show a message, unless it cannot be read; the first one of a topic is a warning."""
        try:
            message = recorded.message
        except NotARecording as error:
            if recorded.topic not in self._unreadable:
                self._unreadable.add(recorded.topic)
                log.warning("left out: %s", error)
                self.server.warn(str(error))
            return
        self._channels.show(recorded.topic, message)

    def close(self) -> None:
        """Close the connections to all clients."""
        self._channels.close()
        self.server.close()

    def _advance(self, at: int, target: int, ended: bool) -> None:
        with self._changed:
            if self._jumped or self._now != at:
                return  # a client has jumped meanwhile: its time counts
            self._now = target
            if ended:
                self._playing = False
            state = self._state(ended=ended)
        self.server.broadcast_time(target)
        self.server.broadcast_playback(state)

    def _state(self, *, jumped: bool = False, ended: bool = False, request: str = "") -> PlaybackState:
        status = PlaybackStatus.Playing if self._playing else PlaybackStatus.Paused
        return PlaybackState(
            PlaybackStatus.Ended if ended else status, self._now, self._speed, jumped, request
        )

    def _control(self, request: PlaybackControlRequest) -> PlaybackState:
        """Obey a client; a thread of the SDK calls this."""
        with self._changed:
            self._commanded = True
            jumped = request.seek_time is not None
            if request.seek_time is not None:
                self._now = min(max(request.seek_time, self._begin), self._end)
                self._jumped = True
            starts = request.playback_command == PlaybackCommand.Play
            if starts and not self._playing and self._now >= self._end:
                self._now, self._jumped, jumped = self._begin, True, True  # once more
            self._playing = starts
            low, high = _SPEEDS
            self._speed = min(max(request.playback_speed, low), high)
            self._changed.notify()
            return self._state(jumped=jumped, request=request.request_id)
