"""Files and features of a LeRobotDataset, version 3.0.

The format is the one that the package ``lerobot`` 0.4 reads and writes. A data set is a folder::

    meta/info.json                             rate, features, totals; the last file to be written
    meta/stats.json                            statistics of each feature
    meta/tasks.parquet                         text of each task and its number
    meta/episodes/chunk-000/file-000.parquet   a row for each episode
    data/chunk-000/file-000.parquet            a row for each frame, without the images
    videos/FEATURE/chunk-000/file-000.mp4      the images of a camera
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import pyarrow as pa

VERSION: Final = "v3.0"
INFO: Final = "meta/info.json"
STATS: Final = "meta/stats.json"
TASKS: Final = "meta/tasks.parquet"
EPISODES: Final = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA: Final = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO: Final = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CHUNK_SIZE: Final = 1000  # files of a folder

CAPTURE_TIME: Final = "capture_time"
GAP: Final = "gap"
IMAGES: Final = "observation.images."
_OBSERVATION: Final = "observation."


class Feature(msgspec.Struct, frozen=True):
    """A column of the data set. ``dtype`` is a NumPy type, ``video`` or ``image``.

    ``shape`` is one of an item. ``names`` is a list in the data sets of dora; other recorders also write
    mappings.
    """

    dtype: str
    shape: tuple[int, ...]
    names: Any = None
    info: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def is_video(self) -> bool:
        """Whether its items are images in a video."""
        return self.dtype == "video"


class Info(msgspec.Struct):
    """The contents of ``meta/info.json``."""

    codebase_version: str
    fps: int
    features: dict[str, Feature]
    robot_type: str | None = None
    total_episodes: int = 0
    total_frames: int = 0
    total_tasks: int = 0
    chunks_size: int = CHUNK_SIZE
    data_files_size_in_mb: int = 100
    video_files_size_in_mb: int = 200
    splits: dict[str, str] = {}
    data_path: str = DATA
    video_path: str | None = VIDEO


# Columns that each data set has beside its own.
INDEXES: Final[Mapping[str, Feature]] = {
    "timestamp": Feature("float32", (1,)),
    "frame_index": Feature("int64", (1,)),
    "episode_index": Feature("int64", (1,)),
    "index": Feature("int64", (1,)),
    "task_index": Feature("int64", (1,)),
}


def camera(width: int, height: int) -> Feature:
    """Return the feature of a camera; sizes are in pixels."""
    return Feature("video", (height, width, 3), ["height", "width", "channels"])


def vector(names: Sequence[str]) -> Feature:
    """Return the feature of an array of numbers, one for each name."""
    return Feature("float32", (len(names),), list(names))


def all_features(sources: Mapping[str, Feature]) -> dict[str, Feature]:
    """Return the features of a data set with these sources.

    ``capture_time`` has for each source when the sample of a row was captured, in seconds since the begin
    of the episode, as ``timestamp``; ``gap`` whether that is too old. Their names begin neither with
    ``observation`` nor with ``action``: LeRobot gives such features to a policy.
    """
    names = list(sources)
    return {
        **sources,
        CAPTURE_TIME: Feature("float64", (len(names),), names),
        GAP: Feature("bool", (len(names),), names),
        **INDEXES,
    }


class FilePlace(NamedTuple):
    """The numbers of a file, which its path has, and the rows of the episodes that are in it.

    >>> FilePlace(0, 999).next()
    FilePlace(chunk_index=1, file_index=0)
    """

    chunk_index: int
    file_index: int

    @classmethod
    def of(cls, row: Mapping[str, Any], column: str) -> FilePlace:
        """Return what the row of an episode says: ``column`` is ``data``, ``videos/FEATURE`` or so."""
        return cls(*(row[f"{column}/{name}"] for name in cls._fields))

    def columns(self, column: str) -> dict[str, int]:
        """Return the part of an episode's row that `of` reads."""
        return {f"{column}/{name}": number for name, number in self._asdict().items()}

    def path(self, pattern: str, **more: str) -> str:
        """Return a path, such as `DATA`, with these numbers."""
        return pattern.format(**self._asdict(), **more)

    def next(self) -> FilePlace:
        """Return the numbers of the file after this one."""
        chunk, file = self
        return FilePlace(chunk, file + 1) if file + 1 < CHUNK_SIZE else FilePlace(chunk + 1, 0)


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """Return the table of tasks: pandas reads the texts as its index, as LeRobot expects."""
    index = "__index_level_0__"
    column = {"field_name": None, "metadata": None, "name": None, "numpy_type": "object"}
    about = {
        "index_columns": [index],
        "column_indexes": [{**column, "pandas_type": "unicode", "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {
                **column,
                "name": "task_index",
                "field_name": "task_index",
                "numpy_type": "int64",
                "pandas_type": "int64",
            },
            {**column, "field_name": index, "pandas_type": "unicode"},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table(
        {"task_index": pa.array(range(len(tasks)), pa.int64()), index: pa.array(tasks, pa.string())}
    )
    return table.replace_schema_metadata({b"pandas": msgspec.json.encode(about)})


def tasks_of(table: pa.Table) -> list[str]:
    """Return the texts of a table of tasks, by their numbers."""
    [texts] = [name for name in table.column_names if name != "task_index"]
    pairs = zip(table["task_index"].to_pylist(), table[texts].to_pylist(), strict=True)
    return [str(text) for _, text in sorted(pairs)]


def feature_name(port: str, *, image: bool) -> str:
    """Return the feature of an input or output.

    >>> feature_name("front", image=True), feature_name("state", image=False)
    ('observation.images.front', 'observation.state')
    >>> feature_name("action", image=False), feature_name("next.reward", image=False)
    ('action', 'next.reward')
    """
    port = port.replace("/", "_")  # LeRobot accepts no slash
    if "." in port or port == "action":
        return port
    return (IMAGES if image else _OBSERVATION) + port
