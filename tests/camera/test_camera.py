"""Sources of images, and images of messages."""

from __future__ import annotations

import sys
from fractions import Fraction
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest

from dora.errors import DoraError
from dora.node.events import Stop
from dora.nodes.camera.node import CameraSettings, Frame, FrameSource, _paced, open_source, read_device
from dora.nodes.camera.pattern import Pattern, number_of
from dora.nodes.images import (
    BadImage,
    ImageData,
    encode_jpeg,
    image_of,
    is_image,
    message_of,
    to_array,
)
from dora.nodes.installed import check_installed
from dora.testing import MockNode


def video(path: Path, frames: int = 10, rate: int = 20) -> str:
    """Make a video file of the test pattern."""
    pattern = Pattern(64, 48)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pattern.draw(number), format="rgb24")))
        file.mux(stream.encode(None))
    return str(path)


def numbers(frames: Any, count: int) -> list[int]:
    return [number_of(to_array(frame.image)) for frame in islice(frames, count)]


def event(value: Any, **metadata: Any) -> Any:
    return MockNode([("image", value, metadata)]).next()


@pytest.mark.parametrize("number", [0, 1, 5, 1000, 65535])
@pytest.mark.parametrize("size", [(640, 480), (64, 48), (320, 200)])
def test_the_number_of_a_frame_can_be_read(number: int, size: tuple[int, int]) -> None:
    image = Pattern(*size).draw(number)
    assert image.shape == (size[1], size[0], 3)
    assert number_of(image) == number
    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
    jpeg = np.frombuffer(encode_jpeg(frame, 10), np.uint8)
    assert number_of(to_array(ImageData(jpeg, "jpeg", 0, 0).frame())) == number


def test_the_pattern_moves_and_is_the_same_each_time() -> None:
    images = [Pattern(64, 48).draw(number) for number in (0, 1, 2, 1)]
    assert all((before != after).any() for before, after in pairwise(images))
    assert (images[1] == images[3]).all()


def test_the_pattern_has_the_size_and_rate_of_the_settings() -> None:
    source = open_source(CameraSettings("pattern", rate=10, width=320, height=240))
    assert callable(source.frames)
    frame = source.frames(7).image
    assert (frame.width, frame.height, source.rate) == (320, 240, 10)
    assert number_of(to_array(frame)) == 7


def test_a_file_gives_each_frame_once(tmp_path: Path) -> None:
    source = open_source(CameraSettings(video(tmp_path / "test.mp4")))
    assert source.rate == 20
    assert numbers(source.frames, 100) == list(range(10))


@pytest.mark.lengthy
def test_a_file_begins_again_if_that_is_set(tmp_path: Path) -> None:
    source = open_source(CameraSettings(video(tmp_path / "test.mp4"), loop=True, width=32, height=24))
    assert not callable(source.frames)
    assert numbers(source.frames, 25) == [*range(10), *range(10), *range(5)]
    frame = next(source.frames).image
    assert (frame.width, frame.height) == (32, 24)


def test_a_damaged_frame_of_a_file_is_an_error_with_the_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "damaged.avi"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=20)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(10):
            picture = av.VideoFrame.from_ndarray(Pattern(64, 48).draw(number), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    images = path.read_bytes().split(b"\xff\xd8\xff")  # each begins so
    images[5] = bytes(len(images[5]))
    path.write_bytes(b"\xff\xd8\xff".join(images))
    source = open_source(CameraSettings(str(path)))
    with pytest.raises(DoraError, match=r"damaged\.avi cannot be read to its end: Invalid data"):
        numbers(source.frames, 100)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (77, "there is no camera /dev/video77: .*; `source` is a device"),
        ("78", "there is no camera /dev/video78"),
        ("/dev/video79", "there is no camera /dev/video79"),
        ("nowhere.mp4", "there is no video file nowhere.mp4; `source` is a file, a device"),
        (__file__, "cannot be read as a video: "),
    ],
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of devices on Linux")
def test_a_source_that_is_not_there_has_a_sentence(source: int | str, sentence: str) -> None:
    with pytest.raises(DoraError, match=sentence):
        open_source(CameraSettings(source))


@pytest.mark.skipif("lavfi" not in av.formats_available, reason="FFmpeg without synthetic devices")
def test_a_device_gives_frames_with_their_times() -> None:
    """FFmpeg makes images here as a camera does; they come with stamps of another clock."""
    settings = CameraSettings(width=32, height=24)
    frames = list(islice(read_device("testsrc=rate=30:size=64x48", "lavfi", {}, settings), 5))
    assert all(isinstance(frame, Frame) and frame.captured is not None for frame in frames)
    times = [frame.captured or 0.0 for frame in frames]
    assert times == sorted(times) and times[0] > 1.7e9
    assert (frames[0].image.width, frames[0].image.height) == (32, 24)


def images_of_a_device(node: MockNode) -> int:
    """Return how many images an endless device sends before its node stops, of ten at most."""
    image = av.VideoFrame(64, 48, "rgb24")
    endless = FrameSource((Frame(image) for _ in count()), None)
    return len(list(islice(_paced(endless, node), 10)))


def test_a_device_gives_images_until_a_stop() -> None:
    assert images_of_a_device(MockNode([("text", b"x"), Stop("MANUAL"), ("text", b"x")])) == 2


def test_a_device_gives_no_image_once_the_daemon_is_gone_and_its_events_have_ended() -> None:
    node = MockNode([])
    assert [event["type"] for event in node] == ["STOP"]
    assert images_of_a_device(node) == 1


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "jpeg"])
def test_a_message_of_an_image_becomes_the_image_again(encoding: str) -> None:
    image = Pattern(64, 48).draw(9)
    data, metadata = message_of(av.VideoFrame.from_ndarray(image, format="rgb24"), encoding)
    assert metadata == {"primitive": "image", "width": 64, "height": 48, "encoding": encoding}
    received = event(pa.array(data), **metadata)
    assert is_image(received)
    again = to_array(image_of(received).frame())
    assert np.abs(again.astype(int) - image).mean() < (0.1 if encoding != "jpeg" else 8)


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [("rgba8", 4), ("bgra8", 4), ("mono8", 1), ("yuyv", 2), ("nv12", 1.5), ("yuv420", 1.5)],
)
def test_other_encodings_of_pixels_are_known(encoding: str, pixels: float) -> None:
    frame = ImageData(np.full(round(64 * 48 * pixels), 128, np.uint8), encoding, 64, 48).frame()
    assert (frame.width, frame.height) == (64, 48)
    assert to_array(frame).mean() == pytest.approx(128, abs=4)


@pytest.mark.parametrize(
    ("encoding", "codec", "pixels"), [("png", "png", "rgb24"), ("bmp", "bmp", "bgr24")]
)
def test_files_of_images_are_decoded(encoding: str, codec: str, pixels: str) -> None:
    writer = av.CodecContext.create(codec, "w")
    assert isinstance(writer, av.VideoCodecContext)
    writer.width, writer.height, writer.pix_fmt, writer.time_base = 64, 48, pixels, Fraction(1, 30)
    frame = av.VideoFrame.from_ndarray(Pattern(64, 48).draw(11), format="rgb24").reformat(format=pixels)
    frame.pts = 0
    data = b"".join(bytes(packet) for packet in (*writer.encode(frame), *writer.encode(None)))
    assert number_of(to_array(ImageData(np.frombuffer(data, np.uint8), encoding, 0, 0).frame())) == 11


def test_an_array_of_three_dimensions_is_an_image() -> None:
    image = Pattern(64, 48).draw(3)
    received = event(image)
    assert is_image(received)
    found = image_of(received)
    assert (found.width, found.height, found.encoding) == (64, 48, "bgr8")
    assert not is_image(event(pa.array([1.0, 2.0])))
    assert not is_image(event(pa.array([1.0]), primitive="series", width=1, height=1))


def test_an_image_without_size_is_refused() -> None:
    with pytest.raises(BadImage, match="`width` and `height`"):
        image_of(event(pa.array([1], pa.uint8()), encoding="rgb8"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed("dora-camera")
    monkeypatch.setattr(av, "__version__", "9.0.0")
    with pytest.raises(DoraError, match=r"PyAV 9\.0\.0 is too old: 15 or newer is needed; install it"):
        check_installed("dora-camera")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DoraError, match=r"PyAV is not installed; .*dora-dataflow\[lerobot\]"):
        check_installed("dora-lerobot-replay")
