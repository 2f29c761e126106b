"""Write a LeRobotDataset, an episode at a time, so that a crash or a full disk never breaks it.

Each episode has files of its own. They are made in the folder ``.recording``, flushed to the disk and
moved to their places: videos, numbers, metadata, ``meta/info.json`` last. An episode is in the data set
once that file says so. Files beyond it are removed by the next recorder, and LeRobot does not read them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dora._shared_folders import make_folder
from dora.errors import DoraError
from dora.nodes.lerobot import layout, stats
from dora.nodes.lerobot.layout import CAPTURE_TIME, GAP, Feature, FilePlace, Info
from dora.nodes.lerobot.sampling import SECOND, Counts
from dora.nodes.lerobot.stats import Statistics
from dora.wire.decoders import DecodeError, from_json

SCRATCH: Final = ".recording"
_LOCK: Final = "lock"  # a file in it, as long as a recorder is there, or one that was interrupted
_MADE: Final = "file"  # a file in the scratch folder before it is moved to its place
_METADATA: Final = "meta/episodes"
_ROWS: Final = 100  # episodes in a file of metadata: it is written anew for each of them


class DatasetError(DoraError):
    """A data set cannot be used or written; ``str(error)`` names it and the remedy."""


@dataclass
class SourceData:
    """The rows of one source: ``times`` of capture in nanoseconds since 1970 (UTC), and ``gaps``.

    ``numbers`` has a row of float32 for each of them; a camera has a finished ``video`` in the scratch
    folder instead, with its ``statistics``.
    """

    times: npt.NDArray[np.int64]
    gaps: npt.NDArray[np.bool_]
    counts: Counts
    numbers: npt.NDArray[np.float32] | None = None
    video: Path | None = None
    statistics: Statistics | None = None


@dataclass
class EpisodeData:
    """An episode to add.

    ``start`` is the time of its first row, ``length`` the number of rows (a source may have more),
    ``outcome`` is ``success``, ``end``, or ``stopped`` by the end of the dataflow.
    """

    start: int
    length: int
    task: str
    outcome: str
    sources: Mapping[str, SourceData]

    @property
    def has_gaps(self) -> bool:
        """Whether a row has a sample that is too old."""
        return any(source.gaps[: self.length].any() for source in self.sources.values())


class Dataset:
    """A data set that this process writes, with ``fps`` rows a second. ``removed`` says what an
    interrupted recorder had left, or is "".
    """

    def __init__(self, root: Path, fps: int, robot: str | None, resume: bool) -> None:
        """Open a new data set, or with ``resume`` one that may be there; raises `DatasetError`."""
        self.root = root
        self.scratch = root / SCRATCH
        self.removed = ""
        self.fps, self._robot = fps, robot
        self._info: Info | None = None
        self._tasks: list[str] = []
        self._stats: dict[str, Statistics] = {}
        self._rows: list[dict[str, Any]] = []  # of the file of metadata that is being filled
        self._place = FilePlace(0, -1)  # of this file; the first episode begins one
        self._last: dict[str, Any] | None = None  # the row of the last episode
        self._unclean = False  # whether a failed `add` has left files
        try:
            self._open(resume)
        except OSError as error:
            raise DatasetError(f"the data set {root} cannot be used: {error.strerror or error}") from None

    @property
    def features(self) -> dict[str, Feature] | None:
        """The features, None before the first episode of a new data set."""
        return self._info.features if self._info else None

    @property
    def episodes(self) -> int:
        """How many episodes are saved."""
        return self._info.total_episodes if self._info else 0

    def add(self, episode: EpisodeData, features: Mapping[str, Feature]) -> int:
        """Save an episode, and return its number; raises `DatasetError`. The data set is whole in any
        case.
        """
        info = self._info or Info(layout.VERSION, self.fps, dict(features), self._robot)
        try:
            return self._add(episode, from_json(msgspec.json.encode(info), Info))
        except OSError as error:
            self._undo(episode)
            raise DatasetError(f"{self.root}: {error.strerror or error}") from None
        except Exception:
            self._undo(episode)
            raise

    def close(self) -> None:
        """Remove the scratch folder, and the data set's folder too if it has no episode."""
        if self._unclean:
            self._undo(None)
        self._leave()

    # ------------------------------------------------------------------ opening

    def _open(self, resume: bool) -> None:
        path, info_path = self.root, self.root / layout.INFO
        is_ours = self.scratch.is_dir() or info_path.is_file()  # in this order: a recorder may end just now
        if not is_ours and path.exists() and any(path.iterdir()):
            raise DatasetError(f"{path} has files and is no data set; choose another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        interrupted = self._take_lock()
        try:
            if info_path.is_file():
                self._read(resume)
            if interrupted:
                self.removed = self._clean()
        except BaseException:
            if interrupted:
                os.close(self._lock)  # the remains stay, for a recorder that can use the data set
            else:
                self._leave()
            raise
        self._rows = [{}] * _ROWS  # never append to a file of an earlier process

    def _take_lock(self) -> bool:
        """Keep other recorders out; return whether one was interrupted, and has left its lock file.

        Another one would take files of this one for remains, and remove them. A lock of the system ends
        with a process that is killed; a mere file would stay.
        """
        path = self.scratch / _LOCK
        while True:
            make_folder(str(self.scratch.absolute()), below=str(self.root.parent.absolute()))
            was_there = path.exists()
            try:
                self._lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                continue  # a recorder that ends has just removed the folder
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._lock)
                raise DatasetError(
                    f"another recorder writes to {self.root}; choose another folder"
                ) from None
            if _is_at(path, self._lock):
                return was_there
            os.close(self._lock)  # a recorder that ends has just removed this file

    def _leave(self) -> None:
        """Remove the scratch folder and the lock, and the folder of a data set without an episode."""
        try:
            for file in self.scratch.iterdir():
                if file.name != _LOCK:
                    file.unlink(missing_ok=True)
            (self.scratch / _LOCK).unlink()  # last: from here on, another recorder may be in the folder
            self.scratch.rmdir()
            if not self.episodes:
                self.root.rmdir()
        except OSError:
            pass  # something is in it, and stays
        os.close(self._lock)

    def _read(self, resume: bool) -> None:
        """Read a data set that is there."""
        path, info = self.root, read_info(self.root)
        if not resume:
            raise DatasetError(
                f"there is a data set with {info.total_episodes} episodes in {path}; choose another "
                "folder, or append to it with the parameter `resume: true`"
            )
        self._check_resumable(info)
        self._info = info
        tasks = layout.tasks_of(pq.read_table(path / layout.TASKS))
        self._tasks = tasks[: info.total_tasks]
        self._stats = stats.from_lists(from_json((path / layout.STATS).read_bytes()))
        self._last = read_episodes(path, info)[-1]
        self._place = FilePlace.of(self._last, _METADATA)

    def _check_resumable(self, info: Info) -> None:
        if CAPTURE_TIME not in info.features:
            raise DatasetError(
                f"the data set {self.root} was not recorded by dora: it has no `{CAPTURE_TIME}`; record to "
                "another folder"
            )
        if info.fps != self.fps:
            raise DatasetError(
                f"the data set {self.root} has {info.fps} rows a second, and the parameter `fps` is "
                f"{self.fps}; set it to {info.fps}"
            )
        if not info.total_episodes:
            raise DatasetError(f"the data set {self.root} has no episode; remove the folder")

    def _clean(self) -> str:
        """Remove all that belongs to no saved episode; return what that was, for the log."""
        files = [file for file in self.scratch.rglob("*") if file.is_file() and file.name != _LOCK]
        for file in files:
            file.unlink()
        count = len(files) + self._clean_places()
        return f"{count} files of an episode that was interrupted" if count else ""

    def _undo(self, episode: EpisodeData | None) -> None:
        """Remove what a failed `add` has made. If that fails too, `close` tries again.

        The scratch folder also has the videos of the episodes that come next: they stay.
        """
        videos = [] if episode is None else [source.video for source in episode.sources.values()]
        try:
            for file in (self.scratch / _MADE, *videos):
                if file is not None:
                    file.unlink(missing_ok=True)
            self._clean_places()
            if self._stats:
                self._write_json(stats.to_lists(self._stats), layout.STATS)
        except Exception:  # noqa: BLE001 - a full disk, for example; the next episode may have room
            self._unclean = True
        else:
            self._unclean = False

    def _clean_places(self) -> int:
        """Remove from the places of files all that belongs to no saved episode; return how many it was."""
        count = 0
        for pattern, column in (("data/*/*.parquet", "data"), *self._video_patterns()):
            for file in sorted(self.root.glob(pattern)):
                if self._last is None or _numbers_of(file) > FilePlace.of(self._last, column):
                    file.unlink()
                    count += 1
        for file in sorted(self.root.glob("meta/episodes/*/*.parquet"))[-1:]:
            table = pq.read_table(file)
            kept = table.filter(pc.less(table["episode_index"], pa.scalar(self.episodes)))
            if not len(kept):
                file.unlink()
            elif len(kept) < len(table):
                self._write_table(kept, file.relative_to(self.root).as_posix())
        if self._info is None:  # no episode at all: the next recorder finds a folder that is new
            for path in (layout.TASKS, layout.STATS):
                (self.root / path).unlink(missing_ok=True)
            for name in ("data", "meta", "videos"):
                for folder, _, _ in os.walk(self.root / name, topdown=False):
                    with suppress(OSError):  # a file of somebody else stays, and so does its folder
                        os.rmdir(folder)
        if self._stats and self._stats["index"]["count"][0] != (
            self._info.total_frames if self._info else 0
        ):
            self._stats = self._merged_stats()
            self._write_json(stats.to_lists(self._stats), layout.STATS)
        return count

    def _merged_stats(self) -> dict[str, Statistics]:
        """Return the statistics of all saved episodes, by the metadata of each."""
        merged: dict[str, Statistics] = {}
        for file in sorted(self.root.glob("meta/episodes/*/*.parquet")):
            for row in pq.read_table(file).to_pylist():
                added: dict[str, dict[str, Any]] = {}
                for column, numbers in row.items():
                    if column.startswith("stats/"):
                        _, name, key = column.split("/")
                        added.setdefault(name, {})[key] = numbers
                merged = _merge(merged, stats.from_lists(added))
        return merged

    def _video_patterns(self) -> list[tuple[str, str]]:
        folders = sorted(self.root.glob("videos/*"))
        return [(f"videos/{folder.name}/*/*.mp4", f"videos/{folder.name}") for folder in folders]

    # ------------------------------------------------------------------ adding

    def _add(self, episode: EpisodeData, info: Info) -> int:
        number, length = info.total_episodes, episode.length
        tasks = self._tasks if episode.task in self._tasks else [*self._tasks, episode.task]
        row: dict[str, Any] = {
            "episode_index": number,
            "tasks": [episode.task],
            "length": length,
            "dataset_from_index": info.total_frames,
            "dataset_to_index": info.total_frames + length,
            "start_time": episode.start,
            "outcome": episode.outcome,
        }
        columns, statistics = self._columns(episode, info, tasks.index(episode.task))

        for name, source in episode.sources.items():
            if source.video is not None:
                place = self._next_file(f"videos/{name}", row)
                row[f"videos/{name}/from_timestamp"] = 0.0
                row[f"videos/{name}/to_timestamp"] = length / info.fps
                self._put(source.video, place.path(layout.VIDEO, video_key=name))
        place = self._next_file("data", row)
        self._write_table(pa.table(columns), place.path(layout.DATA))

        for name, source in episode.sources.items():
            for field in ("received", "missing", "late", "dropped", "refused", "repeated", "rate"):
                row[f"capture/{name}/{field}"] = getattr(source.counts, field)
            row[f"capture/{name}/gaps"] = int(source.gaps[:length].sum())
        for name, record in stats.to_lists(statistics).items():
            for key, numbers in record.items():
                row[f"stats/{name}/{key}"] = numbers
        rows, place = self._rows, self._place
        if len(rows) >= _ROWS:
            rows, place = [], place.next()
        row |= place.columns(_METADATA)
        rows = [*rows, row]
        self._write_table(pa.Table.from_pylist(rows), place.path(layout.EPISODES))

        merged = _merge(self._stats, statistics)
        self._write_table(layout.tasks_table(tasks), layout.TASKS)
        self._write_json(stats.to_lists(merged), layout.STATS)
        info.total_episodes, info.total_frames, info.total_tasks = (
            number + 1,
            info.total_frames + length,
            len(tasks),
        )
        info.splits = {"train": f"0:{info.total_episodes}"}
        self._move(self._make_json(info), layout.INFO)  # last: with it, the episode is in the data set
        # Right after the last file: an `add` that fails sooner leaves this object as it was.
        self._info, self._tasks, self._stats = info, tasks, merged
        self._rows, self._place, self._last = rows, place, row
        try:
            _flush(self.root / "meta")
        except OSError:
            pass  # at worst, a loss of power takes this episode, and the data set is whole
        return number

    def _columns(
        self, episode: EpisodeData, info: Info, task: int
    ) -> tuple[dict[str, pa.Array[Any]], dict[str, Statistics]]:
        length, sources = episode.length, episode.sources
        names = info.features[CAPTURE_TIME].names or []
        times = np.stack([sources[name].times[:length] for name in names], axis=1)
        arrays: dict[str, npt.NDArray[Any]] = {
            **{name: s.numbers[:length] for name, s in sources.items() if s.numbers is not None},
            CAPTURE_TIME: (times - episode.start) / SECOND,
            GAP: np.stack([sources[name].gaps[:length] for name in names], axis=1),
            "timestamp": (np.arange(length) / info.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, info.total_episodes),
            "index": info.total_frames + np.arange(length),
            "task_index": np.full(length, task),
        }
        statistics = {name: stats.of_numbers(array) for name, array in arrays.items()}
        for name, source in sources.items():
            if source.statistics is not None:
                statistics[name] = source.statistics
        columns = {
            name: _column(arrays[name], feature)
            for name, feature in info.features.items()
            if not feature.is_video
        }
        return columns, statistics

    def _next_file(self, column: str, row: dict[str, Any]) -> FilePlace:
        place = FilePlace(0, 0) if self._last is None else FilePlace.of(self._last, column).next()
        row |= place.columns(column)
        return place

    # ------------------------------------------------------------------ files

    def _write_table(self, table: pa.Table, path: str) -> None:
        made = self.scratch / _MADE
        pq.write_table(table, str(made))
        self._put(made, path)

    def _write_json(self, contents: Any, path: str) -> None:
        self._put(self._make_json(contents), path)

    def _make_json(self, contents: Any) -> Path:
        made = self.scratch / _MADE
        made.write_bytes(msgspec.json.format(msgspec.json.encode(contents), indent=4))
        return made

    def _put(self, made: Path, path: str) -> None:
        self._move(made, path)
        _flush((self.root / path).parent)  # the next file may say that this one is there

    def _move(self, made: Path, path: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        _flush(made)  # first: after a loss of power, no file at its place lacks a part
        made.replace(target)


def read_info(root: Path) -> Info:
    """Return the description of a data set; raises `DatasetError`."""
    path = root / layout.INFO
    try:
        info = from_json(path.read_bytes(), Info)
    except FileNotFoundError:
        raise DatasetError(f"{root} is no data set for LeRobot: it has no {layout.INFO}") from None
    except (OSError, DecodeError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    if not info.codebase_version.startswith("v3."):
        raise DatasetError(
            f"the data set {root} has the format {info.codebase_version}, and dora reads {layout.VERSION}; "
            "LeRobot converts it: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30"
        )
    return info


def read_episodes(root: Path, info: Info) -> list[dict[str, Any]]:
    """Return the rows of all saved episodes, without their statistics."""
    rows: list[dict[str, Any]] = []
    for file in sorted(root.glob("meta/episodes/*/*.parquet")):
        names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
        rows += pq.read_table(file, columns=names).to_pylist()
    return [row for row in rows if row["episode_index"] < info.total_episodes]


def _merge(before: dict[str, Statistics], added: dict[str, Statistics]) -> dict[str, Statistics]:
    return {
        name: stats.merge(before[name], record) if name in before else record
        for name, record in added.items()
    }


def _column(array: npt.NDArray[Any], feature: Feature) -> pa.Array[Any]:
    flat: pa.Array[Any] = pa.array(np.ascontiguousarray(array).reshape(-1))
    if feature.shape == (1,):
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, feature.shape[0])


def _numbers_of(file: Path) -> FilePlace:
    """Return the numbers of ``chunk-000/file-000.parquet``."""
    return FilePlace(int(file.parent.name.partition("-")[2]), int(file.stem.partition("-")[2]))


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
