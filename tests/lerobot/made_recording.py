"""Messages for a recorder, and a check that a data set is whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dora.node.events import Input
from dora.nodes.camera.pattern import Pattern, number_of
from dora.nodes.lerobot.dataset import read_episodes, read_info
from dora.nodes.lerobot.recorder import EpisodeRecorder, RecorderSettings
from dora.nodes.lerobot.sampling import SECOND
from dora.nodes.parameters import read_parameters
from dora.testing import MockNode

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
BEGIN_NS = round(BEGIN.timestamp()) * SECOND
SIZE = (64, 48)

_patterns = {SIZE: Pattern(*SIZE)}


def message(input_id: str, at: float, value: Any, **metadata: Any) -> Input:
    """Return a message that was captured ``at`` seconds after `BEGIN`."""
    stamp = BEGIN + timedelta(seconds=at)
    value = value if isinstance(value, pa.Array) else pa.array(value)
    [event, _] = MockNode([(input_id, value, {"timestamp": stamp, **metadata})])
    assert isinstance(event, Input)
    return event


def image(input_id: str, at: float, number: int, size: tuple[int, int] = SIZE) -> Input:
    """Return an image of the test pattern."""
    pattern = _patterns.setdefault(size, Pattern(*size))
    data = pa.array(pattern.draw(number).reshape(-1))
    return message(input_id, at, data, width=size[0], height=size[1], encoding="rgb8", primitive="image")


def command(at: float, text: str) -> Input:
    return message("episode", at, pa.array([text]))


class Recording:
    """A recorder in this process, and what it reports."""

    def __init__(self, folder: Path, inputs: str = "front state action episode", **settings: Any) -> None:
        self.reports: list[dict[str, Any]] = []
        self.dropped: Counter[str] = Counter()  # by the queues of inputs
        self.root = folder / "dataset"
        self.inputs = inputs.split()
        given = {"dataset": str(self.root), "fps": 30, **settings}
        self.recorder = EpisodeRecorder(
            read_parameters(RecorderSettings, given),
            self.inputs,
            lambda report: self.reports.append(dict(report)),
            self.dropped.__getitem__,
        )

    def take(self, *events: Input) -> None:
        for event in events:
            if event.id not in self.inputs:
                continue
            self.recorder.take(event)

    def run(self, begin: float, seconds: float, first: int = 0) -> None:
        """Send a camera at 30 Hz, and a state and an action at 100 Hz, if they are inputs."""
        for number in range(round(seconds * 100)):
            at = begin + number / 100
            if int(number * 0.3) != int((number - 1) * 0.3) or not number:
                frame = int(number * 0.3)
                self.take(image("front", at + 0.001, first + frame))
            self.take(message("state", at + 0.002, np.array([at, -at], np.float32)))
            self.take(message("action", at + 0.003, np.array([2 * at], np.float32)))

    def episode(
        self, begin: float = 0.0, seconds: float = 1.0, end: str = "end", start: str = "start"
    ) -> None:
        """Record an episode; each source also sends once after its end."""
        self.run(begin - 0.1, 0.1)
        self.take(command(begin, start))
        self.run(begin, seconds)
        self.take(command(begin + seconds, end))
        self.run(begin + seconds, 0.01, first=round(seconds * 30))

    def close(self) -> None:
        self.recorder.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def rows(root: Path) -> list[dict[str, Any]]:
    """Return the rows of all episodes."""
    found = [
        row for file in sorted(root.glob("data/*/*.parquet")) for row in pq.read_table(file).to_pylist()
    ]
    return sorted(found, key=lambda row: row["index"])


def frames(root: Path, feature: str, episode: dict[str, Any]) -> Iterator[int]:
    """Yield the numbers of the pattern in the video of an episode."""
    place = {part: episode[f"videos/{feature}/{part}"] for part in ("chunk_index", "file_index")}
    with av.open(str(root / str(read_info(root).video_path).format(video_key=feature, **place))) as file:
        for frame in file.decode(video=0):
            yield number_of(frame.to_ndarray(format="rgb24"))


def check_whole(root: Path, episodes: int) -> None:
    """Check that files and metadata of a data set agree, and that nothing else is in its folder."""
    if not episodes:
        assert not root.exists()
        return
    info = read_info(root)
    assert info.total_episodes == episodes
    there = read_episodes(root, info)
    assert [episode["episode_index"] for episode in there] == list(range(episodes))
    found = rows(root)
    assert len(found) == info.total_frames == sum(episode["length"] for episode in there)
    assert [row["index"] for row in found] == list(range(info.total_frames))
    videos = [name for name, feature in info.features.items() if feature.is_video]
    for episode in there:
        own = found[episode["dataset_from_index"] : episode["dataset_to_index"]]
        assert {row["episode_index"] for row in own} == {episode["episode_index"]}
        for feature in videos:
            assert len(list(frames(root, feature, episode))) >= len(own)
    stats = msgspec.json.decode((root / "meta/stats.json").read_bytes())
    assert stats["frame_index"]["count"] == [info.total_frames]
    names = {path.name for path in root.iterdir()}
    assert names == {"data", "meta"} | ({"videos"} if videos else set())
    files = len(list(root.glob("data/*/*"))), len(list(root.glob("videos/*/*/*")))
    assert files == (episodes, episodes * len(videos))
