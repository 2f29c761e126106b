"""Save episodes in a thread, while the next one is recorded."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from dora.nodes.lerobot.dataset import Dataset, DatasetError, EpisodeData, SourceData
from dora.nodes.lerobot.layout import Feature
from dora.nodes.lerobot.sampling import Counts

log = logging.getLogger("dora.nodes.lerobot_recorder")


class Unsaved(NamedTuple):
    """An episode whose rows may still be encoded; ``rows`` and ``features`` by the names of features."""

    start: int
    length: int
    task: str
    outcome: str
    rows: Mapping[str, Future[SourceData]]
    features: Mapping[str, Feature]


class Saver:
    """Saves one episode after the other, and reports each; ``lost``: how many could not be saved."""

    def __init__(self, dataset: Dataset, on_gap: str, report: Callable[[Mapping[str, Any]], None]) -> None:
        self.lost = 0
        self._dataset = dataset
        self._on_gap = on_gap
        self._report = report
        self._waiting: queue.SimpleQueue[Unsaved | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="saver of episodes", daemon=True)
        self._thread.start()

    def save(self, episode: Unsaved) -> None:
        """Save an episode once all its rows are encoded."""
        self._waiting.put(episode)

    def close(self) -> None:
        """Wait until all episodes are saved."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (unsaved := self._waiting.get()) is not None:
            try:
                self._save(unsaved)
            except Exception as error:  # noqa: BLE001 - the other episodes are to be saved nevertheless
                self._lost(f"{type(error).__name__}: {error}")

    def _save(self, unsaved: Unsaved) -> None:
        sources: dict[str, SourceData] = {}
        failures: list[str] = []
        for name, rows in unsaved.rows.items():
            try:
                sources[name] = rows.result()
            except Exception as error:  # noqa: BLE001 - the other episodes are to be saved nevertheless
                failures.append(f"`{name}`: {getattr(error, 'strerror', None) or error}")
        episode = EpisodeData(unsaved.start, unsaved.length, unsaved.task, unsaved.outcome, sources)
        if failures:
            self._lost(", ".join(failures))
            self._remove_videos(episode)
        elif not episode.length:
            log.error("the episode has no frames, and is not saved")
            self._remove_videos(episode)
            self._tell({"saved": False, "reason": "no frames"})
        elif self._on_gap == "discard" and episode.has_gaps:
            log.warning("the episode is discarded, because it has gaps: %s", describe(sources))
            self._remove_videos(episode)
            self._tell({"saved": False, "reason": "gaps", "frames": episode.length})
        else:
            self._add(episode, unsaved.features)

    def _add(self, episode: EpisodeData, features: Mapping[str, Feature]) -> None:
        try:
            number = self._dataset.add(episode, features)
        except DatasetError as error:
            self._lost(str(error))
            return
        seconds = episode.length / self._dataset.fps
        log.info(
            "episode %d is saved: %d frames, %.1f s, %s; %s",
            number,
            episode.length,
            seconds,
            episode.outcome,
            describe(episode.sources),
        )
        self._tell({"saved": True, "episode": number, "frames": episode.length, "outcome": episode.outcome})

    def _lost(self, reason: str) -> None:
        self.lost += 1
        log.error(
            "the episode cannot be saved: %s; the %d episodes before are whole",
            reason,
            self._dataset.episodes,
        )
        self._tell({"saved": False, "reason": reason})

    def _tell(self, report: Mapping[str, Any]) -> None:
        try:
            self._report(report)
        except Exception as error:  # noqa: BLE001 - what became of the episode does not change
            log.warning("the status of the episode cannot be sent: %s", error)

    def _remove_videos(self, episode: EpisodeData) -> None:
        for source in episode.sources.values():
            if source.video is not None:
                try:
                    source.video.unlink(missing_ok=True)
                except OSError:
                    pass  # the end of the recorder removes the folder


def describe(sources: Mapping[str, SourceData]) -> str:
    """Return a sentence's part about the rates of sources, and what is not complete."""
    return ", ".join(f"{name} {_describe(source.counts)}" for name, source in sources.items())


def _describe(counts: Counts) -> str:
    words = {
        "missing": counts.missing,
        "late": counts.late,
        "dropped": counts.dropped,
        "refused": counts.refused,
        "rows with a gap": counts.gaps,
    }
    lacks = [f"{count} {word}" for word, count in words.items() if count]
    return f"{counts.rate:.1f} Hz" + (f" ({', '.join(lacks)})" if lacks else "")
