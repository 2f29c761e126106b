"""Where the frames of a robot are: a tree of transforms that a node can ask, as `tf2` keeps it in ROS 2.

A frame is a system of coordinates with a name, such as ``base_link`` or ``camera``. Each frame but the root
has a parent, and a transform that takes points from it to its parent; transforms change with time.

>>> tree = TransformTree()
>>> tree.set("base_link", "camera", Transform((0.1, 0.0, 0.5)))
>>> tree.set("odom", "base_link", Transform((2.0, 0.0, 0.0), time_ns=1_000_000_000))
>>> tree.set("odom", "base_link", Transform((4.0, 0.0, 0.0), time_ns=2_000_000_000))
>>> tree.lookup("odom", "camera", 1_500_000_000).translation
(3.1, 0.0, 0.5)

Nothing here needs ROS. `TransformTree.update` takes messages of the type ``tf2_msgs/msg/TFMessage``.
"""

from __future__ import annotations

import bisect
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dora.errors import DoraError

__all__ = [
    "FramesNotConnected",
    "TimeOutOfRange",
    "Transform",
    "TransformError",
    "TransformTree",
    "UnknownFrame",
    "nanoseconds",
]

KEPT_S: Final = 10.0  # as in tf2
_SECOND: Final = 1_000_000_000  # nanoseconds
_NEARLY_EQUAL: Final = 0.9995  # cosine of the half angle: here a straight line is exact to 1e-7

_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)

Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]


def nanoseconds(time: datetime) -> int:
    """Return the nanoseconds since 1970 of an aware ``datetime``, such as ``timestamp`` in the metadata.

    >>> nanoseconds(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC))
    1000005000

    Raises ``TypeError`` for a time without a time zone.
    """
    return (time - _BEGINNING) // timedelta(microseconds=1) * 1000


class TransformError(DoraError):
    """A transform cannot be found or used. `UnknownFrame`, `FramesNotConnected`, `TimeOutOfRange`: why."""


class UnknownFrame(TransformError):
    """No transform with this frame was set."""


class FramesNotConnected(TransformError):
    """Both frames are known, but not how they lie to each other."""


class TimeOutOfRange(TransformError):
    """There is no transform for this time. ``earliest_ns``, ``latest_ns``: of which times there is one."""

    def __init__(self, text: str, earliest_ns: int, latest_ns: int) -> None:
        super().__init__(text)
        self.earliest_ns = earliest_ns
        self.latest_ns = latest_ns


class Transform(NamedTuple):
    """Takes points from one frame to another: it rotates them, and adds the translation.

    ``translation``: x, y and z in metres. ``rotation``: a quaternion of length 1 in the order x, y, z, w,
    as in ROS. ``time_ns``: nanoseconds since 1970; None: it holds at all times.

    >>> turned = Transform((1.0, 0.0, 0.0), (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)))
    >>> turned.apply([[1.0, 0.0, 0.0]]).round(6).tolist()
    [[1.0, 1.0, 0.0]]
    """

    translation: Vector = (0.0, 0.0, 0.0)
    rotation: Quaternion = (0.0, 0.0, 0.0, 1.0)
    time_ns: int | None = None

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The same as a matrix of 4×4 numbers, for points with a fourth coordinate of 1."""
        x, y, z, w = self.rotation
        matrix = np.eye(4)
        matrix[:3, :3] = (
            (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
            (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
            (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
        )
        matrix[:3, 3] = self.translation
        return matrix

    def apply(self, points: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return points, an array of N×3 numbers or of 3, in the other frame."""
        matrix = self.matrix
        result: npt.NDArray[np.float64] = np.asarray(points, np.float64) @ matrix[:3, :3].T + matrix[:3, 3]
        return result

    def inverse(self) -> Transform:
        """Return the transform of the opposite direction."""
        x, y, z, w = self.rotation
        back = (-x, -y, -z, w)
        dx, dy, dz = _rotate(back, self.translation)
        return Transform((-dx, -dy, -dz), back, self.time_ns)

    def after(self, first: Transform) -> Transform:
        """Return one transform that does what ``first`` does, and then this one."""
        dx, dy, dz = _rotate(self.rotation, first.translation)
        x, y, z = self.translation
        time_ns = self.time_ns if first.time_ns is None else first.time_ns
        return Transform((x + dx, y + dy, z + dz), _product(self.rotation, first.rotation), time_ns)


class _FrameHistory:
    """A frame and how it lies in its parent: always the same, or at several times."""

    def __init__(self, parent: str) -> None:
        self.parent = parent
        self.always: Transform | None = None
        self.times: list[int] = []  # sorted
        self.transforms: list[Transform] = []  # of these times

    def set(self, transform: Transform, kept_ns: int) -> None:
        time_ns = transform.time_ns
        if time_ns is None:
            self.always = transform
            self.times.clear()
            self.transforms.clear()
            return
        self.always = None
        times, transforms = self.times, self.transforms
        if times and time_ns < times[-1] - kept_ns:
            return  # it would be the first one to go
        index = bisect.bisect_left(times, time_ns)
        if index < len(times) and times[index] == time_ns:
            transforms[index] = transform
            return
        times.insert(index, time_ns)
        transforms.insert(index, transform)
        begin = bisect.bisect_left(times, times[-1] - kept_ns)
        # At a hundred transforms a second, one by one would move all others each time.
        if begin > len(times) // 4:
            del times[:begin]
            del transforms[:begin]

    def at(self, time_ns: int) -> Transform | None:
        """Return the transform at this time, between its neighbours; None: there are not two."""
        if self.always is not None:
            return self.always
        index = bisect.bisect_left(self.times, time_ns)
        if index == len(self.times):
            return None
        later = self.transforms[index]
        if self.times[index] == time_ns:
            return later
        return _between(self.transforms[index - 1], later, time_ns) if index else None


class TransformTree:
    """The frames that were set, and their transforms of the last seconds. Not safe for several threads."""

    def __init__(self, *, keep: float = KEPT_S) -> None:
        """``keep``: seconds behind the newest transform of a frame for which older ones are kept.

        Raises ``ValueError`` if that is not positive.
        """
        if not keep > 0:
            raise ValueError(f"`keep` is a positive number of seconds, not {keep!r}")
        self._kept_ns = int(keep * _SECOND)
        self._frames: dict[str, _FrameHistory] = {}

    @property
    def parents(self) -> dict[str, str]:
        """The parent of each frame that has one."""
        return {name: frame.parent for name, frame in self._frames.items()}

    def set(self, parent: str, child: str, transform: Transform) -> None:
        """Say how ``child`` lies in ``parent``: the transform takes points from ``child`` to ``parent``.

        One without a time holds at all times. A frame with another parent than before forgets its earlier
        transforms. A rotation is brought to length 1. Raises `TransformError` if the numbers are no
        transform, or the frames would go in a circle.
        """
        parent, child = _frame_name(parent), _frame_name(child)
        usable = _usable(transform)
        if usable is None:
            raise TransformError(
                f"frame `{child}`: the translation {transform.translation} with the rotation "
                f"{transform.rotation} is no transform"
            )
        frame = self._frames.get(child)
        if frame is None or frame.parent != parent:
            if child in (parent, *self._above(parent)):
                raise TransformError(f"frame `{child}` cannot lie in `{parent}`, which lies in `{child}`")
            frame = self._frames[child] = _FrameHistory(parent)
        frame.set(usable, self._kept_ns)

    def update(self, message: Any, *, static: bool = False) -> int:
        """Take the transforms of a message of the type ``tf2_msgs/msg/TFMessage``; return how many.

        ``message``: as an Arrow struct array, or a mapping. ``static``: it comes from ``/tf_static``, and
        holds at all times. Raises `TransformError` if it is no such message.
        """
        count = 0
        for each in _stamped(message):
            try:
                header, transform = each["header"], each["transform"]
                stamp = header["stamp"]
                time_ns = None if static else int(stamp["sec"]) * _SECOND + int(stamp["nanosec"])
                shift, turn = transform["translation"], transform["rotation"]
                translation = shift["x"], shift["y"], shift["z"]
                found = Transform(translation, (turn["x"], turn["y"], turn["z"], turn["w"]), time_ns)
                parent, child = header["frame_id"], each["child_frame_id"]
            except (KeyError, TypeError, ValueError) as error:
                raise TransformError(f"this is no `tf2_msgs/msg/TFMessage`: {error!r}") from error
            self.set(parent, child, found)
            count += 1
        return count

    def lookup(self, target: str, source: str, time: int | datetime | None = None) -> Transform:
        """Return the transform that takes points from the frame ``source`` to the frame ``target``.

        ``time``: nanoseconds since 1970, or an aware ``datetime``; None: the latest one for which all
        transforms on the way are known, or any, if none of them changes. Between two times, positions are
        on a straight line and rotations turn at one speed. Raises `UnknownFrame`, `FramesNotConnected`, or
        `TimeOutOfRange`.
        """
        target, source = _frame_name(target), _frame_name(source)
        for name in (target, source):
            self._check_is_known(name)
        up, down = self._way(target, source)
        time_ns = nanoseconds(time) if isinstance(time, datetime) else time
        moving = [frame for frame in map(self._frames.__getitem__, (*up, *down)) if frame.always is None]
        if time_ns is None and moving:
            time_ns = min(frame.times[-1] for frame in moving)
        to_common = self._chain(up, time_ns, target, source)
        from_target = self._chain(down, time_ns, target, source)
        return from_target.inverse().after(to_common)._replace(time_ns=time_ns)

    # ------------------------------------------------------------------ the way between two frames

    def _above(self, name: str) -> Iterator[str]:
        while (frame := self._frames.get(name)) is not None:
            name = frame.parent
            yield name

    def _way(self, target: str, source: str) -> tuple[list[str], list[str]]:
        """Return the frames from ``source``, and from ``target``, below the first one that both lie in."""
        above_source, above_target = [source, *self._above(source)], [target, *self._above(target)]
        there = set(above_target)
        common = next((name for name in above_source if name in there), None)
        if common is None:
            raise FramesNotConnected(
                f"frame `{source}` lies in `{above_source[-1]}`, and `{target}` in `{above_target[-1]}`: "
                "no transform joins these two"
            )
        return above_source[: above_source.index(common)], above_target[: above_target.index(common)]

    def _chain(self, names: Iterable[str], time_ns: int | None, target: str, source: str) -> Transform:
        """Return one transform for a way up through frames."""
        total = Transform()
        for name in names:
            frame = self._frames[name]
            found = frame.at(time_ns or 0)
            if found is None:
                assert time_ns is not None
                raise self._out_of_range(name, frame, time_ns, target, source)
            total = found.after(total)
        return total

    def _out_of_range(
        self, name: str, frame: _FrameHistory, time_ns: int, target: str, source: str
    ) -> TimeOutOfRange:
        earliest, latest = frame.times[0], frame.times[-1]
        if time_ns > latest:
            where = f"{(time_ns - latest) / _SECOND:.3f} s later than the newest transform"
        else:
            where = f"{(earliest - time_ns) / _SECOND:.3f} s earlier than the oldest transform"
        return TimeOutOfRange(
            f"`{target}` from `{source}`: {where} of frame `{name}` in `{frame.parent}`", earliest, latest
        )

    def _check_is_known(self, name: str) -> None:
        known = self._frames.keys() | {frame.parent for frame in self._frames.values()}
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            raise UnknownFrame(f"no transform with the frame `{name}` has come{hint}")


def _usable(transform: Transform) -> Transform | None:
    """Return the same transform with a rotation of length 1; None: its numbers are none."""
    try:
        x, y, z = map(float, transform.translation)
        qx, qy, qz, qw = map(float, transform.rotation)
    except (TypeError, ValueError):
        return None
    length = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    if not (math.isfinite(length + x + y + z) and length > 1e-6):
        return None
    return Transform((x, y, z), (qx / length, qy / length, qz / length, qw / length), transform.time_ns)


def _frame_name(name: str) -> str:
    """Return a name as ROS 2 writes it; ROS 1 began it with a slash."""
    name = str(name).removeprefix("/")
    if not name:
        raise TransformError("a frame has no name")
    return name


def _stamped(message: Any) -> Iterable[Mapping[str, Any]]:
    """Return the transforms of a message as mappings."""
    rows = message.to_pylist() if hasattr(message, "to_pylist") else [message]
    try:
        return [each for row in rows for each in row["transforms"]]
    except (KeyError, TypeError) as error:
        raise TransformError(f"this is no `tf2_msgs/msg/TFMessage`: {error!r}") from error


def _product(a: Quaternion, b: Quaternion) -> Quaternion:
    """Return the rotation ``b`` followed by ``a``."""
    ax, ay, az, aw = a
    bx, by, bz, bw = b
    return (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )


def _rotate(rotation: Quaternion, vector: Vector) -> Vector:
    x, y, z, w = rotation
    a, b, c = vector
    # Twice the cross product with the axis, and its cross product: fewer steps than by two products.
    tx, ty, tz = 2 * (y * c - z * b), 2 * (z * a - x * c), 2 * (x * b - y * a)
    return (
        a + w * tx + y * tz - z * ty,
        b + w * ty + z * tx - x * tz,
        c + w * tz + x * ty - y * tx,
    )


def _between(earlier: Transform, later: Transform, time_ns: int) -> Transform:
    """Return the transform at a time between two others; rotations on the shortest way (slerp)."""
    assert earlier.time_ns is not None
    assert later.time_ns is not None
    part = (time_ns - earlier.time_ns) / (later.time_ns - earlier.time_ns)
    x, y, z = (a + part * (b - a) for a, b in zip(earlier.translation, later.translation, strict=True))
    begin, end = earlier.rotation, later.rotation
    cosine = sum(a * b for a, b in zip(begin, end, strict=True))
    if cosine < 0:  # both signs of a quaternion are one rotation
        end = (-end[0], -end[1], -end[2], -end[3])
        cosine = -cosine
    if cosine > _NEARLY_EQUAL:
        first, second = 1 - part, part
    else:
        angle = math.acos(cosine)
        first, second = math.sin((1 - part) * angle), math.sin(part * angle)
    qx, qy, qz, qw = (first * a + second * b for a, b in zip(begin, end, strict=True))
    length = math.sqrt(qx * qx + qy * qy + qz * qz + qw * qw)
    return Transform((x, y, z), (qx / length, qy / length, qz / length, qw / length), time_ns)
