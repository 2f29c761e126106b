"""An episode of a data set that is sent again, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_recording import Recording

from dora.node.events import Event, Stop
from dora.node.receive.inbox import timed_out
from dora.nodes.lerobot import replay
from dora.nodes.parameters import WrongParameter


class Sender:
    """A node whose waits are all interrupted once, by an event that comes half-way."""

    def __init__(self, outputs: list[str], stops_after: int = 1 << 30, **parameters: Any) -> None:
        self.now = 1000.0
        self.sent: list[tuple[str, float, Any, dict[str, Any]]] = []
        self.parameters = parameters
        self._outputs = outputs
        self._stops_after = stops_after
        self._is_interrupted = False
        self.stops = 0

    def node_config(self) -> dict[str, Any]:
        return {"outputs": self._outputs}

    def next(self, timeout: float) -> Event:
        if len(self.sent) >= self._stops_after:
            self.stops += 1
            return Stop("MANUAL")
        self._is_interrupted = timeout > 0 and not self._is_interrupted
        # Further than asked for, so that the sum of two floats is not a little too small.
        self.now += timeout / 2 if self._is_interrupted else timeout + 1e-9
        return timed_out(timeout)

    def send_output(self, output: str, data: Any, metadata: dict[str, Any]) -> None:
        self.sent.append((output, self.now - 1000.0, data, metadata))


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    with Recording(tmp_path) as recording:
        recording.episode()
        recording.episode(2)
    return str(recording.root)


def sent_by(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[str, float, Any, dict[str, Any]]]:
    monkeypatch.setattr(replay.time, "monotonic", lambda: sender.now)
    replay.run(sender)  # type: ignore[arg-type]
    return sender.sent


@pytest.mark.lengthy
@pytest.mark.parametrize("speed", [0.5, 1.0, 4.0])
def test_an_episode_is_sent_at_its_times_and_with_stamps_of_the_same_distance(
    speed: float, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = ["front", "state", "action"]
    sent = sent_by(Sender(outputs, dataset=dataset, episode=1, speed=speed), monkeypatch)
    episode = replay.Episode(Path(dataset), 1)
    times = sorted(item.time for name in episode.sources for item in episode.items(name))
    begin, first = times[0], sent[0][3]["timestamp"]
    for (_, now, _, metadata), time in zip(sent, times, strict=True):
        assert now == pytest.approx((time - begin) / speed, abs=1e-6)
        stamp = (metadata["timestamp"] - first).total_seconds()
        assert stamp == pytest.approx((time - begin) / speed, abs=1e-5)
    assert {output for output, *_ in sent} == set(outputs)


@pytest.mark.lengthy
def test_outputs_of_a_replay_have_their_images_and_numbers(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = {"numbers": "action"}
    sender = Sender(["front", "numbers"], dataset=dataset, encoding="rgb8", features=features)
    episode = replay.Episode(Path(dataset), 0)
    numbers, images = [], []
    for output, _, data, metadata in sent_by(sender, monkeypatch):
        if output == "front":
            assert (metadata["encoding"], metadata["width"], metadata["height"]) == ("rgb8", 64, 48)
            images.append(len(data))
        else:
            assert metadata.keys() == {"timestamp"}
            numbers.append(data.tolist())
    assert numbers == [
        item.numbers.tolist() for item in episode.items("action") if item.numbers is not None
    ]
    assert images == [64 * 48 * 3] * len(list(episode.items("observation.images.front")))


def test_a_replay_that_is_stopped_sends_nothing_more(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender(["state", "action"], 3, dataset=dataset)
    assert len(sent_by(sender, monkeypatch)) == 3
    assert sender.stops == 1, "it does not go through the rest of the episode"


def test_a_feature_that_a_data_set_does_not_have_is_named(
    dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender(["stat"], dataset=dataset)
    with pytest.raises(
        WrongParameter, match=r"output `stat`: the data set .* has no `observation.stat`; did you mean"
    ):
        sent_by(sender, monkeypatch)
    assert sender.sent == []
