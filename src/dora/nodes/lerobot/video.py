"""Videos of a data set: one frame for each row, at a constant rate."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Literal

import av

Codec = Literal["h264", "av1"]

# Each second frame is a key frame: a training reads rows in random order.
_ENCODERS: Final[dict[Codec, tuple[str, dict[str, str]]]] = {
    "h264": ("libx264", {"preset": "superfast", "crf": "23", "g": "2", "bf": "0"}),
    "av1": ("libsvtav1", {"preset": "10", "crf": "30", "g": "2"}),
}
_LARGE: Final = 1_000_000  # pixels of a frame that one thread may not encode in time


class VideoWriter:
    """A video file that is being written."""

    def __init__(self, path: Path, width: int, height: int, fps: int, codec: Codec) -> None:
        """Open the file; ``width`` and ``height`` are even numbers of pixels. Raises ``OSError``."""
        encoder, options = _ENCODERS[codec]
        self._file = av.open(str(path), "w", format="mp4")
        stream = self._file.add_stream(encoder, rate=fps, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 0 if width * height > _LARGE else 1
        self._stream = stream
        self._count = 0

    def write(self, frame: av.VideoFrame) -> None:
        """Add a frame, made by `to_video`; one may be written several times."""
        frame.pts, frame.time_base = self._count, Fraction(1, self._stream.average_rate or 1)
        self._count += 1
        for packet in self._stream.encode(frame):
            self._file.mux(packet)

    def close(self) -> None:
        """Write what the encoder still holds, and close the file."""
        for packet in self._stream.encode(None):
            self._file.mux(packet)
        self._file.close()

    def abort(self) -> None:
        """Close the file, which cannot be read then."""
        try:
            self._file.close()
        except OSError:
            pass  # nobody reads it, and its caller removes it


def to_video(frame: av.VideoFrame) -> av.VideoFrame:
    """Return a frame in the pixel format of the videos."""
    return frame.reformat(format="yuv420p", dst_color_range="MPEG")


def video_info(width: int, height: int, fps: int, codec: Codec) -> dict[str, Any]:
    """Return what the feature of a camera says about its videos."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": codec,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
    }


def read_video(path: Path, start: float, count: int, fps: float) -> Iterator[av.VideoFrame]:
    """Yield ``count`` frames, from the one at ``start`` seconds. Raises ``OSError``."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.time_base is not None
        first = start - 0.5 / fps
        file.seek(max(0, int(first / stream.time_base)), stream=stream)
        for frame in file.decode(stream):
            if frame.time is not None and frame.time >= first:
                yield frame
                count -= 1
                if not count:
                    return
