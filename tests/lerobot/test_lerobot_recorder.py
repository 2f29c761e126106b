"""Messages become episodes of a data set."""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_recording import BEGIN_NS, Recording, check_whole, command, frames, image, message, rows
from waiting import TIMEOUT, wait_until

from dora.errors import DoraError
from dora.node.events import Input, Reference
from dora.nodes.camera.pattern import number_of
from dora.nodes.images import ImageData, encode_jpeg, image_of, to_array
from dora.nodes.lerobot.dataset import SCRATCH, DatasetError, read_episodes, read_info
from dora.nodes.lerobot.episode import Episode
from dora.nodes.lerobot.layout import camera, tasks_of
from dora.nodes.lerobot.recorder import RecorderSettings, captured_at
from dora.nodes.lerobot.sampling import SECOND, Sampler
from dora.nodes.lerobot.tracks import CameraTrack, ImageMemory
from dora.nodes.lerobot.video import Codec, VideoWriter, read_video, to_video
from dora.nodes.parameters import WrongParameter, read_parameters

FRONT = "observation.images.front"


def episode_of(root: Path, number: int = 0) -> dict[str, Any]:
    return read_episodes(root, read_info(root))[number]


@pytest.mark.lengthy
def test_an_episode_has_its_images_numbers_and_true_times(tmp_path: Path) -> None:
    with Recording(tmp_path, task="push") as recording:
        recording.episode()
    root = recording.root
    check_whole(root, 1)
    episode = episode_of(root)
    assert recording.reports == [{"saved": True, "episode": 0, "frames": 31, "outcome": "end"}]
    assert (episode["tasks"], episode["outcome"], episode["start_time"]) == (["push"], "end", BEGIN_NS)
    names = read_info(root).features["capture_time"].names
    assert names == [FRONT, "observation.state", "action"]
    shown = list(frames(root, FRONT, episode))
    for index, row in enumerate(rows(root)):
        assert row["timestamp"] == pytest.approx(index / 30, abs=1e-6)
        camera, state, action = row["capture_time"]
        # Frame n of the camera was captured at the first tick of 10 ms in its period, and 1 ms later.
        if index:
            number = shown[index]
            assert camera == pytest.approx(np.ceil(number / 0.3 - 1e-9) / 100 + 0.001, abs=1e-6)
        assert row["observation.state"] == pytest.approx([state - 0.002, 0.002 - state], abs=1e-6)
        assert row["action"] == pytest.approx(2 * (action - 0.003), abs=1e-6)
        assert -1 / 60 <= row["timestamp"] - state <= 0.011
    steps = {after - before for before, after in pairwise(shown[1:])}
    assert steps == {1}


@pytest.mark.lengthy
def test_outcomes_and_tasks_are_kept(tmp_path: Path) -> None:
    with Recording(tmp_path, task="push") as recording:
        recording.episode(end="success")
        recording.episode(2, start="start pull the drawer")
        recording.episode(4)
    check_whole(recording.root, 3)
    episodes = [episode_of(recording.root, number) for number in range(3)]
    assert [episode["outcome"] for episode in episodes] == ["success", "end", "end"]
    assert [episode["tasks"] for episode in episodes] == [["push"], ["pull the drawer"], ["push"]]
    assert [rows(recording.root)[each["dataset_from_index"]]["task_index"] for each in episodes] == [
        0,
        1,
        0,
    ]
    tasks = tasks_of(pq.read_table(recording.root / "meta/tasks.parquet"))
    assert tasks == ["push", "pull the drawer"]


def test_an_input_that_is_connected_while_it_records_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recording(tmp_path) as recording:
        for at in (0.0, 0.1):
            recording.recorder.take(message("gripper", at, [1.0]))
        recording.episode()
    check_whole(recording.root, 1)
    assert "gripper" not in read_info(recording.root).features
    (warning,) = [record for record in caplog.records if record.args == ("gripper",)]
    assert "connected while this node runs" in warning.message


@pytest.mark.lengthy
def test_a_discarded_episode_leaves_nothing(tmp_path: Path) -> None:
    with Recording(tmp_path) as recording:
        recording.episode(end="discard")
        recording.episode(2)
        recording.episode(4, end="discard")
    check_whole(recording.root, 1)


def test_no_data_set_is_left_without_an_episode(tmp_path: Path) -> None:
    with Recording(tmp_path) as recording:
        recording.episode(end="discard")
    check_whole(recording.root, 0)


def test_an_episode_goes_on_until_the_recorder_closes(tmp_path: Path) -> None:
    with Recording(tmp_path) as recording:
        recording.take(command(0, "start"))
        recording.run(0, 0.5)
    check_whole(recording.root, 1)


def test_without_commands_all_is_one_episode(tmp_path: Path) -> None:
    with Recording(tmp_path, "front state action") as recording:
        recording.run(0, 0.5)
        recording.recorder.input_closed("front")
    check_whole(recording.root, 1)
    assert recording.reports[0]["frames"] >= 14


def test_inputs_get_the_features_of_the_settings(tmp_path: Path) -> None:
    features = {
        "front": "observation.images.top",
        "state": {"name": "observation.arm", "names": ["a", "b"]},
    }
    with Recording(tmp_path, features=features) as recording:
        recording.episode()
    info = read_info(recording.root)
    assert list(info.features)[:3] == ["observation.images.top", "observation.arm", "action"]
    assert info.features["observation.arm"].names == ["a", "b"]


@pytest.mark.lengthy
def test_what_a_slow_camera_lacks_is_counted_and_the_others_keep_their_rates(tmp_path: Path) -> None:
    with Recording(tmp_path, "front wrist state episode") as recording:
        recording.take(image("wrist", -0.01, 0), image("front", -0.01, 0))
        recording.take(message("state", -0.01, [0.0]), command(0, "start"))
        for number in range(300):
            at = number / 100
            if number % 14 == 0:
                recording.take(image("wrist", at, number))
            if number % 3 == 0:
                recording.take(image("front", at, number))
            recording.take(message("state", at, [at]))
        recording.take(command(3, "end"))
    episode = episode_of(recording.root)
    rate = {name: episode[f"capture/{name}/rate"] for name in (FRONT, "observation.images.wrist")}
    assert rate[FRONT] == pytest.approx(33.3, abs=0.1)
    assert rate["observation.images.wrist"] == pytest.approx(7.14, abs=0.1)
    assert episode["capture/observation.state/rate"] == pytest.approx(100, abs=0.1)
    assert episode["capture/observation.images.wrist/missing"] >= 21 * 3
    assert episode[f"capture/{FRONT}/missing"] == 0
    gaps = np.array([row["gap"] for row in rows(recording.root)])
    names = read_info(recording.root).features["gap"].names or []
    assert gaps[:, names.index("observation.images.wrist")].sum() > 40
    assert not gaps[:, names.index(FRONT)].any()


def test_gaps_after_the_end_of_an_episode_are_not_its_own(tmp_path: Path) -> None:
    with Recording(tmp_path, "state episode", on_gap="discard") as recording:
        recording.take(message("state", 0, [0.0]), command(0, "start"))
        recording.take(*(message("state", number / 30, [0.0]) for number in range(1, 18)))
        recording.take(message("state", 2, [0.0]), message("state", 2.1, [0.0]))
        recording.take(command(0.5, "end"))  # the command comes late
    assert recording.reports == [{"saved": True, "episode": 0, "frames": 16, "outcome": "end"}]


@pytest.mark.lengthy
def test_an_episode_is_saved_also_if_its_status_cannot_be_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recording(tmp_path) as recording:
        monkeypatch.setattr(recording.recorder._saver, "_report", lambda _: 1 / 0)
        recording.episode(0)
        recording.episode(2)
    assert recording.recorder.lost == 0
    assert caplog.text.count("the status of the episode cannot be sent") == 2
    check_whole(recording.root, 2)


def test_an_episode_with_gaps_is_refused_if_that_is_set(tmp_path: Path) -> None:
    with Recording(tmp_path, on_gap="discard") as recording:
        recording.take(image("front", 0, 0), message("action", 0, [0.0]), message("state", 0, [0.0, 0.0]))
        recording.take(command(0, "start"), message("state", 0.5, [0.0, 0.0]), command(0.5, "end"))
        recording.episode(2)
    check_whole(recording.root, 1)
    assert [report["saved"] for report in recording.reports] == [False, True]
    assert recording.reports[0]["reason"] == "gaps"


BYTES = pa.array([1, 2], pa.uint8())


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("input_id", "value", "metadata", "sentence"),
    [
        (
            "front",
            bytes(128 * 96 * 3),
            {"width": 128, "height": 96},
            "has 128 × 96 pixels, and the video 64 × 48",
        ),
        ("front", BYTES, {"encoding": "jpeg"}, "it is no image in jpeg"),
        ("front", BYTES, {"encoding": "smell"}, "its `encoding` is `smell`"),
        ("front", BYTES, {"width": 2, "height": 2}, "has 12 bytes, and it has 2"),
        ("front", BYTES, {"width": -2, "height": 2}, "have to be whole numbers greater than zero"),
        ("front", [1.5], {"width": 1, "height": 1}, "an image consists of bytes"),
        ("action", [float("nan")], {}, "numbers that are not finite"),
        ("action", pa.array([None], pa.float32()), {}, "numbers that are not finite"),
        ("action", [1.0, 2.0], {}, "a message has 2 numbers, and the first one had 1"),
        ("action", ["left"], {}, "it has to be an array of numbers"),
        ("action", pa.array([], pa.float32()), {}, "a message has no numbers"),
    ],
)
def test_a_message_that_cannot_be_used_is_counted(
    input_id: str,
    value: Any,
    metadata: dict[str, Any],
    sentence: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if isinstance(value, bytes):
        value = pa.array(value, pa.uint8())
    with caplog.at_level(logging.INFO), Recording(tmp_path) as recording:
        recording.episode(0)
        recording.run(1.9, 0.1)
        recording.take(command(2, "start"))
        recording.run(2, 0.5)
        recording.take(
            message(input_id, 2.502, value, **metadata), message(input_id, 2.503, value, **metadata)
        )
        recording.run(2.55, 0.45)
        recording.take(command(3, "end"))
    check_whole(recording.root, 2)
    assert caplog.text.count(sentence) == 1
    feature = {"front": FRONT, "action": "action"}[input_id]
    assert episode_of(recording.root, 0)[f"capture/{feature}/refused"] == 0
    assert episode_of(recording.root, 1)[f"capture/{feature}/refused"] >= 1


def test_messages_that_a_queue_drops_within_an_episode_are_counted(tmp_path: Path) -> None:
    with Recording(tmp_path, "state action episode") as recording:
        for begin, before, within in ((0, 5, 2), (2, 3, 4)):
            recording.dropped["state"] += before
            recording.take(message("state", begin, [0.0]), message("action", begin, [0.0]))
            recording.take(command(begin, "start"))
            recording.dropped["state"] += within
            recording.take(message("state", begin + 0.1, [0.0]), command(begin + 0.1, "end"))
    counted = [episode_of(recording.root, number) for number in range(2)]
    assert [episode["capture/observation.state/dropped"] for episode in counted] == [2, 4]
    assert [episode["capture/action/dropped"] for episode in counted] == [0, 0]


def test_an_episode_begins_at_the_newest_time_of_capture_at_the_earliest(tmp_path: Path) -> None:
    with Recording(tmp_path, "state episode") as recording:
        recording.take(message("state", 1.0, [0.0]), message("state", 0.5, [0.0]))  # the second one is late
        recording.take(command(0.2, "start"), message("state", 1.1, [0.0]), command(1.1, "end"))
    assert episode_of(recording.root)["start_time"] == BEGIN_NS + SECOND


@pytest.mark.parametrize("stamp", [BEGIN_NS + 1, (BEGIN_NS + SECOND) / SECOND, True, "today"], ids=str)
def test_a_time_of_capture_may_be_a_number(stamp: Any) -> None:
    sent = BEGIN_NS + 5000
    event = Input.make("state", Reference(pa.array([0.0]), {"timestamp": stamp}, sent))
    expected = {int: BEGIN_NS + 1, float: BEGIN_NS + SECOND}
    assert captured_at(event) == expected.get(type(stamp), sent)


def test_an_episode_whose_input_is_silent_until_the_end_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recording(tmp_path) as recording:
        recording.take(image("front", 0, 0), command(0, "start"))
    assert "is not saved: nothing came from `state` and `action`" in caplog.text
    check_whole(recording.root, 0)


def test_an_episode_whose_input_is_silent_has_no_frames(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Recording(tmp_path) as recording:
        recording.take(image("front", 0, 0), command(0, "start"), command(1, "end"))
        recording.take(command(2, "end"))
    assert "the episode begins once there is a message of `state` and `action`" in caplog.text
    assert (
        "the episode has no frames, and is not saved: nothing came from `state` and `action`" in caplog.text
    )
    assert "no episode is being recorded" in caplog.text
    check_whole(recording.root, 0)


def test_a_command_that_is_unknown_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Recording(tmp_path) as recording:
        recording.take(command(0, "startt"))
    assert "`startt` is no command; did you mean `start`?" in caplog.text


def test_jpeg_images_are_recorded(tmp_path: Path) -> None:
    with Recording(tmp_path, "front") as recording:
        for number in range(10):
            made = image("front", 0, number)
            data = ImageData(made["value"].to_numpy(), "rgb8", 64, 48).frame()
            jpeg = pa.array(np.frombuffer(encode_jpeg(data, 2), np.uint8))
            recording.take(message("front", number / 30, jpeg, encoding="jpeg"))
    check_whole(recording.root, 1)
    assert list(frames(recording.root, FRONT, episode_of(recording.root)))[:9] == list(range(9))


@pytest.mark.lengthy
def test_images_that_the_memory_cannot_hold_are_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Recording(tmp_path, "front", memory=1) as recording:
        recording.take(image("front", 0, 0, (1024, 768)))
    assert "the 1 MB of memory for images that wait for their encoder are full" in caplog.text
    check_whole(recording.root, 0)


BYTES_OF_IMAGE = 64 * 48 * 3


def test_an_image_is_copied_and_its_memory_given_back_and_one_without_memory_is_counted(
    tmp_path: Path,
) -> None:
    memory = ImageMemory(2 * BYTES_OF_IMAGE)
    sampler: Sampler[ImageData] = Sampler(30, 30, 0)
    track = CameraTrack("front", camera(64, 48), sampler, memory, "h264", 30, lambda _: None)
    data = image("front", 0, 3)["value"].to_numpy().copy()
    assert track.push(BEGIN_NS, ImageData(data, "rgb8", 64, 48))
    data[:] = 0  # as a sender does that uses its memory again
    path = tmp_path / "front.mp4"
    track.begin(BEGIN_NS, path)
    assert memory.take(BYTES_OF_IMAGE), "the other half"
    wait_until(lambda: memory.take(BYTES_OF_IMAGE), "the memory of the image")
    assert not track.push(BEGIN_NS + 1, ImageData(data, "rgb8", 64, 48))
    memory.give(2 * BYTES_OF_IMAGE)
    assert memory.take(2 * BYTES_OF_IMAGE), "to the last byte"
    source = track.end(BEGIN_NS).result(TIMEOUT)
    assert source.counts.dropped == 1
    (frame,) = read_video(path, 0.0, 1, 30)
    assert number_of(to_array(frame)) == 3
    track.begin(BEGIN_NS, path)
    track.close()
    assert not path.exists(), "an episode without an end leaves no video"


def test_an_error_that_nobody_expects_ends_the_wait_for_the_rows_of_a_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler: Sampler[ImageData] = Sampler(30, 30, 0)
    track = CameraTrack("front", camera(64, 48), sampler, ImageMemory(1), "h264", 30, lambda _: None)
    track.begin(BEGIN_NS, tmp_path / "front.mp4")
    monkeypatch.setattr(sampler, "end", lambda _: 1 / 0)
    assert isinstance(track.end(BEGIN_NS).exception(TIMEOUT), ZeroDivisionError)
    track.close()


def test_an_episode_whose_first_image_cannot_be_used_is_lost_and_the_next_one_is_whole(
    tmp_path: Path,
) -> None:
    with Recording(tmp_path, "front wrist episode") as recording:
        recording.take(image("wrist", -0.2, 0), image("front", -0.2, 0), image("front", 0, 0, (128, 96)))
        recording.take(image("wrist", 0, 0), command(0, "start"))
        recording.take(image("front", 0.1, 1), image("wrist", 0.1, 1), command(0.1, "end"))
        videos = recording.root / SCRATCH
        wait_until(lambda: recording.reports and not list(videos.glob("0-*.mp4")), "the end of both videos")
        recording.take(image("wrist", 1.99, 3))
        recording.take(image("front", 1.99, 3), command(2, "start"))
        recording.take(image("front", 2.1, 4), image("wrist", 2.1, 4), command(2.1, "end"))
    assert [report["saved"] for report in recording.reports] == [False, True]
    assert "the first image of the episode cannot be used" in recording.reports[0]["reason"]
    check_whole(recording.root, 1)


@pytest.mark.lengthy
def test_a_data_set_is_continued_only_if_that_is_set(tmp_path: Path) -> None:
    with Recording(tmp_path) as recording:
        recording.episode()
    with pytest.raises(DatasetError, match=r"with 1 episodes in .*resume: true"):
        Recording(tmp_path)
    with Recording(tmp_path, resume=True) as recording:
        recording.episode(3, start="start other")
        recording.episode(5)
    check_whole(recording.root, 3)
    assert [episode_of(recording.root, each)["tasks"] for each in range(3)] == [
        ["no task"],
        ["other"],
        ["no task"],
    ]


def test_a_data_set_of_other_features_is_not_continued(tmp_path: Path) -> None:
    with Recording(tmp_path) as recording:
        recording.episode()
    with pytest.raises(DatasetError, match="30 rows a second, and the parameter `fps` is 10; set it to 30"):
        Recording(tmp_path, resume=True, fps=10)
    with (
        pytest.raises(DatasetError, match=r"has `observation.state` of shape \[2\], and .* shape \[1\]"),
        Recording(tmp_path, resume=True) as recording,
    ):
        recording.take(image("front", 0, 0), message("action", 0, [0.0]), command(0, "start"))
        recording.take(message("state", 0, [0.0]))
    with (
        pytest.raises(DatasetError, match="and no input becomes it"),
        Recording(tmp_path, "front state episode", resume=True) as recording,
    ):
        recording.take(image("front", 0, 0), message("state", 0, [0.0, 0.0]), command(0, "start"))
    check_whole(recording.root, 1)


def test_a_data_set_is_not_continued_with_other_names_of_numbers(tmp_path: Path) -> None:
    def record(begin: float, names: list[str] | None, resume: bool = True) -> None:
        features = {"state": {"names": names}}
        with Recording(tmp_path, "state episode", resume=resume, features=features) as recording:
            recording.episode(begin)

    record(0, ["shoulder", "elbow"], resume=False)
    with pytest.raises(DatasetError, match=r"\['shoulder', 'elbow'\], .* is \['elbow', 'shoulder'\]"):
        record(2, ["elbow", "shoulder"])
    record(4, ["shoulder", "elbow"])
    record(6, None)
    check_whole(tmp_path / "dataset", 3)


def test_images_count_for_the_statistics_by_their_rows(tmp_path: Path) -> None:
    """A camera at half the rate of the rows has a new image in none, or in few of the rows that count."""
    with Recording(tmp_path, "front episode", features={"front": {"rate": 15}}) as recording:
        for number in range(-1, 301):
            brightness = 0 if number < 1 else 200
            data = pa.array(np.full(64 * 48 * 3, brightness, np.uint8))
            if number % 2:
                recording.take(
                    message("front", number / 30 - 0.005, data, width=64, height=48, encoding="rgb8")
                )
            if not number:
                recording.take(command(0, "start"))
        recording.take(command(10, "end"))
    statistics = msgspec.json.decode((recording.root / "meta/stats.json").read_bytes())[FRONT]
    assert statistics["count"] == [31]
    assert statistics["mean"][0][0][0] == pytest.approx(30 / 31 * 200 / 255)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "letter.txt").write_text("dear all")
    with pytest.raises(DatasetError, match="has files and is no data set"):
        Recording(tmp_path)
    assert [path.name for path in (tmp_path / "dataset").iterdir()] == ["letter.txt"]


def test_two_recorders_do_not_share_a_data_set(tmp_path: Path) -> None:
    with Recording(tmp_path), pytest.raises(DatasetError, match="another recorder writes to"):
        Recording(tmp_path)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fsp": 30}, "there is no parameter `fsp`; did you mean `fps`?"),
        ({"fps": "fast"}, "parameter `fps` is 'fast': Expected `int`, got `str`"),
        ({"fps": 0}, "parameter `fps` is 0: Expected `int` >= 1"),
        ({"on_gap": "cry"}, "parameter `on_gap` is 'cry': Invalid enum value 'cry'"),
        ({"features": {"frnt": "a"}}, "names the input `frnt`, which is not there; did you mean `front`?"),
        ({"features": {"front": {"label": "a"}}}, "parameter `features"),
    ],
)
def test_settings_that_cannot_be_used_are_named(
    settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(WrongParameter, match=sentence.replace("?", r"\?")):
        Recording(tmp_path, **settings)


def test_inputs_that_do_not_fit_the_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(WrongParameter, match="no input to record"):
        Recording(tmp_path, "episode")
    with (
        pytest.raises(WrongParameter, match="has 1 names, and a message has 2 numbers"),
        Recording(tmp_path, features={"state": {"names": ["a"]}}) as recording,
    ):
        recording.take(message("state", 0, [0.0, 1.0]))
    with (
        pytest.raises(WrongParameter, match="several inputs become the feature `x`"),
        Recording(tmp_path, "a b", features={"a": "x", "b": "x"}) as recording,
    ):
        recording.take(message("a", 0, [0.0]), message("b", 0, [1.0]))
    with (
        pytest.raises(DoraError, match="65 × 48 pixels, and a video needs even numbers"),
        Recording(tmp_path, "front") as recording,
    ):
        recording.take(image("front", 0, 0, (65, 48)))


def test_every_setting_has_a_default() -> None:
    assert read_parameters(RecorderSettings, {}) == RecorderSettings()


def test_an_episode_is_read_as_it_was_captured(tmp_path: Path) -> None:
    with Recording(tmp_path) as recording:
        recording.episode()
        recording.episode(2)
    episode = Episode(recording.root, 1)
    assert episode.sources == [FRONT, "observation.state", "action"]
    states = list(episode.items("observation.state"))
    assert len(states) == 31
    for item in states:
        assert item.numbers is not None
        assert item.numbers[0] == pytest.approx(2 + item.time - 0.002, abs=1e-5)
    images = list(episode.items(FRONT))
    assert all(item.frame is not None for item in images)
    assert len({item.time for item in images}) == len(images) >= 30
    with pytest.raises(DatasetError, match="has 2 episodes, and none of number 2"):
        Episode(recording.root, 2)
    with pytest.raises(DatasetError, match="is no data set for LeRobot"):
        Episode(tmp_path, 0)
    assert episode_of(recording.root, 1)["start_time"] == BEGIN_NS + 2 * SECOND


def test_a_replay_of_old_messages_is_recorded_as_it_was(tmp_path: Path) -> None:
    """Only the times of capture count, not when messages arrive: rows do not run on to today."""
    with Recording(tmp_path) as recording:
        recording.episode(-3e7)
    check_whole(recording.root, 1)
    assert recording.reports[0]["frames"] == 31


def test_clocks_that_differ_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Recording(tmp_path, "state action episode") as recording:
        recording.take(message("action", 0, [0.0]), message("state", 3600, [0.0]), command(0.1, "start"))
        recording.take(command(1, "end"))
    assert "input `action`: its newest message was captured 3600 s before the episode" in caplog.text
    assert "the episode has no frames, and is not saved" in caplog.text
    check_whole(recording.root, 0)


def test_a_data_set_without_true_times_is_read_at_its_nominal_ones(tmp_path: Path) -> None:
    with Recording(tmp_path) as recording:
        recording.episode()
    path = recording.root / "meta/info.json"
    info = msgspec.json.decode(path.read_bytes())
    del info["features"]["capture_time"], info["features"]["gap"]
    path.write_bytes(msgspec.json.encode(info))
    episode = Episode(recording.root, 0)
    for name in episode.sources:
        times = [item.time for item in episode.items(name)]
        assert times == pytest.approx([index / 30 for index in range(31)], abs=1e-5)
    with pytest.raises(DatasetError, match="was not recorded by dora: it has no `capture_time`"):
        Recording(tmp_path, resume=True)


def data_set_of_lerobot(root: Path, features: dict[str, Any], columns: dict[str, Any]) -> Episode:
    """Return an episode of two rows, as LeRobot's own recorder writes it without videos."""
    indexes = {"timestamp": [0.0, 1 / 30], "frame_index": [0, 1], "episode_index": [0, 0]}
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder).mkdir(parents=True)
    info = {"codebase_version": "v3.0", "fps": 30, "total_episodes": 1, "video_path": None}
    (root / "meta/info.json").write_bytes(msgspec.json.encode({**info, "features": features}))
    row = {"episode_index": 0, "length": 2, "data/chunk_index": 0, "data/file_index": 0}
    pq.write_table(pa.Table.from_pylist([row]), root / "meta/episodes/chunk-000/file-000.parquet")
    pq.write_table(pa.table({**indexes, **columns}), root / "data/chunk-000/file-000.parquet")
    return Episode(root, 0)


def test_names_of_numbers_may_be_a_mapping(tmp_path: Path) -> None:
    names = {"motors": ["shoulder", "elbow"]}
    features = {"action": {"dtype": "float32", "shape": [2], "names": names, "info": None}}
    episode = data_set_of_lerobot(tmp_path, features, {"action": [[0.0, 1.0], [2.0, 3.0]]})
    found = [item.numbers for item in episode.items("action")]
    assert [numbers.tolist() for numbers in found if numbers is not None] == [[0, 1], [2, 3]]


def test_images_may_be_files_in_the_table_or_beside_it(tmp_path: Path) -> None:
    pictures = [image_of(image("front", 0, number)).frame() for number in (3, 4)]
    files = [encode_jpeg(picture, 2) for picture in pictures]
    features = {FRONT: {"dtype": "image", "shape": [48, 64, 3], "names": ["height", "width", "channels"]}}
    cells = [{"bytes": files[0], "path": "0.jpg"}, {"bytes": None, "path": "images/1.jpg"}]
    episode = data_set_of_lerobot(tmp_path, features, {FRONT: cells})
    with pytest.raises(
        DatasetError, match=rf"an image of the feature `{FRONT}` .* cannot be read: No such"
    ):
        list(episode.items(FRONT))
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").write_bytes(files[1])
    found = [item.frame for item in episode.items(FRONT)]
    assert [number_of(to_array(frame)) for frame in found if frame is not None] == [3, 4]
    (tmp_path / "images/1.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="cannot be read"):
        list(episode.items(FRONT))


def test_a_feature_of_another_type_is_named(tmp_path: Path) -> None:
    features = {"label": {"dtype": "string", "shape": [1]}, "gone": {"dtype": "float32", "shape": [1]}}
    episode = data_set_of_lerobot(tmp_path, features, {"label": ["a", "b"]})
    with pytest.raises(DatasetError, match=r"the feature `label` .* has the type `string` and is no array"):
        list(episode.items("label"))
    with pytest.raises(DatasetError, match="has no column for its feature `gone`"):
        list(episode.items("gone"))


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_a_video_is_read_from_any_time(codec: Codec, tmp_path: Path) -> None:
    """In data sets of LeRobot, several episodes lie in one file."""
    writer = VideoWriter(tmp_path / "video.mp4", 64, 48, 30, codec)
    for number in range(90):
        picture = image_of(image("front", 0, number))
        writer.write(to_video(picture.frame()))
    writer.close()
    for first, count in ((0, 3), (31, 10), (87, 3)):
        found = list(read_video(tmp_path / "video.mp4", first / 30, count, 30))
        assert [number_of(to_array(frame)) for frame in found] == list(range(first, first + count))


def test_a_data_set_of_an_older_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    info = {"codebase_version": "v2.1", "fps": 30, "features": {}}
    (tmp_path / "meta/info.json").write_bytes(msgspec.json.encode(info))
    with pytest.raises(
        DatasetError, match=r"has the format v2\.1, and dora reads v3\.0; LeRobot converts it"
    ):
        Episode(tmp_path, 0)
    (tmp_path / "meta/info.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        Episode(tmp_path, 0)
