"""Write what is left of a recording as a small recording, and a test that runs the node with it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Final

import msgspec

from dora._shared_folders import open_file
from dora.errors import DoraError, cannot_write
from dora.recording.alone.expectation import Expectation
from dora.recording.alone.recorded_node import Key, correlation_of, recorded_node
from dora.recording.alone.shrink import REPEATS, Small
from dora.recording.alone.tries import Tries
from dora.recording.mcap.channels import ChannelTable, order_channel
from dora.recording.mcap.format import SUFFIX, End, TopicEnd, restore
from dora.recording.mcap.writer import MessageWriter, RecordingWriter
from dora.recording.opening import open_recording
from dora.recording.recorder.context import entry_message
from dora.wire.decode import BAD_MESSAGE, decode_arrow, decode_numpy
from dora.wire.event_log import EntryKind, pack_entry
from dora.wire.journal import JournalEntry, Values
from dora.wire.message import Encoding, Message

_SHOWN: Final = 5  # events that the test describes
_LINE: Final = 160  # characters


@dataclass(frozen=True)
class Files:
    """The files of a test."""

    test: str
    recording: str


def files_for(small: Small, folder: str, expectation: Expectation | None) -> Files:
    """Return the paths of the files in a folder."""
    what = expectation.outputs[0] if expectation is not None else small.failure.kind.rpartition(".")[2]
    name = f"test_{_name(small.node.node_id)}_{_name(what)}"
    return Files(os.path.join(folder, f"{name}.py"), os.path.join(folder, name + SUFFIX))


def write_test(small: Small, files: Files, expectation: Expectation | None, *, force: bool) -> None:
    """Write both files, and run the node with the small recording.

    Raises `DoraError`, also if one of the files exists and ``force`` is not set.
    """
    for path in (files.test, files.recording):
        if os.path.exists(path) and not force:
            raise DoraError(f"{path} exists already; choose another folder, or overwrite it with --force")
    try:
        os.makedirs(os.path.dirname(files.test) or ".", exist_ok=True)
    except OSError as error:
        raise cannot_write(os.path.dirname(files.test), error) from None
    write_small_recording(small, files.recording)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(open_file(files.test, flags), "w", encoding="utf-8") as file:
            file.write(_test(small, files, expectation))
    except OSError as error:
        raise cannot_write(files.test, error) from None
    if small.fails:
        _check(small, files, expectation)


def _check(small: Small, files: Files, expectation: Expectation | None) -> None:
    """Raise `DoraError` if the node does not fail with what was written."""
    with open_recording(files.recording) as written:
        folder = small.node.dataflow.working_dir
        node = recorded_node(written, small.node.node_id, file=small.node.file, folder=folder)
        tries = Tries(node, small.program, expectation)
        if not any(small.failure.is_like(tries.run().failure) for _ in range(REPEATS)):
            raise DoraError(f"{files.recording} was written, but the node does not fail with it")


def _name(text: str) -> str:
    """Return a text as a part of a Python name: ``IndexError`` is ``index_error``."""
    separated = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return re.sub(r"\W+", "_", separated).strip("_").lower() or "failure"


def _test(small: Small, files: Files, expectation: Expectation | None) -> str:
    node, failure = small.node, small.failure
    place = ("folder", node.dataflow.working_dir) if node.file is None else ("dataflow", node.file)
    path = os.path.relpath(place[1], os.path.dirname(os.path.abspath(files.test)))
    summary = (
        f"an output is not as expected: {failure.kind}"
        if expectation is not None
        else f"it fails: {failure}"
    )
    events = "".join(f"    {line}\n" for line in _events(small))
    recording = _quoted(os.path.basename(files.recording))
    arguments = f"HERE / {recording}, {_quoted(node.node_id)}, {place[0]}=HERE / {_quoted(path)}"
    if expectation is not None:
        arguments += f", expect={_quoted(expectation.text)}"
    count, origin = len(small.steps), os.path.basename(node.origin.path)
    return (
        f'"""Node `{node.node_id}` alone: {_escaped(summary)}\n\n'
        f"`dora shrink` left {count:,} of {len(node.steps):,} events of {origin}:\n\n"
        f'{_escaped(events)}"""\n\n'
        "from pathlib import Path\n\n"
        "from dora.testing import run_recorded\n\n"
        "HERE = Path(__file__).parent\n\n\n"
        f"def {os.path.splitext(os.path.basename(files.test))[0]}() -> None:\n"
        f"    run_recorded({arguments})\n"
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', "'''")


def _events(small: Small) -> list[str]:
    """Return a line for each of the first events."""
    lines = []
    for step in small.steps[:_SHOWN]:
        entry = step.entry
        line = small.node.describe(entry)
        if entry.kind == EntryKind.MESSAGE:
            key = small.node.process.key_of(entry)
            message = small.changed.get(key) or small.node.message(key)
            line = f"{line}: {_shown(message)}" if message is not None else line
        lines.append(line if len(line) <= _LINE else f"{line[:_LINE]}…")
    if len(small.steps) > _SHOWN:
        lines.append(f"and {len(small.steps) - _SHOWN:,} more")
    return lines


def _shown(message: Message) -> str:
    """Return the values, in the shape of the array that was sent."""
    try:
        if message.encoding == Encoding.PLAIN:
            return str(decode_numpy(message).tolist())
        return str(decode_arrow(message).to_pylist())
    except BAD_MESSAGE:
        return f"{message.body_size:,} bytes"


# ------------------------------------------------------------------------------ the recording


def write_small_recording(small: Small, path: str) -> None:
    """Write the events that are left, and their messages, as a recording; raises `DoraError`."""
    node = small.node
    kept = _messages(small)
    at = small.steps[0].entry.time_ns if small.steps else node.first_ns
    writer = RecordingWriter(path, ChannelTable(), force=True)
    topics = sorted({topic for topic, _, _ in kept})
    start = msgspec.structs.replace(
        node.origin.start,
        started=at,
        together=False,
        last_seconds=None,
        nodes=[node.node_id],
        topics=topics,
    )
    try:
        writer.begin(start, json.dumps(node.origin.dataflow or node.dataflow.descriptor).encode())
        messages = MessageWriter(writer)
        for topic, time_ns, message in kept:
            messages.add(topic, time_ns, message)
        parameters = Values(node.node_id, node.config.parameters)
        messages.add_context(entry_message(JournalEntry(at, parameters)))
        messages.add_context((order_channel(node.node_id), at, _order(small)))
        messages.flush()
        ends = {
            topic: TopicEnd(span.messages, 0, span.first, span.last)
            for topic, span in messages.spans.items()
        }
        failed = [node.node_id] if node.failed else []
        writer.finish(End(complete=True, stopped=at, reason="saved", topics=ends, failed=failed))
    finally:
        writer.close()


def _order(small: Small) -> bytes:
    process = small.node.process
    at = small.steps[0].entry.time_ns if small.steps else small.node.first_ns
    begin = pack_entry(EntryKind.BEGIN, 0, at, process.restarts, msgspec.msgpack.encode(process.inputs))
    return begin + b"".join(pack_entry(*step.entry) for step in small.steps)


def _messages(small: Small) -> list[tuple[str, int, Message]]:
    """Return the messages of the events, the requests that the node sent at them, and the answers."""
    node = small.node
    found: dict[Key, tuple[int, Message]] = {}

    def add(key: Key) -> None:
        message = small.changed.get(key) or node.message(key)
        if message is not None:
            found[key] = message.time_ns, message

    for key in node.keys(small.steps):
        add(key)
    for number in (0, *(step.number for step in small.steps)):
        for recorded in node.sent_at.get(number, ()):
            message = restore(recorded.data)
            if identity := correlation_of(message):
                found[Key(recorded.topic, message.sequence)] = recorded.time_ns, message
                for answer in node.answers.get(identity, ()):
                    add(answer.key)
    return sorted(((key.topic, *item) for key, item in found.items()), key=lambda item: item[1])
