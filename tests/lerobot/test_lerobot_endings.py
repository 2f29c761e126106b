"""The end of an episode waits for messages that are under way; ended inputs begin no episode."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_recording import BEGIN_NS, Recording, check_whole, command, frames, image, message, rows
from waiting import wait_until

from dora.node.events import Input
from dora.nodes.lerobot.dataset import read_episodes, read_info
from dora.nodes.lerobot.sampling import SECOND

FRONT = "observation.images.front"
INPUTS = "front state episode"


def late_camera(until: float, *commands: tuple[float, str]) -> Iterator[Input]:
    """Yield what comes until a moment, in order: images 0.1 s after their capture, the rest at once."""
    events = [(at, command(at, text)) for at, text in commands]
    for number in range(-6, 200):
        at = number / 30
        events.append((at + 0.1001, image("front", at, number + 6)))
        events.append((at + 0.0001, message("state", at, np.array([at], np.float32))))
    for at, event in sorted(events, key=lambda item: item[0]):
        if at <= until:
            yield event


def episodes_of(root: Path) -> list[dict[str, Any]]:
    return read_episodes(root, read_info(root))


@pytest.mark.lengthy
@pytest.mark.parametrize("on_gap", ["mark", "discard"])
@pytest.mark.parametrize("end", ["end", "success"])
def test_the_end_of_an_episode_waits_for_messages_that_are_under_way(
    end: str, on_gap: str, tmp_path: Path
) -> None:
    with Recording(tmp_path, INPUTS, on_gap=on_gap) as recording:
        recording.take(*late_camera(1.3, (0, "start"), (1.0, end)))
    assert recording.reports == [{"saved": True, "episode": 0, "frames": 31, "outcome": end}]
    check_whole(recording.root, 1)
    for row in rows(recording.root):
        assert row["capture_time"] == pytest.approx([row["timestamp"]] * 2, abs=1e-5)
        assert row["gap"] == [False, False]
    [episode] = episodes_of(recording.root)
    assert episode[f"capture/{FRONT}/repeated"] == 0
    assert list(frames(recording.root, FRONT, episode)) == list(range(6, 37))


def test_an_input_that_ends_leaves_the_messages_of_the_others_that_are_under_way(tmp_path: Path) -> None:
    with Recording(tmp_path, INPUTS) as recording:
        recording.take(*late_camera(1.0001, (0, "start")))
        recording.recorder.input_closed("state")
        recording.take(*(image("front", number / 30, number + 6) for number in range(27, 32)))
        wait_until(lambda: recording.reports, "the episode")
    assert recording.reports == [{"saved": True, "episode": 0, "frames": 31, "outcome": "end"}]
    assert rows(recording.root)[-1]["capture_time"] == pytest.approx([1.0, 1.0], abs=1e-5)


@pytest.mark.lengthy
def test_the_end_of_an_episode_waits_only_for_a_while(tmp_path: Path) -> None:
    with Recording(tmp_path, INPUTS, patience=0.01) as recording:
        recording.take(*late_camera(1.0, (0, "start"), (1.0, "end")))
        assert recording.recorder.wait is not None
        wait_until(lambda: recording.recorder.tick() or recording.reports, "the episode")
        assert recording.recorder.wait is None
    assert recording.reports[0]["frames"] == 31
    with Recording(tmp_path / "other", INPUTS) as recording:
        recording.take(*late_camera(1.0, (0, "start"), (1.0, "end")))
        states = (message("state", 1 + number / 30, [0.0]) for number in range(1, 17))
        recording.take(*states)  # half a second, and no image
        wait_until(lambda: recording.reports, "the episode")


def test_the_end_of_the_recorder_saves_an_episode_that_ends(tmp_path: Path) -> None:
    with Recording(tmp_path, INPUTS) as recording:
        recording.take(*late_camera(1.0, (0, "start"), (1.0, "success")))
    assert recording.reports == [{"saved": True, "episode": 0, "frames": 31, "outcome": "success"}]


@pytest.mark.lengthy
def test_an_episode_that_is_asked_for_while_another_ends_has_its_first_rows(tmp_path: Path) -> None:
    given = (0, "start"), (1.0, "end"), (1.02, "start next"), (2.0, "success")
    with Recording(tmp_path, INPUTS) as recording:
        recording.take(*late_camera(2.3, *given))
    assert [report["frames"] for report in recording.reports] == [31, 30]
    check_whole(recording.root, 2)
    first, second = episodes_of(recording.root)
    assert [first["outcome"], second["outcome"], *second["tasks"]] == ["end", "success", "next"]
    assert second["start_time"] == BEGIN_NS + round(1.02 * SECOND)
    shown = list(frames(recording.root, FRONT, second))
    assert shown[0] == 36  # captured at 1.0 s
    assert second[f"capture/{FRONT}/gaps"] == second[f"capture/{FRONT}/missing"] == 0


@pytest.mark.lengthy
def test_a_second_start_while_an_episode_ends_is_ignored(tmp_path: Path) -> None:
    given = (0, "start"), (1.0, "end"), (1.01, "start next"), (1.02, "start other"), (2.0, "end")
    with Recording(tmp_path, INPUTS) as recording:
        recording.take(*late_camera(2.3, *given))
    check_whole(recording.root, 2)
    _, second = episodes_of(recording.root)
    assert (second["tasks"], second["start_time"]) == (["next"], BEGIN_NS + round(1.01 * SECOND))


def test_commands_after_a_start_concern_the_episode_that_comes_next(tmp_path: Path) -> None:
    given = (
        (0, "start"),
        (1.0, "end"),
        (1.01, "start"),
        (1.02, "discard"),
        (1.03, "start"),
        (1.05, "success"),
    )
    with Recording(tmp_path, INPUTS) as recording:
        recording.take(*late_camera(1.4, *given))
    assert [report["outcome"] for report in recording.reports] == ["end", "success"]
    check_whole(recording.root, 2)


@pytest.mark.lengthy
def test_an_input_that_has_ended_begins_no_episode_until_it_sends_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Recording(tmp_path, INPUTS) as recording:
        recording.episode(0)
        recording.recorder.input_closed("front")
        recording.take(command(10, "start"))
        recording.take(*(message("state", 10 + number / 30, [1.0, 1.0]) for number in range(30)))
        recording.take(command(11, "success"))
        assert "no episode begins: the input `front` has ended; send `start` again once it" in caplog.text
        recording.episode(20)
    assert [report["saved"] for report in recording.reports] == [True, True]
    check_whole(recording.root, 2)


def test_an_input_that_ends_before_the_first_row_begins_no_episode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recording(tmp_path, INPUTS) as recording:
        recording.take(image("front", 0, 0), command(0.1, "start"))
        recording.recorder.input_closed("front")
        recording.take(message("state", 0.2, [1.0]))
    assert "no episode begins: the input `front` has ended" in caplog.text
    check_whole(recording.root, 0)
