"""Bags of ROS 2 as recordings.

A bag is a folder with a ``metadata.yaml`` and files of messages, or one such file alone. The first bytes of
a file tell its format, not its name or the metadata: a bag whose recorder was killed has no metadata, and
is read like others. Messages are ordered by the time at which they were recorded.
"""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from dora.errors import DoraError
from dora.recording.bags.bag_file import (
    CDR,
    SQLITE_MAGIC,
    ZSTD_MAGIC,
    BagChannel,
    BagFile,
    McapBag,
    SqliteBag,
    printable,
)
from dora.recording.bags.restore import ChannelReader, type_finder
from dora.recording.mcap.file import END_OF_TIME
from dora.recording.mcap.format import End, NotARecording, RecordingStart
from dora.recording.mcap.recording import RecordedMessage, Recording, TopicInfo
from dora.ros2.names import check_namespace, resolve

if TYPE_CHECKING:
    from dora.dataflow.model import Dataflow

METADATA: Final = "metadata.yaml"
_SUFFIXES: Final = (".mcap", ".db3")
ZSTD_SUFFIX: Final = ".zstd"
_MOST_METADATA: Final = 64 << 20  # bytes that are read: a bag may come from anybody
_COPY: Final = 1 << 20  # bytes at once
# What decompressed files leave free for others: bytes, or this part of the file system if that is less.
# A bag may have any size, and a few bytes of one can expand to more than any disk has.
_RESERVE: Final = 1 << 30
_RESERVED_PART: Final = 20


class RosBag(Recording):
    """An open bag; ``with`` closes it.

    Its topics have no node: `/camera/image_raw` is called ``camera/image_raw``, as an output can be.
    """

    def __init__(
        self,
        path: str,
        *,
        images: bool = False,
        topics: Mapping[str, str] | None = None,
        image_topics: Collection[str] = (),
    ) -> None:
        """Open a bag; raises `NotARecording` for another file or folder, `DoraError` if it cannot be read.

        ``images``: messages with images are flat bytes with `width`, `height` and `encoding`, as cameras of
        dora send them, instead of structs; ``image_topics``: of these topics only. ``topics``: by
        ``node/output``, the topic that replaces it.
        """
        super().__init__(path)
        self.ros2: str = ""
        self._renamed = {output: _name(topic) for output, topic in (topics or {}).items()}
        self._image_topics = set(map(_name, image_topics))
        self._folder = ""  # of decompressed files
        self._files: list[BagFile] = []
        try:
            for file in self._paths():
                self._open(file)
            if not self._files:
                raise NotARecording(f"{path} cannot be read: {self.damage}")
            self._read_topics()
        except BaseException:
            self.close()
            raise
        find_type = type_finder(self.ros2)
        self._readers = {
            channel: ChannelReader(
                channel, find_type, images=images or _name(channel.topic) in self._image_topics
            )
            for file in self._files
            for channel in file.channels
        }

    def messages(
        self, topics: Collection[str] | None = None, begin_ns: int | None = None, end_ns: int | None = None
    ) -> Iterator[RecordedMessage]:
        """Yield messages as `Recording.messages` does, by the time at which they were recorded."""
        wanted = {f"/{topic}" for topic in (self.topics if topics is None else topics)}
        wanted |= {topic[1:] for topic in wanted}  # other programs leave the slash out
        sequences: Counter[str] = Counter()
        for time_ns, channel, data in self._merged(wanted, begin_ns or 0, end_ns or END_OF_TIME):
            topic = _name(channel.topic)
            sequences[topic] += 1
            if time_ns > self.reached_ns:
                self.reached_ns = time_ns
            yield RecordedMessage(topic, sequences[topic], time_ns, data, self._readers[channel])
        for file in self._files:
            self.damage = self.damage or file.damage

    def take_blocks(self, dataflow: Dataflow) -> tuple[dict[str, str], list[str]]:
        blocks = [(node.id, node.ros2) for node in dataflow.nodes if node.ros2 is not None]
        for node_id, block in blocks:
            place = block.name_of(node_id), check_namespace(block.namespace)
            for topic in block.topics:
                name = _name(resolve(topic.topic, *place))
                if topic.direction == "publish" or name not in self.topics:
                    continue
                for output in topic.ports:
                    self._renamed.setdefault(f"{node_id}/{output}", name)
                if topic.format == "image":
                    self._image_topics.add(name)
        return self._renamed, sorted(self._image_topics)

    def topic_of(self, node_id: str, output: str) -> str:
        return self._renamed.get(f"{node_id}/{output}", output)

    def outputs_in(self, dataflow: Dataflow) -> set[str]:
        # A node with one of the topics is in the bag with all its outputs: on the others, it was silent.
        found = {
            f"{node.id}/{output}"
            for node in dataflow.nodes
            if any(self.topic_of(node.id, output) in self.topics for output in node.outputs)
            for output in node.outputs
        }
        for node in dataflow.nodes:
            taken = Counter(self.topic_of(node.id, output) for output in node.outputs)
            if double := [topic for topic, count in taken.items() if count > 1]:
                raise DoraError(f"two outputs of the node `{node.id}` have the topic `/{double[0]}`")
        for output, topic in self._renamed.items():
            if topic not in self.topics:
                raise DoraError(f"the bag has no topic `/{topic}`; {_listed(self.topics)}")
            if output not in found:
                raise DoraError(f"the dataflow has no output `{output}`, which `/{topic}` should replace")
        if not found:
            raise DoraError(
                "no output of the dataflow is a topic of the bag: give one the name of its topic, without "
                f"the first slash, or name the topic with --topic NODE/OUTPUT=TOPIC; {_listed(self.topics)}"
            )
        return found

    def close(self) -> None:
        if self._folder:
            from dora.recording.mcap.process_folder import remove_folder

            remove_folder(self._folder)

    # ----------------------------------------------------------------------- files

    def _paths(self) -> list[str]:
        """Return the files of the bag, in order."""
        if not os.path.isdir(self.path):
            return [self.path]
        try:
            names = self._named() or sorted(filter(_is_of_a_bag, os.listdir(self.path)), key=_number)
        except OSError as error:
            raise DoraError(f"the bag {self.path} cannot be read: {error.strerror}") from None
        if not names:
            raise NotARecording(
                f"{self.path} is a folder, but no bag of ROS 2: it has no {METADATA}, .mcap or .db3"
            )
        return [os.path.join(self.path, name) for name in names]

    def _named(self) -> list[str]:
        """Return the names of files in the metadata; none if there is no metadata."""
        import yaml

        place = os.path.join(self.path, METADATA)
        try:
            with open(place, "rb") as file:
                loaded = yaml.load(file.read(_MOST_METADATA), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            found = loaded["rosbag2_bagfile_information"]
            self.ros2 = printable(str(found.get("ros_distro") or ""))
            # Early versions wrote the name of the folder, too.
            return [os.path.basename(str(name)) for name in found["relative_file_paths"]]
        except FileNotFoundError:
            return []
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            what = printable(str(error).partition("\n")[0])
            raise NotARecording(f"{place} cannot be read: {what}") from None
        except (TypeError, KeyError, AttributeError):
            raise NotARecording(f"{place} does not describe a bag of ROS 2") from None

    def _open(self, path: str) -> None:
        """Open a file of the bag. In a folder, one that cannot be read is a damage of the bag."""
        plain = path
        try:
            self.size += os.path.getsize(path)
            plain = self._decompressed(path)
            with open(plain, "rb") as file:
                beginning = file.read(len(SQLITE_MAGIC))
            opened = SqliteBag(plain) if beginning == SQLITE_MAGIC else McapBag(plain)
        except OSError as error:
            if path == self.path:
                raise DoraError(f"the bag {path} cannot be read: {error.strerror}") from None
            self.damage = (
                self.damage or f"its file {os.path.basename(path)} cannot be read: {error.strerror}"
            )
        except DoraError as error:
            what = str(error).replace(plain, path)
            if path == self.path:
                raise NotARecording(what) from None
            self.damage = self.damage or what
        else:
            self._files.append(opened)
            self.damage = self.damage or opened.damage
            self.ros2 = self.ros2 or opened.distribution

    def _decompressed(self, path: str) -> str:
        """Return the path of a file, or of a decompressed copy; raises ``OSError`` and `DoraError`."""
        with open(path, "rb") as source:
            if source.read(len(ZSTD_MAGIC)) != ZSTD_MAGIC:
                return path
            import zstandard

            from dora.recording.mcap.process_folder import make_folder

            self._folder = self._folder or make_folder("bag")
            plain = os.path.join(self._folder, f"{len(self._files)}-{os.path.basename(path)}")
            source.seek(0)
            try:
                with (
                    open(plain, "xb") as target,
                    zstandard.ZstdDecompressor().stream_reader(
                        source, _COPY, read_across_frames=True
                    ) as reader,
                ):
                    while data := reader.read(_COPY):
                        _check_room(target, len(data), path)
                        target.write(data)
            except BaseException as error:
                with suppress(FileNotFoundError):
                    os.unlink(plain)
                if isinstance(error, zstandard.ZstdError):
                    raise NotARecording(f"{path} cannot be decompressed: {error}") from None
                raise
        return plain

    # ----------------------------------------------------------------------- topics and messages

    def _read_topics(self) -> None:
        for file in self._files:
            for channel in file.channels:
                if channel.encoding != CDR:
                    self.left_out[channel.topic] = channel.encoding
                    continue
                topic = self.topics.setdefault(_name(channel.topic), TopicInfo(_name(channel.topic)))
                topic.messages += channel.messages
                if channel.type_name not in topic.schemas:
                    topic.schemas.append(channel.type_name)
        full = [file for file in self._files if _has_messages(file)]
        self.first_ns = min((file.first_ns for file in full), default=0)
        self.last_ns = max((file.last_ns for file in full), default=0)
        self.start = RecordingStart(dora="", dataflow_id="", started=self.first_ns)
        self.end = End(complete=True, stopped=self.last_ns, reason="asked")

    def _merged(
        self, topics: Collection[str], begin_ns: int, end_ns: int
    ) -> Iterator[tuple[int, BagChannel, bytes]]:
        """Yield the messages of all files by time. Of files that follow one another, one is open."""
        later = sorted(
            (file.first_ns, number) for number, file in enumerate(self._files) if _has_messages(file)
        )
        heads: list[tuple[int, int, Any, Iterator[Any]]] = []
        while heads or later:
            while later and (not heads or later[0][0] <= heads[0][0]):
                _, number = later.pop(0)
                _push(heads, number, self._files[number].messages(topics, begin_ns, end_ns))
            if heads:
                _, number, item, rest = heapq.heappop(heads)
                yield item
                _push(heads, number, rest)


def _check_room(file: BinaryIO, size: int, path: str) -> None:
    """Raise `DoraError` if so many bytes more of the file at ``path`` would fill the disk."""
    disk = os.fstatvfs(file.fileno())
    reserve = min(_RESERVE, disk.f_blocks * disk.f_frsize // _RESERVED_PART)
    if disk.f_bavail * disk.f_frsize < reserve + size:
        place = os.path.dirname(os.path.dirname(file.name))
        raise DoraError(
            f"{path} cannot be decompressed: {place} has no room for it; let TMPDIR name a folder on a "
            "larger disk, or decompress it with `zstd -d`"
        )


def _push(heads: list[tuple[int, int, Any, Iterator[Any]]], number: int, rest: Iterator[Any]) -> None:
    """Put the next message of a file on the heap."""
    item = next(rest, None)
    if item is not None:
        heapq.heappush(heads, (item[0], number, item, rest))


def _has_messages(file: BagFile) -> bool:
    return any(channel.messages for channel in file.channels)


def _name(topic: str) -> str:
    return topic.removeprefix("/")


def _listed(topics: Iterable[str]) -> str:
    from dora.dataflow.problems import listed

    there = [f"/{topic}" for topic in sorted(topics)]
    return f"it has {listed(there)}" if there else "it has none"


def _is_of_a_bag(name: str) -> bool:
    return name.removesuffix(ZSTD_SUFFIX).endswith(_SUFFIXES)


def _number(name: str) -> tuple[int, str]:
    """Return the key that sorts ``drive_10.mcap`` after ``drive_9.mcap``."""
    digits = name.partition(".")[0].rpartition("_")[2]
    return (int(digits), name) if digits.isdecimal() else (-1, name)
