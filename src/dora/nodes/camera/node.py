"""The camera node: a device, a video file or the test pattern, sent image by image."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import av
import msgspec
from msgspec import Meta

from dora.errors import DoraError
from dora.node.events import Stop
from dora.node.node import Node
from dora.nodes.camera.pattern import Pattern
from dora.nodes.images import message_of
from dora.nodes.parameters import read_parameters

_DEVICES: Final = {"linux": "v4l2", "darwin": "avfoundation"}
_CLOCKS_DIFFER: Final = 10.0  # seconds: a stamp that is further from now is of another clock
_PATTERN_SIZE: Final = (640, 480)
_PATTERN_RATE: Final = 30.0

Pixels = Annotated[int, Meta(ge=16, le=16384)]

PATTERN = "pattern"
OUTPUT = "image"


class CameraSettings(msgspec.Struct, frozen=True):
    """The `parameters` of the node.

    ``source`` is the number or path of a device, a video file, or ``pattern``.
    ``rate`` is in hertz, ``width`` and ``height`` are in pixels. None: as the source has it; the pattern
    has 640 × 480 pixels at 30 Hz. ``frames``: end after so many. ``loop``: begin a file again at its end.
    """

    source: int | str = 0
    rate: Annotated[float, Meta(gt=0, le=1000)] | None = None
    width: Pixels | None = None
    height: Pixels | None = None
    encoding: Literal["bgr8", "rgb8", "jpeg"] = "bgr8"
    loop: bool = False
    frames: Annotated[int, Meta(ge=1)] | None = None


class Frame(NamedTuple):
    """An image, and when it was captured in seconds since 1970 (UTC); None: when it is sent."""

    image: av.VideoFrame
    captured: float | None = None


class FrameSource(NamedTuple):
    """An open source. ``rate`` is how many frames a second are sent; None: as they come.

    ``frames`` are the frames of a device or file one after the other, or a function of a number.
    """

    frames: Callable[[int], Frame] | Iterator[Frame]
    rate: float | None


def open_source(settings: CameraSettings) -> FrameSource:
    """Open the source of the settings; raises `DoraError` with a remedy."""
    source = settings.source
    if source == PATTERN:
        return _pattern(settings)
    if isinstance(source, str) and source.isdecimal():
        source = int(source)
    if isinstance(source, int) or source.startswith("/dev/"):
        return _device(source, settings)
    return _file(source, settings)


def _pattern(settings: CameraSettings) -> FrameSource:
    pattern = Pattern(settings.width or _PATTERN_SIZE[0], settings.height or _PATTERN_SIZE[1])

    def draw(number: int) -> Frame:
        return Frame(av.VideoFrame.from_ndarray(pattern.draw(number), format="rgb24"))

    return FrameSource(draw, settings.rate or _PATTERN_RATE)


def _file(path: str, settings: CameraSettings) -> FrameSource:
    if not Path(path).is_file():
        raise DoraError(f"there is no video file {path}; `source` is a file, a device (`0`) or `{PATTERN}`")
    container = _open(path, None, {}, f"{path} cannot be read as a video")
    if not container.streams.video:
        raise DoraError(f"{path} has no video")
    stream = container.streams.video[0]
    own_rate = float(stream.average_rate or _PATTERN_RATE)

    def frames() -> Iterator[Frame]:
        while True:
            for image in _decoded(container.decode(stream), f"{path} cannot be read to its end"):
                yield Frame(_scaled(image, settings))
            if not settings.loop:
                return
            container.seek(0)

    return FrameSource(frames(), settings.rate or own_rate)


def _device(source: int | str, settings: CameraSettings) -> FrameSource:
    kind = _DEVICES.get(sys.platform, "v4l2")
    path = f"/dev/video{source}" if isinstance(source, int) and kind == "v4l2" else str(source)
    options = {"ts": "abs"} if kind == "v4l2" else {}  # the stamps of the driver, as time of day
    if settings.rate:
        options["framerate"] = f"{settings.rate:g}"
    if settings.width and settings.height:
        options["video_size"] = f"{settings.width}x{settings.height}"
    return FrameSource(read_device(path, kind, options, settings), None)


def read_device(path: str, kind: str, options: dict[str, str], settings: CameraSettings) -> Iterator[Frame]:
    """Open a device of FFmpeg, and return its frames; ``kind`` is the name of its driver there."""
    if kind == "v4l2" and not Path(path).exists():
        found = sorted(str(device) for device in Path("/dev").glob("video*"))
        there = f"there are {', '.join(found)}" if found else "this machine has none"
        raise DoraError(
            f"there is no camera {path}: {there}; `source` is a device (`0`), a video file or `{PATTERN}`"
        )
    container = _open(path, kind, options, f"the camera {path} cannot be opened")

    def frames() -> Iterator[Frame]:
        for image in _decoded(container.decode(video=0), f"the camera {path} gives no images any more"):
            now = time.time()
            stamp = image.time
            own = stamp is not None and abs(stamp - now) < _CLOCKS_DIFFER
            yield Frame(_scaled(image, settings), stamp if own else now)

    return frames()


def _open(path: str, kind: str | None, options: dict[str, str], trouble: str) -> Any:
    try:
        return av.open(path, format=kind, options=options)
    except (OSError, ValueError, av.FFmpegError) as error:
        number = getattr(error, "errno", None)
        remedy = {
            errno.EBUSY: "; another program has it",
            errno.EACCES: "; you may not use it: on Linux, your user has to be in the group `video`",
            errno.EINVAL: "; it may not offer this rate or size: leave `rate`, `width` and `height` out",
        }.get(number or 0, "")
        reason = getattr(error, "strerror", None) or str(error)
        raise DoraError(f"{trouble}: {reason}{remedy}") from None


def _decoded(images: Iterator[av.VideoFrame], trouble: str) -> Iterator[av.VideoFrame]:
    try:
        yield from images
    except (OSError, ValueError, av.FFmpegError) as error:
        raise DoraError(f"{trouble}: {getattr(error, 'strerror', None) or error}") from None


def _scaled(image: av.VideoFrame, settings: CameraSettings) -> av.VideoFrame:
    width, height = settings.width or image.width, settings.height or image.height
    if (width, height) == (image.width, image.height):
        return image
    return image.reformat(width=width, height=height)


def run(node: Node) -> None:
    """Send images until the source or the dataflow ends. Raises `DoraError`."""
    settings = read_parameters(CameraSettings, node.parameters)
    if OUTPUT not in node.node_config()["outputs"]:
        raise DoraError(f"the camera sends on the output `{OUTPUT}`; add it: `outputs: [{OUTPUT}]`")
    for count, frame in enumerate(_paced(open_source(settings), node), 1):
        captured = time.time() if frame.captured is None else frame.captured
        data, metadata = message_of(frame.image, settings.encoding)
        metadata["timestamp"] = datetime.fromtimestamp(captured, UTC)
        node.send_output(OUTPUT, data, metadata)
        if count == settings.frames:
            break


def _paced(source: FrameSource, node: Node) -> Iterator[Frame]:
    """Yield the frames of a source when they are due, until the node has to stop.

    The pattern leaves frames out if it is late, as a camera does; a file is sent frame by frame.
    """
    if source.rate is None:
        assert not callable(source.frames)
        for frame in source.frames:
            yield frame
            if _stops(node, 0.0):
                return
        return
    begin, number = time.monotonic(), 0
    while True:
        if callable(source.frames):
            number = max(number, int((time.monotonic() - begin) * source.rate))
        if _stops(node, begin + number / source.rate):
            return
        if callable(source.frames):
            yield source.frames(number)
        else:
            following = next(source.frames, None)
            if following is None:
                return
            yield following
        number += 1


def _stops(node: Node, due: float) -> bool:
    """Wait until a time of the monotonic clock; return whether the node has to stop.

    At the loss of the daemon the stream of events ends without a `Stop`.
    """
    while True:
        event = node.next(max(0.0, due - time.monotonic()))
        if event is None or isinstance(event, Stop):
            return True
        if time.monotonic() >= due:
            return False
