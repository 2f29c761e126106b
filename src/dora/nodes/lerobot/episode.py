"""Read an episode of a LeRobotDataset."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dora.nodes.lerobot.dataset import DatasetError, read_episodes, read_info
from dora.nodes.lerobot.layout import CAPTURE_TIME, GAP, INDEXES, FilePlace
from dora.nodes.lerobot.video import read_video


class Item(NamedTuple):
    """A sample: ``numbers`` or a ``frame``; ``time`` of capture is in seconds since the episode began."""

    time: float
    numbers: npt.NDArray[Any] | None = None
    frame: av.VideoFrame | None = None

    def __lt__(self, other: object) -> bool:
        return False  # items of one time have no order


class Episode:
    """One episode. ``sources`` are the features that were recorded; the true times are there if dora did
    it.
    """

    def __init__(self, root: Path, number: int) -> None:
        """Read the numbers; raises `DatasetError`."""
        self._root = root
        self._info = read_info(root)
        try:
            rows = read_episodes(root, self._info)
            if number >= len(rows):
                raise DatasetError(
                    f"the data set {root} has {len(rows)} episodes, and none of number {number}"
                )
            self._row = rows[number]
            path = root / FilePlace.of(self._row, "data").path(self._info.data_path)
            table = pq.read_table(path, filters=[("episode_index", "=", number)])
        except (OSError, KeyError) as error:
            raise DatasetError(f"the data set {root} cannot be read: {error}") from None
        self._table = table
        self.sources = [name for name in self._info.features if name not in (*INDEXES, CAPTURE_TIME, GAP)]

    def items(self, name: str) -> Iterator[Item]:
        """Yield the samples of a source; one that several rows show is yielded once."""
        times, new = self._times(name)
        feature = self._info.features[name]
        if not feature.is_video:
            read = self._frame if feature.dtype == "image" else self._numbers
            for time, cell, is_new in zip(times, self._column(name), new, strict=True):
                if is_new:
                    yield read(name, float(time), cell.as_py())
            return
        column = f"videos/{name}"
        place = FilePlace.of(self._row, column)
        path = self._root / place.path(str(self._info.video_path), video_key=name)
        start = self._row[f"{column}/from_timestamp"]
        try:
            frames = read_video(path, start, len(times), self._info.fps)
            for time, frame, is_new in zip(times, frames, new, strict=True):
                if is_new:
                    yield Item(float(time), frame=frame)
        except (OSError, ValueError, av.FFmpegError) as error:
            raise DatasetError(f"the video {path} cannot be read: {error}") from None

    def _column(self, name: str) -> pa.ChunkedArray[Any]:
        try:
            return self._table[name]
        except KeyError:
            raise DatasetError(
                f"the data set {self._root} has no column for its feature `{name}`"
            ) from None

    def _numbers(self, name: str, time: float, cell: Any) -> Item:
        feature = self._info.features[name]
        try:
            kind = np.dtype(feature.dtype)
            if kind.kind in "biuf":
                return Item(time, np.atleast_1d(np.array(cell, kind)))
        except (TypeError, ValueError):
            pass  # no type of NumPy, or a cell that is none of it
        raise DatasetError(
            f"the feature `{name}` of the data set {self._root} has the type `{feature.dtype}` and is no "
            "array of numbers; take another output"
        )

    def _frame(self, name: str, time: float, cell: Any) -> Item:
        """Return an image that is a file in the table, or beside it."""
        try:
            data = cell["bytes"] or (self._root / cell["path"]).read_bytes()
            with av.open(io.BytesIO(data), "r") as file:
                return Item(time, frame=next(iter(file.decode(video=0))))
        except (OSError, ValueError, LookupError, TypeError, StopIteration, av.FFmpegError) as error:
            reason = getattr(error, "strerror", None) or str(error) or "it has no image"
            raise DatasetError(
                f"an image of the feature `{name}` of the data set {self._root} cannot be read: {reason}"
            ) from None

    def _times(self, name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return the time of capture of each row, and whether its sample differs from the one before."""
        nominal = np.array(self._table["timestamp"].to_pylist(), np.float64)
        names = self._info.features[CAPTURE_TIME].names if CAPTURE_TIME in self._info.features else None
        if not isinstance(names, list) or name not in names:
            return nominal, np.ones(len(nominal), np.bool_)
        column = np.array(self._table[CAPTURE_TIME].to_pylist(), np.float64)
        times = column.reshape(len(nominal), -1)[:, names.index(name)]
        return times, np.diff(times, prepend=-np.inf) > 0
