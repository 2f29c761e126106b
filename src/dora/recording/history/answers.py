"""Answers to the questions of a page that looks back, as bytes for the browser.

The moment at which a page opens is decided here, too (`_opens_at`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from dora.dataflow.graph import Box
from dora.errors import DoraError
from dora.observe.preview.render import RenderedPreview
from dora.observe.preview.topic import MAX_STEPS, describe
from dora.recording.history.history import SECOND, History, LoggedLine
from dora.recording.history.requests import (
    MOST_TOPICS,
    About,
    Curve,
    Differences,
    Marks,
    Minute,
    Moment,
    OfRecording,
    ParametersAt,
    Pixel,
    Request,
    SearchLog,
    StepTo,
)
from dora.recording.mcap.format import NotARecording
from dora.recording.mcap.recording import RecordedMessage
from dora.wire.metadata import MetadataError
from dora.wire.node_status import StatusWord

MOST_POINTS: Final = 2000  # of a curve
MINUTE: Final = 60  # seconds
PARTS: Final = 400  # of the time, for which the page shows how busy the recording was
BEGINNING: Final = 5  # seconds in which a page waits for the first message of each output
TRANSFORMS: Final = 2  # seconds in which the transforms of a topic belong together
LINES: Final = 200  # of the log, at a moment
FRAMES: Final = 12  # images before boxes among which the page looks for theirs
_MAX_MESSAGE: Final = 4000  # characters of a line that are shown
_encode = msgspec.json.encode


class Answers:
    """Answers the questions about some recordings, which it owns. Not for several threads at once."""

    def __init__(self, histories: list[History]) -> None:
        self._histories = histories

    def prepare(self) -> None:
        """Draw what a page shows first. A browser takes longer to open the page, so then it is there."""
        for number, history in enumerate(self._histories):
            topics = dict.fromkeys(history.outputs, -1)
            _moment(history, Moment(number, _opens_at(history), topics))

    def close(self) -> None:
        for history in self._histories:
            history.close()

    def answer(self, request: Request) -> bytes:
        """Return the answer to a request; raises `DoraError` with a sentence for the page."""
        match request:
            case About():
                return _encode([_about(history) for history in self._histories])
            case Differences():
                return _encode(_differences(self._histories))
            case Moment():
                return _moment(self._of(request), request)
            case _:
                return _encode(_ANSWERS[type(request)](self._of(request), request))

    def _of(self, request: OfRecording) -> History:
        if not 0 <= request.recording < len(self._histories):
            raise DoraError("there is no such recording on this page")
        return self._histories[request.recording]


def _about(history: History) -> dict[str, Any]:
    start, end = history.start, history.end
    return {
        "name": history.name,
        "path": history.path,
        "size": history.size,
        "first": history.first_ns / 1e6,  # milliseconds since the Unix epoch
        "length": history.last_ns - history.first_ns,
        "opens_at": _opens_at(history),
        "trouble": _trouble(history),
        "own": history.is_own,
        "has_state": history.has_state,
        "nodes": start.nodes,
        "host": start.host,
        "file": start.file,
        "dora": start.dora,
        "failed": end.failed if end is not None else [],
        "graph": history.graph,
        "activity": [round(rate) for rate in history.activity(PARTS)],
        "outputs": [
            {
                "name": output.name,
                "type": output.declared or ", ".join(output.types or output.schemas),
                "messages": output.messages,
            }
            for output in history.outputs.values()
        ],
    }


def _trouble(history: History) -> str:
    if history.is_own and history.end is None:
        why = history.damage or "it has no end record"
        return f"The file was cut off, and shows what came before ({why})."
    if history.damage:
        return f"A part cannot be read: {history.damage}."
    if history.end is not None and not history.end.complete:
        lost = history.end.lost
        return f"{lost:,} messages were not recorded." if lost else "Some messages were not recorded."
    return ""


def _marks(history: History, request: Marks) -> dict[str, Any]:
    until = history.last_ns if request.before is None else history.first_ns + request.before - 1
    found = history.marks(until)
    marks = [
        {"at": mark.time_ns - history.first_ns, "kind": mark.kind, "node": mark.node, "text": mark.text}
        for mark in found.items
    ]
    more = found.complete_from_ns >= 0 and bool(marks)
    return {"marks": marks, "before": found.items[0].time_ns - history.first_ns if more else None}


def _opens_at(history: History) -> int:
    """Return the moment that a page shows first.

    The failure in a file that was kept for it; otherwise when most outputs have sent something.
    """
    if history.start.last_seconds is not None:
        failed = [mark for mark in history.marks().items if mark.kind == "failed"]
        if failed:
            return max(int(failed[0].time_ns) - history.first_ns, 0)
    firsts = [history.next_time([name], -1) for name in history.outputs]
    early = [first - history.first_ns for first in firsts if first is not None]
    opens_at: int = max((first for first in early if first <= BEGINNING * SECOND), default=0)
    return opens_at


def _line(line: LoggedLine) -> dict[str, Any]:
    text = line.message
    if len(text) > _MAX_MESSAGE:
        text = f"{text[:_MAX_MESSAGE]}… {len(text) - _MAX_MESSAGE:,} more characters"
    return {
        "time": line.time_ns / 1e6,
        "level": line.level,
        "node": line.node,
        "stream": "stdout",
        "message": text,
    }


# ------------------------------------------------------------------------------ a moment


def _moment(history: History, request: Moment) -> bytes:
    now = history.first_ns + request.at
    since = None if request.since is None else history.first_ns + request.since
    log = history.log(-1 if since is None else since, now, LINES).items
    heads: list[dict[str, Any]] = []
    bodies: list[bytes] = []

    def add(topic: str, shown: RenderedPreview, at: int, **more: Any) -> None:
        heads.append({**shown.head, "topic": topic, "at": at, "size": len(shown.body), **more})
        bodies.append(shown.body)

    for topic in list(request.topics)[:MOST_TOPICS]:
        recorded, shown = _preview_at(history, topic, now)
        if shown is None:
            heads.append({"topic": topic, "kind": "none", "size": 0})
            continue
        at = (recorded.time_ns if recorded is not None else now) - history.first_ns
        if shown.kind == "transforms":
            shown.head["transforms"] = _newest_transforms(history, topic, now)
        if at != request.topics[topic]:
            more = {"steps": _steps(history, topic, since, now)} if shown.kind == "series" else {}
            add(topic, shown, at, **more)
        behind = request.over.get(topic)
        if shown.kind == "boxes" and behind and recorded is not None:
            frame = _frame_of(history, behind, recorded, shown.head["stamp"])
            if frame is not None:
                add(
                    behind,
                    describe(behind, "", frame.message),
                    frame.time_ns - history.first_ns,
                    frame=True,
                )
    value = {
        "at": request.at,
        "state": _state(history, now),
        "lines": [_line(line) for line in log],
        "previews": heads,
    }
    head = _encode(value)
    return b"".join((len(head).to_bytes(4, "little"), head, *bodies))


def _preview_at(
    history: History, topic: str, time_ns: int
) -> tuple[RecordedMessage | None, RenderedPreview | None]:
    """Return the newest message of an output and its preview; a preview alone says why there is none.

    The last preview of each output is kept: while a page steps or plays, most outputs show the same message
    again, and drawing an image takes longer than finding it.
    """
    output = history.outputs.get(topic)
    if output is None:
        return None, None
    try:
        recorded = history.message_at(topic, time_ns)
        if recorded is None:
            return None, None
        drawn = history.drawn.get(topic)
        if drawn is None or drawn[:2] != (recorded.time_ns, recorded.sequence):
            shown = describe(topic, output.declared, recorded.message)
            drawn = history.drawn[topic] = (recorded.time_ns, recorded.sequence, shown)
        return recorded, drawn[2]
    except NotARecording as error:
        head = {"kind": "problem", "problem": str(error), "type": "", "length": 1, "bytes": 0, "number": 0}
        head |= {"time": time_ns / 1e6, "stamp": time_ns // 1000, "metadata": {}}
        return None, RenderedPreview("problem", head)


def _newest_transforms(history: History, topic: str, now: int) -> list[Any]:
    """Return the newest transform to each frame: a message has only some of them."""
    found: dict[str, Any] = {}
    for recorded in history.messages(topic, now - TRANSFORMS * SECOND, now, 200).items:
        try:
            shown = describe(topic, "", recorded.message)
        except NotARecording:
            continue
        found.update({transform[1]: transform for transform in shown.head.get("transforms", ())})
    newest, shown_now = _preview_at(history, topic, now)
    if newest is not None and shown_now is not None:
        found.update({transform[1]: transform for transform in shown_now.head.get("transforms", ())})
    return list(found.values())


def _steps(history: History, topic: str, since: int | None, now: int) -> list[Any]:
    if since is None:
        return []
    return _values(topic, history.messages(topic, since, now, MAX_STEPS).items)


def _values(topic: str, messages: Iterable[RecordedMessage]) -> list[Any]:
    found = []
    for recorded in messages:
        try:
            shown = describe(topic, "", recorded.message)
        except NotARecording:
            continue
        if shown.kind == "series":
            found.append([recorded.time_ns / 1e6, shown.head["values"], *_pose(shown)])
    return found


def _pose(shown: RenderedPreview) -> list[Any]:
    return [shown.head["pose"]] if "pose" in shown.head else []


def _frame_of(history: History, topic: str, boxes: RecordedMessage, stamp: int) -> RecordedMessage | None:
    """Return the message with the frame in which boxes were found, by its time stamp in microseconds."""
    from dora.observe.preview.topic import stamp_of

    if topic not in history.outputs:
        return None
    for recorded in history.backward(topic, boxes.time_ns, FRAMES):
        try:
            if stamp_of(recorded.message) == stamp:
                return recorded
        except (DoraError, MetadataError):
            continue
    return None


def _state(history: History, now: int) -> Mapping[str, Any] | msgspec.Raw | None:
    """Return the state as it was recorded, or else the rates that follow from the messages."""
    if history.has_state:
        try:
            return history.state_at(now)
        except NotARecording:
            return None
    if not history.graph.edges:
        return None
    from dora.observe.rates import LinkRate
    from dora.observe.snapshot import NodeSnapshot, Snapshot
    from dora.observe.snapshot_json import as_json
    from dora.wire.daemon_protocol import LinkView, NodeView

    rates = {name: history.rate(name, now) for name in history.outputs}
    sent: dict[str, float] = {}  # by node
    for box in history.graph.boxes:
        if box.kind not in ("timer", "logs"):
            node_id = box.id.partition("/")[0]
            hz = sum(rates.get(f"{box.id}/{output}", 0.0) for output in box.outputs)
            sent[node_id] = sent.get(node_id, 0.0) + hz
    nodes = [
        NodeSnapshot("", "", NodeView(node_id, StatusWord.RECORDED), None, hz, 0.0, 0, 0, None)
        for node_id, hz in sent.items()
    ]
    links = [
        LinkRate(LinkView(0, 0, source, target, queue_size=0), rates.get(source, 0.0), None, None, 0, 0.0)
        for source, target in _links(history)
    ]
    return msgspec.Raw(as_json(Snapshot("", nodes, links)))


def _links(history: History) -> list[tuple[str, str]]:
    boxes: dict[str, Box] = {box.id: box for box in history.graph.boxes}
    return [
        (f"{edge.source}/{edge.output}", f"{edge.target}/{edge.input}")
        for edge in history.graph.edges
        if boxes[edge.source].kind not in ("timer", "logs")
    ]


# ------------------------------------------------------------------------------ other questions


def _step(history: History, request: StepTo) -> dict[str, Any]:
    outputs = [name for name in request.topics if name in history.outputs] or list(history.outputs)
    now = history.first_ns + request.at
    found = history.next_time(outputs, now) if request.forward else history.last_time(outputs, now - 1)
    return {"at": None if found is None else found - history.first_ns}


def _curve(history: History, request: Curve) -> dict[str, Any]:
    if request.topic not in history.outputs:
        raise DoraError(f"the recording has no output `{request.topic}`")
    points = min(max(request.points, 2), MOST_POINTS)
    after, until = history.first_ns + request.after, history.first_ns + request.until
    found = history.curve(request.topic, after - 1, until, points)
    return {"steps": _values(request.topic, found.items), "from": found.complete_from_ns - history.first_ns}


def _minute(history: History, request: Minute) -> dict[str, Any]:
    now = history.first_ns + request.at
    begin = now - MINUTE * SECOND
    if history.has_state:
        before = now if request.before is None else history.first_ns + request.before
        found = history.states(begin, before)
        samples = [_sample(at, state) for at, state in found.items]
        return {"samples": samples, "from": found.complete_from_ns - history.first_ns}
    samples = []
    links = _links(history)
    for second in range(MINUTE, -1, -1):
        at = now - second * SECOND
        if at < history.first_ns:
            continue
        rates = {source: history.rate(source, at) for source, _ in links}
        named = {f"{source} {target}": [rates[source], None, 0.0] for source, target in links}
        samples.append({"at": at / 1e6, "cpu": {}, "links": named})
    return {"samples": samples, "from": begin - history.first_ns}


def _sample(at: int, state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "at": at / 1e6,
        "cpu": {node["id"]: node["cpu"] for node in state.get("nodes", ()) if node.get("cpu") is not None},
        "links": {
            f"{link['source']} {link['target']}": [
                link.get("hz", 0.0),
                (link.get("latency") or [None])[0],
                link.get("dropping_hz", 0.0),
            ]
            for link in state.get("links", ())
        },
    }


def _search(history: History, request: SearchLog) -> dict[str, Any]:
    from dora.daemon.logs.entry import parse_level, passes

    try:
        level = parse_level(request.level)
    except ValueError:
        level = "stdout"
    text = request.text.casefold()

    def fits(line: LoggedLine) -> bool:
        return (
            (not request.node or (line.node or "dora") == request.node)
            and passes(line.level, level)  # type: ignore[arg-type]
            and (not text or text in line.message.casefold())
        )

    found = history.log(-1, history.first_ns + request.at, fits=fits)
    return {
        "entries": [_line(line) for line in found.items],
        "total": len(found.items),
        "complete": found.complete_from_ns == -1,
    }


def _parameters(history: History, request: ParametersAt) -> dict[str, Any]:
    return history.parameters_at(request.node, history.first_ns + request.at)


def _pixel(history: History, request: Pixel) -> dict[str, str]:
    from dora.observe.preview.images import pixel_text

    recorded = history.message_at(request.topic, history.first_ns + request.at)
    if recorded is None:
        return {"text": ""}
    return {"text": pixel_text(request.topic, recorded.message, request.x, request.y)}


_ANSWERS: Final[Mapping[type, Callable[[History, Any], Any]]] = {
    Marks: _marks,
    StepTo: _step,
    Curve: _curve,
    Minute: _minute,
    SearchLog: _search,
    ParametersAt: _parameters,
    Pixel: _pixel,
}


def _differences(histories: list[History]) -> list[dict[str, Any]]:
    """Compare the first two recordings; raises `DoraError` if one is of another program."""
    from dora.recording.compare import compare
    from dora.recording.opening import open_recording

    if len(histories) < 2:
        return []
    with open_recording(histories[0].path) as first, open_recording(histories[1].path) as second:
        found = compare(first, second)
    return [
        {
            "topic": topic.topic,
            "first": topic.first_count,
            "second": topic.second_count,
            "different": topic.different,
            "places": [[round(place.time * 1e9), place.message, place.what] for place in topic.places],
        }
        for topic in found
    ]
