"""Parts of the dashboard without a browser: what waits for one, who may come in, what a file says."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.websockets import WebSocketDisconnect
from waiting import TIMEOUT

from dora.cluster.dashboard.local_server import _ask
from dora.cluster.dashboard.pages import Dashboard, Subject, _deliver
from dora.cluster.dashboard.watches import (
    MAX_LINES,
    MAX_WAITING_PREVIEWS,
    Outbox,
    Viewer,
    Watch,
    Watches,
)
from dora.cluster.dashboard.yaml_text import lines_of_nodes
from dora.cluster.http.auth import AuthMiddleware, cookie_of, keys_for
from dora.cluster.http_api import DataflowView
from dora.daemon.logs.entry import LogEntry
from dora.daemon.logs.reader import LogReader
from dora.daemon.logs.writer import LogFiles
from dora.dataflow.model import LogLevel
from dora.observe.preview.protocol import (
    Ended,
    Found,
    FromWatcher,
    Lines,
    Search,
    Target,
    ToWatcher,
    frame,
    page_query,
)
from dora.observe.preview.watcher import (
    MAX_MESSAGE,
    CommandQueue,
    SendFrame,
    Watcher,
    answer_search,
    encode_entry,
    search,
    send_lines,
)
from dora.observe.queries import Preview, SnapshotQuery
from dora.observe.snapshot import Snapshot
from dora.observe.snapshot_json import MAX_SAMPLES, LastMinute
from dora.wire.daemon_protocol import DescribeDataflow, Description, GraphText
from dora.wire.framing import encode_frame
from dora.wire.operations import OperationResult, RestartOperation, StopOperation


def taken(outbox: Outbox) -> tuple[dict[str, Any], list[tuple[dict[str, Any], bytes]]]:
    """Return what a browser would get: the object, and the previews."""
    messages = asyncio.run(asyncio.wait_for(outbox.take(), 1))
    told: dict[str, Any] = {}
    previews = []
    for message in messages:
        if isinstance(message, str):
            told.update(json.loads(message))
        else:
            size = int.from_bytes(message[:4], "little")
            previews.append((json.loads(message[4 : 4 + size]), message[4 + size :]))
    return told, previews


def test_a_slow_browser_gets_the_newest_state_without_a_backlog() -> None:
    outbox = Outbox()
    outbox.put(GraphText(b'{"boxes":[]}'))
    for number in range(1000):
        outbox.set("state", b'{"number":%d}' % number)
        outbox.put(Preview('a/"odd"', b'{"n":%d}' % number, b"x" * 1000))
        outbox.put(Preview("b/out", b'{"n":%d}' % number, adds=True))
    told, previews = taken(outbox)
    assert told == {"graph": {"boxes": []}, "state": {"number": 999}}
    odd = {"topic": 'a/"odd"', "n": 999}
    assert [preview for preview in previews if preview[0]["topic"] != "b/out"] == [(odd, b"x" * 1000)]
    curve = [head["n"] for head, _ in previews if head["topic"] == "b/out"]
    assert curve == list(range(1000 - MAX_WAITING_PREVIEWS, 1000))
    assert [head["n"] for head, _ in previews] == sorted(head["n"] for head, _ in previews)


def test_dropped_lines_are_counted() -> None:
    outbox = Outbox()
    outbox.put(Lines([b'{"n":0}']))
    assert taken(outbox)[0] == {"lines": [{"n": 0}], "skipped": 0}
    outbox.put(Lines([b'{"n":0}'], skipped=7))
    outbox.put(Lines([b'{"n":%d}' % number for number in range(1, MAX_LINES + 5)]))
    told, _ = taken(outbox)
    assert len(told["lines"]) == MAX_LINES and told["lines"][-1] == {"n": MAX_LINES + 4}
    assert told["skipped"] == 7 + 5
    outbox.put(Ended())
    outbox.put(Found(3, [b"{}"], 9))
    assert taken(outbox)[0] == {"ended": True, "found": [{"ticket": 3, "total": 9, "entries": [{}]}]}


def test_a_hidden_browser_gets_the_whole_minute_and_no_more() -> None:
    minute, outbox = LastMinute(), Outbox()
    nothing = Snapshot("", [], [])
    for number in range(1000):  # four machines send their states
        sample = minute.add(1e9 + number / 4, nothing)
        outbox.add_samples([] if sample is None else [sample])
    times = [json.loads(sample)["at"] / 1000 - 1e9 for sample in minute.samples]
    assert times == [number / 2 for number in range(500 - MAX_SAMPLES, 500)]
    assert [sample["at"] / 1000 - 1e9 for sample in taken(outbox)[0]["samples"]] == times
    minute.add(1e9 + 1000, nothing)
    assert len(minute.samples) == 1
    minute.add(1e9, nothing)  # the clock was set back
    assert json.loads(minute.samples[0])["at"] == 1e12


def test_commands_that_arrive_together_are_taken_one_by_one() -> None:
    reading, writing = os.pipe()
    inbox = CommandQueue(reading)
    os.write(
        writing,
        frame(Target("id", "", "")) + frame(page_query(("a/b",))) + frame(page_query(("c/d",))),
    )
    assert next(iter(inbox.wait())) == Target("id", "", "")
    assert inbox.waiting
    assert list(inbox.take()) == [page_query(("a/b",)), page_query(("c/d",))]
    assert not inbox.waiting
    os.close(writing)
    assert list(inbox.take()) == []
    assert inbox.closed
    os.close(reading)


def test_nothing_new_is_waited_for() -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(Outbox().take(), 0.01))


def test_a_message_counts_as_sent_when_the_browser_has_it() -> None:
    outbox = Outbox()
    outbox.set("outcome", b"{}")
    taken(outbox)
    assert outbox.holds("outcome")
    outbox.sent()
    assert not outbox.holds("outcome")
    with pytest.raises(TimeoutError):  # nothing is delivered twice, and no empty delivery
        asyncio.run(asyncio.wait_for(outbox.take(), 0.01))


# ------------------------------------------------------------------- the browsers of one dataflow


TARGET = Target("id", "socket", "logs")


@pytest.fixture
def watchers(monkeypatch: pytest.MonkeyPatch) -> list[Watch]:
    """The watches that live; they have no process."""
    alive: list[Watch] = []

    async def start(self: Watch) -> None:
        alive.append(self)

    async def end(self: Watch) -> None:
        alive.remove(self)

    monkeypatch.setattr(Watch, "start", start)
    monkeypatch.setattr(Watch, "end", end)
    monkeypatch.setattr(Watch, "alive", property(alive.__contains__))
    monkeypatch.setattr("dora.cluster.dashboard.watches.LINGER_TIME", 0)
    return alive


async def end_tasks(watches: Watches) -> None:
    await asyncio.gather(*watches._end_tasks.values())


def test_a_browser_that_comes_back_keeps_the_watcher_of_the_last_one(watchers: list[Watch]) -> None:
    async def check() -> None:
        watches = Watches()
        first, second = Viewer(), Viewer()
        watch = await watches.join(TARGET, first)
        watches.leave(watch, first)
        assert await watches.join(TARGET, second) is watch
        await end_tasks(watches)
        assert watchers == [watch]
        watches.leave(watch, second)
        await end_tasks(watches)
        assert watchers == []

    asyncio.run(check())


def test_the_time_without_a_browser_begins_anew_each_time_one_leaves(
    watchers: list[Watch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.cluster.dashboard.watches.LINGER_TIME", 10)

    async def check() -> None:
        watches = Watches()
        first, second = Viewer(), Viewer()
        watch = await watches.join(TARGET, first)
        watches.leave(watch, first)
        (of_first,) = watches._end_tasks.values()
        assert await watches.join(TARGET, second) is watch
        watches.leave(watch, second)
        with pytest.raises(asyncio.CancelledError):
            await of_first
        assert watchers == [watch] and list(watches._end_tasks) == [watch]
        await watches.close()

    asyncio.run(check())


def test_a_watcher_that_has_ended_is_replaced_for_the_next_browser(watchers: list[Watch]) -> None:
    async def check() -> None:
        watches = Watches()
        old = await watches.join(TARGET, Viewer())
        watchers.remove(old)  # somebody has killed it
        new = await watches.join(TARGET, Viewer())
        assert watchers == [new]

    asyncio.run(check())


def test_the_end_of_a_replaced_watcher_leaves_the_new_one(watchers: list[Watch]) -> None:
    async def check() -> None:
        watches = Watches()
        viewer = Viewer()
        old = await watches.join(TARGET, viewer)
        ended = msgspec.structs.replace(TARGET, socket="")
        new = await watches.join(ended, Viewer())
        watches.leave(old, viewer)
        await end_tasks(watches)
        assert watchers == [new]
        assert await watches.join(ended, Viewer()) is new

    asyncio.run(check())


@pytest.mark.parametrize("says", [None, "no JSON"])
def test_a_page_that_is_gone_or_not_ours_needs_no_watcher(watchers: list[Watch], says: str | None) -> None:
    joined: list[Watch] = []

    class Page:
        path_params = {"dataflow": "id"}
        scope: dict[str, Any] = {}

        async def accept(self, _: object) -> None: ...

        async def receive_text(self) -> str:
            joined.extend(watchers)
            if says is None:
                raise WebSocketDisconnect
            return says

    async def check() -> None:
        view = DataflowView(uuid="id", name="lab", status="Finished", nodes=[])
        dashboard = Dashboard(lambda _: Subject(view), KEYS)
        await dashboard._live(Page())  # type: ignore[arg-type]
        await end_tasks(dashboard._watches)

    asyncio.run(check())
    assert len(joined) == 1 and watchers == []


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[ToWatcher]:
    """What watches send to their processes."""
    messages: list[ToWatcher] = []
    monkeypatch.setattr(Watch, "_send", lambda _, message: messages.append(message))
    return messages


def test_the_topics_of_a_browser_that_left_are_no_longer_asked_for(sent: list[ToWatcher]) -> None:
    watch = Watch(TARGET)
    viewers = [Viewer(), Viewer()]
    for viewer, topic in zip(viewers, ("a/out", "b/out"), strict=True):
        watch.add(viewer)
        viewer.query = page_query((topic,))
        watch.update_query()
    watch.remove(viewers[0])
    topics = [("a/out",), ("a/out", "b/out"), ("b/out",)]
    assert sent == [page_query(each) for each in topics]


def test_a_browser_gets_the_previews_that_it_shows() -> None:
    watch = Watch(TARGET)
    shows, shows_not = Viewer(), Viewer()
    shows.query = page_query(("a/out",))
    for viewer in (shows, shows_not):
        watch.add(viewer)
    watch._receive(Preview("a/out", b'{"n":1}'))
    watch._receive(Lines([b"{}"]))
    assert [head for head, _ in taken(shows.outbox)[1]] == [{"topic": "a/out", "n": 1}]
    told, previews = taken(shows_not.outbox)
    assert (told["lines"], previews) == ([{}], [])


def test_a_browser_that_comes_later_gets_the_present_state_and_the_last_minute() -> None:
    watch, early, late = Watch(TARGET), Viewer(), Viewer()
    watch.add(early)
    watch._receive(GraphText(b'{"boxes":[]}'))
    watch._receive(Snapshot("", [], [], trouble="early"))
    watch._receive(Lines([b'{"n":1}']))
    watch._receive(Preview("a/out", b"{}"))
    watch._receive(Ended())
    watch.add(late)
    for viewer in (early, late):
        told, previews = taken(viewer.outbox)
        assert sorted(told) == ["ended", "graph", "lines", "samples", "skipped", "state"]
        assert (told["graph"], told["lines"]) == ({"boxes": []}, [{"n": 1}])
        assert told["state"]["trouble"] == "early"
        assert (len(told["samples"]), told["skipped"], previews) == (1, 0, [])


def test_the_graph_of_another_machine_shows_only_until_this_one_reports() -> None:
    watch, viewer = Watch(TARGET), Viewer()
    watch.add(viewer)
    watch.receive_remote(GraphText(b'"far"'))
    assert taken(viewer.outbox)[0] == {"graph": "far"}
    watch._receive(Snapshot("", [], []))
    watch._receive(GraphText(b'"here"'))
    watch.receive_remote(GraphText(b'"far"'))
    assert taken(viewer.outbox)[0]["graph"] == "here"


def test_other_machines_look_at_what_the_browsers_do_and_end_with_the_watch(sent: list[ToWatcher]) -> None:
    class Remote:
        queries: list[SnapshotQuery] = []
        closed = False

        def change_query(self, query: SnapshotQuery) -> None:
            self.queries.append(query)

        async def close(self) -> None:
            self.closed = True

    watch, viewer, remote = Watch(TARGET), Viewer(), Remote()
    watch.remote = remote  # type: ignore[assignment]
    watch.add(viewer)
    viewer.query = page_query(("a/out",), latency=True)
    for _ in range(2):
        watch.update_query()
    assert remote.queries == sent == [viewer.query]
    asyncio.run(watch.end())
    assert remote.closed


def test_a_watcher_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        stdin = None
        killed = False

        def kill(self) -> None:
            self.killed = True

        async def wait(self) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr("dora.cluster.dashboard.watches.END_TIMEOUT", 0.01)
    watch, process = Watch(TARGET), Stuck()
    watch._process = process  # type: ignore[assignment]
    asyncio.run(watch.end())
    assert process.killed


@pytest.mark.parametrize(
    "sends", [b"", b"\xff\xff\xff\x7f", frame({"type": "OfTheNextVersion"})], ids=["end", "size", "kind"]
)
def test_browsers_are_told_that_their_watcher_is_lost(sends: bytes) -> None:
    class Process:
        killed = False

        def __init__(self) -> None:
            self.stdout = asyncio.StreamReader()

        def kill(self) -> None:
            self.killed = True

        async def wait(self) -> int:
            return -9 if self.killed else 0

    async def read() -> None:
        watch, viewer = Watch(TARGET), Viewer()
        watch.add(viewer)
        process: Any = Process()
        process.stdout.feed_data(frame(Lines([b"1"])) + sends)
        if not sends:
            process.stdout.feed_eof()
        await asyncio.wait_for(watch._read(process), TIMEOUT)
        (told,) = await viewer.outbox.take()
        assert json.loads(told) == {"lines": [1], "skipped": 0, "lost": True}
        assert process.killed == bool(sends), "what it would still send cannot be read"

    asyncio.run(read())


def test_a_page_gets_the_next_delivery_when_it_has_drawn_the_one_before() -> None:
    class Socket:
        def __init__(self) -> None:
            self.sent: list[str] = []

        async def send_text(self, text: str) -> None:
            self.sent.append(text)

    async def deliver() -> None:
        async def until_sent(*texts: str) -> None:
            async with asyncio.timeout(TIMEOUT):
                while socket.sent != list(texts):
                    await asyncio.sleep(0)

        viewer, socket = Viewer(), Socket()
        delivering = asyncio.create_task(_deliver(socket, viewer))  # type: ignore[arg-type]
        viewer.outbox.set("state", b"1")
        await until_sent('{"state":1}', "{}")
        viewer.outbox.set("state", b"2")
        for _ in range(20):
            await asyncio.sleep(0)
        viewer.outbox.set("state", b"3")
        viewer.ready.set()
        await until_sent('{"state":1}', "{}", '{"state":3}', "{}")
        delivering.cancel()

    asyncio.run(deliver())


def test_a_search_is_answered_once_and_to_who_has_asked(sent: list[ToWatcher]) -> None:
    watch = Watch(TARGET)
    viewers = [Viewer(), Viewer()]
    for viewer in viewers:
        watch.add(viewer)
        watch.search(viewer, Search(7))
    for request in sent:
        assert isinstance(request, Search)
        for entry in (b"1", b"2"):
            watch._receive(Found(request.ticket, [entry], 1))
    for viewer in viewers:
        assert taken(viewer.outbox)[0] == {"found": [{"ticket": 7, "total": 1, "entries": [1]}]}
        assert viewer.tickets == {}


def test_a_hidden_page_gets_how_the_dataflow_ended_and_the_end_waits_for_it() -> None:
    async def check() -> None:
        watch, viewer = Watch(TARGET), Viewer()
        watch.add(viewer)
        viewer.ready.clear()  # it asks for nothing
        watch._receive(Ended())
        finishing = asyncio.create_task(watch.finish(b"{}"))
        await asyncio.wait_for(viewer.ready.wait(), TIMEOUT)
        (told,) = await viewer.outbox.take()
        assert json.loads(told) == {"ended": True, "outcome": {}}
        await asyncio.wait({finishing}, timeout=0.05)
        assert not finishing.done(), "the message is on its way"
        viewer.outbox.sent()
        await asyncio.wait_for(finishing, TIMEOUT)

    asyncio.run(check())


# ---------------------------------------------------------------------------------------- logs


def written(folder: Path, count: int) -> str:
    files = LogFiles(str(folder))
    for number in range(count):
        level: LogLevel = "error" if number % 10 == 0 else "info"
        files.write(LogEntry(number * 1_000_000_000, level, "arm", f"step {number}"))
    files.close()
    return str(folder)


def test_the_whole_log_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dora.observe.preview.watcher.MAX_FOUND", 3)
    found = search(written(tmp_path, 1000), Search(5, node="arm", level="error", text="STEP 9"))
    assert (found.ticket, found.total) == (5, 11)
    assert [json.loads(entry)["message"] for entry in found.entries] == ["step 970", "step 980", "step 990"]
    assert search(str(tmp_path), Search(6, node="leg")).entries == []
    assert search(str(tmp_path / "nowhere"), Search(7, level="odd")).total == 0


def test_of_a_long_log_the_end_is_read(tmp_path: Path) -> None:
    reader = LogReader(written(tmp_path, 1000))
    reader.begin_near_end(500)
    last = [entry.message for entry in reader.entries()]
    assert 1 < len(last) < 10 and last[-1] == "step 999" and last == sorted(last)
    assert list(reader.entries()) == []
    reader = LogReader(str(tmp_path))
    reader.begin_near_end(1 << 30)
    assert len(list(reader.entries())) == 1000


def test_of_many_new_lines_the_last_are_sent_and_the_others_counted(tmp_path: Path) -> None:
    log = LogReader(written(tmp_path, 10))
    sent: list[FromWatcher] = []
    send_lines(log, 3, sent.append, first=True)  # a page does not miss what was there before it
    send_lines(log, 3, sent.append)
    files = LogFiles(str(tmp_path))
    for number in range(10, 15):
        files.write(LogEntry(number * 1_000_000_000, "info", "arm", f"step {number}"))
    files.close()
    send_lines(log, 3, sent.append)
    log.close()
    found = []
    for message in sent:
        assert isinstance(message, Lines)
        found.append(([json.loads(entry)["message"] for entry in message.entries], message.skipped))
    assert found == [(["step 7", "step 8", "step 9"], 0), (["step 12", "step 13", "step 14"], 2)]


def test_a_log_entry_of_any_length_is_shown_in_part() -> None:
    long, short = (
        json.loads(encode_entry(LogEntry(0, "info", "arm", "x" * length)))["message"]
        for length in (MAX_MESSAGE + 5, MAX_MESSAGE)
    )
    assert long == "x" * MAX_MESSAGE + "… 5 more characters"
    assert short == "x" * MAX_MESSAGE


def test_a_page_gets_the_last_lines_before_it_hears_of_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr("dora.observe.preview.watcher.DaemonClient", lambda _: None)

    class Observer:
        def __init__(self, *_: object, **__: object) -> None: ...

        def results(self) -> Iterator[None]:
            yield None  # the log was read a moment ago
            written(tmp_path, 1)
            os.close(writing)

    monkeypatch.setattr("dora.observe.preview.watcher.SnapshotObserver", Observer)
    sent: list[FromWatcher] = []
    Watcher(Target("id", "socket", str(tmp_path)), CommandQueue(reading), sent.append).run()
    os.close(reading)
    lines, ended = sent
    assert isinstance(lines, Lines) and b"step 0" in lines.entries[0]
    assert ended == Ended()


def test_a_frame_is_sent_whole_through_a_pipe_that_takes_it_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = bytearray()

    def write(_: int, data: memoryview) -> int:
        taken.extend(data[:3])
        return len(data[:3])

    monkeypatch.setattr("dora.observe.preview.watcher.os.write", write)
    SendFrame(1)(Ended())
    assert taken == frame(Ended())


def test_a_search_whose_server_has_gone_ends_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)

    def send(_: FromWatcher) -> None:
        raise BrokenPipeError

    answer_search(written(tmp_path, 1), Search(1), send)
    for thread in threading.enumerate():
        if thread.name == "dora-search":
            thread.join(TIMEOUT)
    assert failed == []


# ------------------------------------------------------------------------------- who may come in


HOST = "localhost:6013"
KEYS = keys_for("secret")


def answer(guard: AuthMiddleware, path: str, kind: str = "http", **headers: str) -> int:
    """Return the status of a request: 200 if it was let in."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(guard({"type": kind, "path": path, "headers": named}, None, send))  # type: ignore[arg-type]
    return int(sent[0].get("status", sent[0].get("code")))


@pytest.fixture
def guard() -> AuthMiddleware:
    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
        await send({"type": "http.response.start", "status": 200})

    return AuthMiddleware(app, KEYS, frozenset({"localhost"}), ("/", "/assets/*"))


def test_half_a_token_opens_nothing(guard: AuthMiddleware) -> None:
    assert answer(guard, "/api/dataflows", host=HOST) == 401
    assert answer(guard, "/dashboard/x/live", "websocket", host=HOST) == 1008
    assert answer(guard, "/api/dataflows", host=HOST, authorization="Bearer secret") == 200
    for wrong in ("Bearer sécret", "Bearer secre", "Bearer ", "secret", "Basic secret"):
        assert answer(guard, "/api/dataflows", host=HOST, authorization=wrong) == 401, wrong


def test_a_public_page_is_no_public_websocket(guard: AuthMiddleware) -> None:
    assert answer(guard, "/assets/page.js", host=HOST) == 200
    assert answer(guard, "/assets/page.js", "websocket", host=HOST) == 1008


def test_a_browser_needs_its_cookie_and_the_key_of_the_page(guard: AuthMiddleware) -> None:
    cookie, key = f"a=b; {cookie_of(HOST)}={KEYS.session}", KEYS.page
    assert answer(guard, "/api/dataflows", host=HOST, cookie=cookie, x_dora_page=key) == 200
    assert answer(guard, "/api/dataflows", host=HOST, cookie=cookie) == 401
    assert answer(guard, "/api/dataflows", host=HOST, x_dora_page=key) == 401
    assert answer(guard, "/api/dataflows", host=HOST, cookie=cookie, x_dora_page=key[:-1]) == 401
    other = f"{cookie_of('localhost:6014')}={KEYS.session}"
    assert answer(guard, "/api/dataflows", host=HOST, cookie=other, x_dora_page=key) == 401

    def open_socket(cookie: str, protocols: str) -> int:
        headers = {"host": HOST, "cookie": cookie, "sec_websocket_protocol": protocols}
        return answer(guard, "/dashboard/x/live", "websocket", **headers)

    assert open_socket(cookie, f"dora, page.{key}") == 200
    assert open_socket(cookie, "dora") == 1008
    assert open_socket("", f"dora, page.{key}") == 1008


def test_no_server_comes_without_a_token() -> None:
    with pytest.raises(ValueError, match="would accept every request"):
        AuthMiddleware(None, keys_for(""), frozenset())  # type: ignore[arg-type]


def test_the_page_to_log_in_is_open_and_nothing_else(guard: AuthMiddleware) -> None:
    assert answer(guard, "/", host=HOST) == 200
    assert answer(guard, "/assets/dashboard.js", host=HOST) == 200
    for path in ("//", "/assets", "/x/assets/", "/api/status"):
        assert answer(guard, path, host=HOST) == 401, path


def test_other_origins_and_names_are_refused_even_with_the_cookie(guard: AuthMiddleware) -> None:
    shown = {"cookie": f"{cookie_of(HOST)}={KEYS.session}", "x_dora_page": KEYS.page}
    for path in ("/", "/api/dataflows", "/dashboard/x/live"):
        for kind, refused in (("http", 403), ("websocket", 1008)):
            assert answer(guard, path, kind, host=HOST, origin="http://evil.example", **shown) == refused
            assert answer(guard, path, kind, host=HOST, origin="null", **shown) == refused
            assert answer(guard, path, kind, host="evil.example", **shown) == refused
    assert answer(guard, "/", host=HOST, origin=f"http://{HOST}") == 200


# ---------------------------------------------------------------------------------- the file


def test_the_lines_of_nodes() -> None:
    text = """# comment
nodes:
  - id: camera
    path: camera.py
    outputs:
      - image

  - {id: sink, path: sink.py}
  - path: nameless.py
env: {A: 1}
"""
    assert lines_of_nodes(text) == {"camera": (3, 6), "sink": (8, 8)}
    for odd in ("", "nodes: 3", "nodes: [1, [2]]", "nodes: [", "- a", "{[}"):
        assert lines_of_nodes(odd) == {}


def test_recordings_that_begin_at_the_same_time_have_files_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dora.recording.recorder import process as recordings
    from dora.recording.recorder.control import RecorderStatus
    from dora.recording.recorder.options import RecordingOptions

    class Recorder:
        status: RecorderStatus

        def begin(self, socket: str, settings: RecordingOptions) -> None:
            self.status = RecorderStatus(
                pid=1, path=settings.path, started=0, topics=[], messages=0, bytes=0
            )
            assert socket == "socket"

        def wait_until_recording(self) -> None:
            Path(self.status.path).touch(exist_ok=False)

        def wait(self) -> None:
            pass

    monkeypatch.setattr(recordings, "BackgroundRecorder", Recorder)
    monkeypatch.setattr(recordings, "file_name", lambda: "recording_20261125-120000.mcap")
    with ThreadPoolExecutor(3) as threads:
        begun = [threads.submit(recordings.record_in_folder, "socket", str(tmp_path), []) for _ in range(3)]
        names = {os.path.basename(each.result().path) for each in begun}
    assert names == {f"recording_20261125-120000{end}.mcap" for end in ("", "-2", "-3")}


@pytest.mark.parametrize("request_", [StopOperation("busy"), RestartOperation("busy")])
def test_a_page_waits_for_a_node_that_takes_its_time_to_end(
    monkeypatch: pytest.MonkeyPatch, request_: StopOperation | RestartOperation
) -> None:
    class Daemon:
        """Answers at once who it is, and everything else after the longest time that a client waits."""

        def __init__(self, _path: str, timeout: float | None) -> None:
            self.settimeout(timeout)

        def settimeout(self, timeout: float | None) -> None:
            self._timeout = timeout

        def sendall(self, data: bytes) -> None:
            is_quick = data == encode_frame(DescribeDataflow())
            self._answer = Description("d", None, ["busy"]) if is_quick else OperationResult("busy")
            self._is_late = not is_quick

        def recv(self, _: int) -> bytes:
            if self._is_late and self._timeout is not None:
                raise TimeoutError
            return encode_frame(self._answer)

        def close(self) -> None: ...

    monkeypatch.setattr("dora.daemon.client.connect_own", Daemon)
    assert _ask("d", request_) == OperationResult("busy")
