"""A source of an episode: numbers in this thread, images in a thread for each camera."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import av
import numpy as np
import numpy.typing as npt

from dora.nodes.images import BadImage, ImageData, to_array
from dora.nodes.lerobot.dataset import SourceData
from dora.nodes.lerobot.layout import Feature
from dora.nodes.lerobot.sampling import Pick, Sampler
from dora.nodes.lerobot.stats import PixelStatistics
from dora.nodes.lerobot.video import Codec, VideoWriter, to_video

_STATISTICS_OF: Final = 10  # each tenth row counts for the statistics of a camera


class Rows:
    """The times of capture and the gaps of the rows of an episode."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.gaps: list[bool] = []

    def add(self, pick: Pick[Any]) -> None:
        """Add a row."""
        self.times.append(pick.sample.time)
        self.gaps.append(pick.gap)

    def data(self, **more: Any) -> SourceData:
        """Return the rows, with the rest of a source's data."""
        return SourceData(np.array(self.times, np.int64), np.array(self.gaps, np.bool_), **more)


class Track(Protocol):
    """Times are in nanoseconds since 1970 (UTC)."""

    feature: Feature

    def push(self, time: int, value: Any) -> bool: ...
    def refuse(self) -> None: ...
    def drop(self, count: int) -> None: ...
    def begin(self, start: int, path: Path) -> None: ...
    def tick(self, now: int) -> None: ...
    def limit(self, end: int) -> None: ...
    def end(self, end: int) -> Future[SourceData]: ...
    def discard(self) -> None: ...
    def close(self) -> None: ...


class NumberTrack:
    """Arrays of numbers, one for each row."""

    def __init__(self, feature: Feature, sampler: Sampler[npt.NDArray[np.float32]]) -> None:
        self.feature = feature
        self._sampler = sampler
        self._rows = Rows()
        self._numbers: list[npt.NDArray[np.float32]] = []

    def push(self, time: int, value: npt.NDArray[np.float32]) -> bool:
        """Add an array of the feature's shape, which is kept; return True."""
        self._sampler.push(time, value)
        return True

    def refuse(self) -> None:
        """Count a message that cannot be used."""
        self._sampler.counts.refused += 1

    def drop(self, count: int) -> None:
        """Count messages that were lost."""
        self._sampler.counts.dropped += count

    def begin(self, start: int, path: Path) -> None:
        """Begin an episode; ``path`` is where a camera puts its video."""
        del path
        self._rows, self._numbers = Rows(), []
        self._sampler.begin(start)

    def tick(self, now: int) -> None:
        """Make the rows that are complete at the time ``now``."""
        self._take(self._sampler.rows(now))

    def limit(self, end: int) -> None:
        """Make no row after the time ``end``."""
        self._sampler.limit(end)

    def end(self, end: int) -> Future[SourceData]:
        """End the episode at the time ``end``; return its rows, once they are ready."""
        self._take(self._sampler.end(end))
        done: Future[SourceData] = Future()
        numbers = (
            np.stack(self._numbers) if self._numbers else np.empty((0, *self.feature.shape), np.float32)
        )
        done.set_result(self._rows.data(counts=self._sampler.counts, numbers=numbers))
        return done

    def discard(self) -> None:
        """End the episode without its rows."""
        self._sampler.discard()

    def close(self) -> None:
        """Nothing is open."""

    def _take(self, picks: Iterable[Pick[npt.NDArray[np.float32]]]) -> None:
        for pick in picks:
            self._rows.add(pick)
            self._numbers.append(pick.sample.value)


class ImageMemory:
    """The memory for images that wait for their encoders, in bytes; safe to use from all threads."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._lock = threading.Lock()  # the node's thread takes, and the thread of each camera gives back

    def take(self, size: int) -> bool:
        """Reserve memory; return whether there was enough."""
        with self._lock:
            if size > self._free:
                return False
            self._free -= size
            return True

    def give(self, size: int) -> None:
        """Give memory back."""
        with self._lock:
            self._free += size


class CameraTrack:
    """Images, as a video: sampled, decoded and encoded in a thread of their own.

    Messages to the thread are functions, in the order in which they were given. An image for which the
    memory does not suffice is dropped and counted: neither the node nor the camera waits for the encoder.
    """

    def __init__(
        self,
        name: str,
        feature: Feature,
        sampler: Sampler[ImageData],
        memory: ImageMemory,
        codec: Codec,
        fps: int,
        report: Callable[[str], None],
    ) -> None:
        """``report`` is called in the thread, with a sentence about an image that cannot be used."""
        self.feature = feature
        self._sampler = sampler
        self._memory = memory
        self._encoder = _Encoder(sampler, codec, fps, feature, report)
        self._todo: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"encoder of {name}", daemon=True)
        self._thread.start()

    def push(self, time: int, value: ImageData) -> bool:
        """Add an image, which is copied; return False if it is dropped."""
        size = value.data.nbytes
        if not self._memory.take(size):
            self.drop(1)
            return False
        # A copy: a message that waits for its encoder would keep shared memory of its sender.
        copied = value._replace(data=value.data.copy())

        def add() -> None:
            self._memory.give(size)
            self._sampler.push(time, copied)

        self._todo.put(add)
        return True

    def refuse(self) -> None:
        """Count a message that cannot be used."""
        self._todo.put(self._count_refused)

    def drop(self, count: int) -> None:
        """Count messages that were lost."""
        self._todo.put(lambda: self._count_dropped(count))

    def begin(self, start: int, path: Path) -> None:
        """Begin an episode and its video."""
        self._todo.put(lambda: self._encoder.begin(start, path))

    def tick(self, now: int) -> None:
        """Make the rows that are complete at the time ``now``."""
        self._todo.put(lambda: self._encoder.take(self._sampler.rows(now)))

    def limit(self, end: int) -> None:
        """Make no row after the time ``end``."""
        self._todo.put(lambda: self._sampler.limit(end))

    def end(self, end: int) -> Future[SourceData]:
        """End the episode; its rows are ready once all are encoded. The future may raise ``OSError``."""
        done: Future[SourceData] = Future()
        self._todo.put(lambda: self._encoder.end(end, done))
        return done

    def discard(self) -> None:
        """End the episode and remove its video."""
        self._todo.put(self._encoder.discard)

    def close(self) -> None:
        """End the thread, after all that it was given."""
        self._todo.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._todo.get()) is not None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - the saver waits for this thread
                self._encoder.fail(error)
        self._encoder.discard()

    def _count_refused(self) -> None:
        self._sampler.counts.refused += 1

    def _count_dropped(self, count: int) -> None:
        self._sampler.counts.dropped += count


class _Encoder:
    """Makes a video of the rows of a camera, in the camera's thread."""

    def __init__(
        self,
        sampler: Sampler[ImageData],
        codec: Codec,
        fps: int,
        feature: Feature,
        report: Callable[[str], None],
    ) -> None:
        self._sampler = sampler
        self._codec, self._fps = codec, fps
        self._height, self._width = feature.shape[:2]
        self._report = report
        self._path: Path | None = None
        self._writer: VideoWriter | None = None
        self._failure: OSError | None = None

    def begin(self, start: int, path: Path) -> None:
        self._sampler.begin(start)
        self._rows, self._pixels = Rows(), PixelStatistics()
        self._counted = -_STATISTICS_OF  # the row that counted last for the statistics
        self._frame: av.VideoFrame | None = None
        self._path, self._failure = path, None
        self._attempt(self._open)

    def take(self, picks: Iterable[Pick[ImageData]]) -> None:
        for pick in picks:
            if self._failure is None:
                self._attempt(partial(self._add, pick))

    def end(self, end: int, done: Future[SourceData]) -> None:
        try:
            self._end(end, done)
        except Exception as error:
            done.set_exception(error)
            raise

    def fail(self, error: Exception) -> None:
        """Keep an error for the end of the episode."""
        self._failure = error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")

    def _end(self, end: int, done: Future[SourceData]) -> None:
        self.take(self._sampler.end(end))
        if self._failure is None and self._rows.times:
            self._attempt(self._close)
        if self._failure is not None:
            self.discard()
            done.set_exception(self._failure)
        elif self._rows.times:
            path, self._path = self._path, None
            statistics = self._pixels.statistics()
            done.set_result(self._rows.data(counts=self._sampler.counts, video=path, statistics=statistics))
        else:
            self.discard()
            done.set_result(self._rows.data(counts=self._sampler.counts))

    def discard(self) -> None:
        if self._sampler.recording:
            self._sampler.discard()
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something with the file; an error of the system is kept for the end of the episode."""
        try:
            action()
        except (OSError, av.FFmpegError) as error:
            self.fail(error)

    def _open(self) -> None:
        assert self._path is not None
        self._writer = VideoWriter(self._path, self._width, self._height, self._fps, self._codec)

    def _close(self) -> None:
        assert self._writer is not None
        self._writer.close()
        self._writer = None

    def _add(self, pick: Pick[ImageData]) -> None:
        if not pick.repeated or self._frame is None:
            try:
                self._frame = self._video_frame(pick.sample.value)
                self._shown = pick.sample
            except BadImage as error:
                self._report(str(error))
                if self._frame is None:
                    raise OSError(f"the first image of the episode cannot be used: {error}") from None
                pick = self._sampler.refuse(pick, self._shown)
        row = len(self._rows.times)
        if row - self._counted >= _STATISTICS_OF:
            self._counted = row
            self._pixels.add(to_array(self._image))
        self._rows.add(pick)
        assert self._writer is not None
        self._writer.write(self._frame)

    def _video_frame(self, image: ImageData) -> av.VideoFrame:
        frame = image.frame()
        if (frame.width, frame.height) != (self._width, self._height):
            raise BadImage(
                f"an image has {frame.width} × {frame.height} pixels, and the video {self._width} × "
                f"{self._height}; set up the camera for one size"
            )
        self._image = frame
        return to_video(frame)
