"""The recorder: the inputs of a node become episodes of a data set."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
from msgspec import Meta

from dora.dataflow.problems import did_you_mean, listed
from dora.errors import DoraError
from dora.node.events import Input, InputClosed
from dora.node.node import Node
from dora.nodes.images import BadImage, ImageData, image_of, is_image
from dora.nodes.lerobot import layout
from dora.nodes.lerobot.dataset import Dataset, DatasetError
from dora.nodes.lerobot.layout import Feature, feature_name
from dora.nodes.lerobot.sampling import SECOND, Sampler, rows_between
from dora.nodes.lerobot.saver import Saver, Unsaved
from dora.nodes.lerobot.tracks import CameraTrack, ImageMemory, NumberTrack, Track
from dora.nodes.lerobot.video import Codec, video_info
from dora.nodes.parameters import WrongParameter, read_parameters
from dora.observe.preview.drawable import NotDrawable, numbers
from dora.wire.metadata import as_nanoseconds

CONTROL: Final = "episode"
STATUS: Final = "status"
_OLD: Final = 5.0  # seconds; an older sample is a hint that the clock of its source differs
_TICK: Final = SECOND // 50  # the threads of the cameras are not woken by each message
COMMANDS: Final = ("start", "end", "success", "discard")

log = logging.getLogger("dora.nodes.lerobot_recorder")
Positive = Annotated[float, Meta(gt=0)]


class FeatureSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The feature that an input becomes. ``rate`` (hertz) is what is expected of it, by default ``fps``."""

    name: str = ""
    names: list[str] | None = None
    rate: Positive | None = None


class RecorderSettings(msgspec.Struct, frozen=True):
    """The `parameters` of the node. ``memory`` is in megabytes, ``patience`` in seconds."""

    dataset: str = "out/dataset"
    fps: Annotated[int, Meta(ge=1, le=1000)] = 30
    task: str = "no task"
    robot: str | None = None
    resume: bool = False
    on_gap: Literal["mark", "discard"] = "mark"
    codec: Codec = "h264"
    features: dict[str, str | FeatureSettings] = {}
    memory: Annotated[int, Meta(ge=1)] = 256
    patience: Annotated[float, Meta(ge=0, le=60)] = 0.5

    def feature(self, input_id: str) -> FeatureSettings:
        """Return what is set for an input."""
        setting = self.features.get(input_id, "")
        return FeatureSettings(setting) if isinstance(setting, str) else setting


class Source:
    """An input that is recorded. ``newest``: when its newest sample was captured, None before the first."""

    def __init__(self, input_id: str) -> None:
        self.id = input_id
        self.name = ""
        self.track: Track | None = None
        self.newest: int | None = None
        self.lost = 0  # messages that its queue has dropped, of those that are counted already
        self._reported: set[str] = set()

    def report(self, reason: str) -> None:
        """Warn about a message that cannot be used, once for each reason."""
        if reason not in self._reported:
            self._reported.add(reason)
            log.warning("input `%s`: %s; such messages are counted and not recorded", self.id, reason)


class OpenEpisode(NamedTuple):
    """The episode that is being recorded. ``start`` is in nanoseconds since 1970 (UTC)."""

    start: int
    task: str


class Ending(NamedTuple):
    """The end of an episode whose last messages may still be under way.

    ``when`` is in nanoseconds since 1970 (UTC). The recorder waits until ``deadline`` at most, in seconds
    of the monotonic clock.
    """

    outcome: str
    when: int
    deadline: float


class EpisodeRecorder:
    """Takes messages and commands; the data set grows by an episode at each ``end`` or ``success``.

    ``inputs`` are the ids of the node's inputs. ``dropped`` returns how many messages of an input its
    queue has dropped so far. All times are times of capture: it does not matter when messages arrive.
    """

    def __init__(
        self,
        settings: RecorderSettings,
        inputs: list[str],
        report: Callable[[Mapping[str, Any]], None],
        dropped: Callable[[str], int] = lambda _: 0,
    ) -> None:
        """Open the data set; raises `DoraError`. ``report`` is called for each episode at its end."""
        self._settings = settings
        self._sources = {name: Source(name) for name in inputs if name != CONTROL}
        self._ignored: set[str] = set()  # inputs that were connected while this node runs
        self._check_settings(inputs)
        self._dropped = dropped
        self._memory = ImageMemory(settings.memory * 1_000_000)
        self._dataset = Dataset(Path(settings.dataset), settings.fps, settings.robot, settings.resume)
        if self._dataset.removed:
            log.warning("removed %s from %s", self._dataset.removed, settings.dataset)
        self._saver = Saver(self._dataset, settings.on_gap, report)
        self._episode: OpenEpisode | None = None
        self._count = 0
        self._ticked = 0
        # An episode that waits for its first samples: when it was asked for, and its task.
        self._asked: OpenEpisode | None = None
        self._ending: Ending | None = None  # of the episode that is open
        self._next: OpenEpisode | None = None  # begins as soon as that one has ended
        self._closed: set[str] = set()  # inputs that have ended
        self._controlled = CONTROL in inputs
        if not self._controlled:
            self._asked = OpenEpisode(0, settings.task)

    @property
    def lost(self) -> int:
        """How many episodes could not be saved, for want of disk space or the like."""
        return self._saver.lost

    @property
    def wait(self) -> float | None:
        """How many seconds to wait for a message before `tick`; None: any time."""
        return None if self._ending is None else max(0.0, self._ending.deadline - time.monotonic())

    def tick(self) -> None:
        """Save the episode that ends, if all its messages are there or enough time has passed."""
        ending = self._ending
        if ending is None:
            return
        newest = [source.newest or 0 for source in self._sources.values() if source.id not in self._closed]
        patience = round(self._settings.patience * SECOND)
        if (
            all(time >= ending.when for time in newest)
            or self._now() >= ending.when + patience
            or time.monotonic() >= ending.deadline  # all sources may have stopped
        ):
            self._finish()

    def take(self, event: Input) -> None:
        """Take a message; raises `DatasetError` if the input does not fit the data set at all."""
        if event.id == CONTROL:
            self._command(event)
            return
        source = self._sources.get(event.id)
        if source is None:
            if event.id not in self._ignored:
                self._ignored.add(event.id)
                log.warning(
                    "input `%s` is not recorded: it was connected while this node runs, and the features "
                    "of the data set are fixed; `dora node restart` begins with it",
                    event.id,
                )
            return
        self._closed.discard(event.id)
        try:
            value = image_of(event) if self._is_camera(source, event) else _numbers(event)
            if source.track is None:
                self._add_track(source, value)
            elif not isinstance(value, ImageData):
                _check_numbers(value, source.track.feature)
        except BadImage as error:
            source.report(str(error))
            if source.track is not None:
                source.track.refuse()
            return
        assert source.track is not None
        captured = captured_at(event)
        if source.track.push(captured, value):
            source.newest = max(captured, source.newest or 0)
        else:
            source.report(
                f"the {self._settings.memory} MB of memory for images that wait for their encoder are full"
            )
        self._begin_if_ready()
        self._make_rows()
        self.tick()

    def _make_rows(self) -> None:
        """Make the rows that are complete, by the newest time of capture."""
        now = self._now()
        if self._episode is not None and now - self._ticked >= _TICK:
            self._ticked = now
            for source in self._sources.values():
                assert source.track is not None
                source.track.tick(now)

    def input_closed(self, input_id: str) -> None:
        """End the episode if one of its inputs ends: rows without it are not complete."""
        source = self._sources.get(input_id)
        if source is None:
            return
        self._closed.add(input_id)
        if self._next is not None or (self._asked is not None and self._controlled):
            self._next = self._asked = None
            self._tell_closed()
        if self._ending is not None:
            self.tick()
        elif self._episode is not None:
            log.info("input `%s` has ended, and so the episode", input_id)
            self._end("end", source.newest or 0)

    def close(self) -> None:
        """Save the episode that is being recorded, and close the data set."""
        try:
            if self._ending is not None:
                self._finish()
            if self._episode is not None:
                self._end("stopped", self._now())
                if self._ending is not None:
                    self._finish()
            elif self._asked is not None:
                self._tell_missing()
        finally:
            for source in self._sources.values():
                if source.track is not None:
                    source.track.close()
            # In this order: the saver waits for the encoders, and writes into the data set.
            self._saver.close()
            self._dataset.close()

    # ------------------------------------------------------------------ commands

    def _command(self, event: Input) -> None:
        words = event.value.to_pylist()
        text = str(words[0]).strip() if words else ""
        command, _, task = text.partition(" ")
        if self._next is not None and command in COMMANDS[1:]:
            self._finish()  # the command is for the episode that comes next
        if command not in COMMANDS:
            hint = did_you_mean(command, COMMANDS) or f"there are {listed(COMMANDS)}"
            log.error("input `%s`: `%s` is no command; %s", CONTROL, text, hint)
        elif command == "start":
            self._start(captured_at(event), task.strip() or self._settings.task)
        elif self._episode is None or self._ending is not None:
            self._tell_missing()
            self._asked = None
        elif command == "discard":
            for source in self._sources.values():
                assert source.track is not None
                source.track.discard()
            self._episode = None
            log.info("the episode is discarded")
        else:
            self._end(command, captured_at(event))

    def _start(self, when: int, task: str) -> None:
        if self._next is not None or (self._episode is not None and self._ending is None):
            log.warning("an episode is being recorded already: `start` is ignored until its end")
            return
        if self._closed:
            self._tell_closed()
            return
        if self._ending is not None:
            self._next = OpenEpisode(max(when, self._now(), self._ending.when), task)
            return
        self._asked = OpenEpisode(when, task)
        self._begin_if_ready()
        if self._asked is not None:
            log.info("the episode begins once there is a message of %s", listed(self._silent()))

    def _tell_missing(self) -> None:
        if self._asked is not None:
            silent = listed(self._silent())
            log.error("the episode has no frames, and is not saved: nothing came from %s", silent)
        else:
            log.warning("no episode is being recorded; `start` begins one")

    def _tell_closed(self) -> None:
        one = len(self._closed) == 1
        log.error(
            "no episode begins: %s %s; send `start` again once %s",
            "the input " + listed(sorted(self._closed)),
            "has ended" if one else "have ended",
            "it sends" if one else "they send",
        )

    def _now(self) -> int:
        return max(source.newest or 0 for source in self._sources.values())

    def _silent(self) -> list[str]:
        return [source.id for source in self._sources.values() if source.newest is None]

    def _begin_if_ready(self) -> None:
        if self._asked is None or self._silent():
            return
        asked, self._asked = self._asked, None
        self._begin(max(asked.start, self._now()), asked.task)

    def _begin(self, start: int, task: str) -> None:
        features = {source.name: source.track.feature for source in self._sources.values() if source.track}
        self._check_features(features)
        self._ticked = start
        self._episode = OpenEpisode(start, task)
        for source in self._sources.values():
            assert source.track is not None
            source.lost = self._dropped(source.id)
            age = (start - (source.newest or 0)) / SECOND
            if age > _OLD:
                log.warning(
                    "input `%s`: its newest message was captured %.0f s before the episode; if it is "
                    "not that old, the clocks differ",
                    source.id,
                    age,
                )
            source.track.begin(start, self._dataset.scratch / f"{self._count}-{source.name}.mp4")
        self._count += 1
        log.info("an episode begins: %s", self._episode.task)

    def _end(self, outcome: str, when: int) -> None:
        """Make no row after ``when``; the rows before still wait for their messages."""
        for source in self._sources.values():
            assert source.track is not None
            source.track.drop(self._dropped(source.id) - source.lost)
            source.track.limit(when)
        self._ending = Ending(outcome, when, time.monotonic() + self._settings.patience)
        self.tick()

    def _finish(self) -> None:
        """Save the episode that ends, with what is there; begin the next one if it was asked for."""
        assert self._episode is not None and self._ending is not None
        outcome, when, _ = self._ending
        rows = {}
        features = {}
        for source in self._sources.values():
            assert source.track is not None
            rows[source.name] = source.track.end(when)
            features[source.name] = source.track.feature
        start, task = self._episode
        length = rows_between(start, when, self._settings.fps)
        unsaved = Unsaved(start, length, task, outcome, rows, layout.all_features(features))
        self._episode = self._ending = None
        self._saver.save(unsaved)
        if self._next is not None:
            following, self._next = self._next, None
            self._begin(*following)

    # ------------------------------------------------------------------ sources

    def _is_camera(self, source: Source, event: Input) -> bool:
        return is_image(event) if source.track is None else source.track.feature.is_video

    def _add_track(self, source: Source, value: ImageData | np.ndarray[Any, Any]) -> None:
        setting, settings = self._settings.feature(source.id), self._settings
        rate = setting.rate or settings.fps
        patience = round(settings.patience * SECOND)
        source.name = setting.name or feature_name(source.id, image=isinstance(value, ImageData))
        if isinstance(value, ImageData):
            feature = _camera(source.id, value, settings)
            source.track = CameraTrack(
                source.name,
                feature,
                Sampler(settings.fps, rate, patience),
                self._memory,
                settings.codec,
                settings.fps,
                source.report,
            )
            return
        names = setting.names or [f"{source.id}_{number}" for number in range(value.size)]
        if len(names) != value.size:
            raise WrongParameter(
                f"parameter `features.{source.id}.names` has {len(names)} names, and a message has "
                f"{value.size} numbers"
            )
        source.track = NumberTrack(layout.vector(names), Sampler(settings.fps, rate, patience))

    def _check_features(self, features: Mapping[str, Feature]) -> None:
        if len(features) < len(self._sources):
            names = [source.name for source in self._sources.values()]
            [double] = [name for name in set(names) if names.count(name) > 1][:1]
            raise WrongParameter(f"several inputs become the feature `{double}`; name them in `features`")
        there = self._dataset.features
        if there is None:
            return
        for name in there.keys() - layout.all_features(features).keys():
            raise DatasetError(
                f"the data set {self._settings.dataset} has `{name}`, and no input becomes it"
            )
        for name, feature in layout.all_features(features).items():
            expected = there.get(name)
            if expected is None or (expected.dtype, expected.shape) != (feature.dtype, feature.shape):
                has = f"of shape {list(expected.shape)}" if expected else "nowhere"
                raise DatasetError(
                    f"the data set {self._settings.dataset} has `{name}` {has}, and the inputs have it of "
                    f"shape {list(feature.shape)}; record to another folder"
                )
        for source in self._sources.values():
            given, expected = self._settings.feature(source.id).names, there[source.name]
            if given is not None and not expected.is_video and given != expected.names:
                raise DatasetError(
                    f"the data set {self._settings.dataset} has `{source.name}` with the names "
                    f"{expected.names}, and the parameter `features.{source.id}.names` is {given}; write "
                    "the same names, or record to another folder"
                )

    def _check_settings(self, inputs: list[str]) -> None:
        if not self._sources:
            raise WrongParameter(
                "the recorder has no input to record; give it a camera, a state or an action"
            )
        for name in self._settings.features:
            if name not in self._sources:
                hint = did_you_mean(name, self._sources) or f"its inputs are {listed(inputs)}"
                raise WrongParameter(
                    f"parameter `features` names the input `{name}`, which is not there; {hint}"
                )


def captured_at(event: Input) -> int:
    """Return when a message was captured, by its metadata ``timestamp``, in nanoseconds since 1970 (UTC).

    A number is nanoseconds if it is whole, else seconds. Anything else counts as the time of sending.
    """
    stamp = event.metadata.get("timestamp")
    if isinstance(stamp, float):
        return round(stamp * SECOND)
    if isinstance(stamp, int) and not isinstance(stamp, bool):
        return stamp
    return as_nanoseconds(stamp if isinstance(stamp, datetime) else event.send_time)


def _numbers(event: Input) -> np.ndarray[Any, np.dtype[np.float32]]:
    try:
        found = numbers(event.value).astype(np.float32).reshape(-1)
    except (NotDrawable, ValueError, TypeError) as error:
        raise BadImage(str(error)) from None
    if not found.size:
        raise BadImage("a message has no numbers")
    if not np.isfinite(found).all():
        raise BadImage("a message has numbers that are not finite (NaN or infinite)")
    return found


def _check_numbers(value: np.ndarray[Any, Any], feature: Feature) -> None:
    if value.shape != feature.shape:
        raise BadImage(f"a message has {value.size} numbers, and the first one had {feature.shape[0]}")


def _camera(input_id: str, image: ImageData, settings: RecorderSettings) -> Feature:
    frame = image.frame()  # of a file, only the decoder knows the size
    width, height = frame.width, frame.height
    if width % 2 or height % 2:
        raise DoraError(
            f"input `{input_id}`: the images have {width} × {height} pixels, and a video needs even "
            "numbers; set up the camera for another size"
        )
    info = video_info(width, height, settings.fps, settings.codec)
    feature = layout.camera(width, height)
    return Feature(feature.dtype, feature.shape, feature.names, info)


def run(node: Node) -> None:
    """Record until the dataflow ends. Raises `DoraError`, at the end if an episode could not be saved."""
    config = node.node_config()
    inputs, outputs = list(config["inputs"]), config["outputs"]

    def report(episode: Mapping[str, Any]) -> None:
        if STATUS in outputs:
            node.send_output(STATUS, pa.array([msgspec.json.encode(episode).decode()]))

    def dropped(input_id: str) -> int:
        count: int = node.statistics()["inputs"].get(input_id, {}).get("dropped", 0)
        return count

    recorder = EpisodeRecorder(read_parameters(RecorderSettings, node.parameters), inputs, report, dropped)
    try:
        while (event := node.next(recorder.wait)) is not None:
            if isinstance(event, Input):
                recorder.take(event)
            elif isinstance(event, InputClosed):
                recorder.input_closed(event.id)
            recorder.tick()
    finally:
        recorder.close()
    if recorder.lost:
        raise DoraError(f"{recorder.lost} episodes could not be saved; the log says why")
