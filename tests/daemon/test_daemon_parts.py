"""Lines, the loop, the excerpt of an error, the board seen by the daemon."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from waiting import TIMEOUT, alive

from dora.daemon.accounting import GATEWAY, Accounting
from dora.daemon.event_loop import READ, Loop
from dora.daemon.node_processes import NodeProcesses
from dora.daemon.options import LocalRunOptions
from dora.daemon.processes import process
from dora.daemon.processes.child import LineSplitter
from dora.daemon.processes.launch_spec import CannotSpawn
from dora.daemon.processes.process import PlainProcess
from dora.daemon.report import loss_report
from dora.daemon.supervisor import events as on
from dora.daemon.supervisor.result import DataflowResult
from dora.daemon.supervisor.status import PeerStatus
from dora.daemon.template.client import fork_request
from dora.dataflow.layout import Placement, RunContext
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec
from dora.dataflow.plan import plan
from dora.transport import sealing
from dora.transport.board import (
    BEGUN,
    CLOSED,
    CONNECTED,
    CONTROL,
    DROPPED,
    FIRST,
    FORWARDED,
    RECEIVED,
    RECORDED,
    SENT,
    STATE,
    STOPPED,
    UNCONNECTED,
    Board,
)
from dora.transport.doorbell import Doorbell
from dora.wire.counters import FLUSHED, RESTARTS, SILENT, UNSENT
from dora.wire.excerpt import MAX_LINES, error_line, failure_lines
from dora.wire.node_config import RemoteConfig, TlsFiles
from dora.wire.node_protocol import ReloadFrame, StopFrame

# ----------------------------------------------------------------------------- lines


def test_lines_are_complete_however_the_bytes_arrive() -> None:
    text = "ä\r\n\nlast\n".encode()
    for size in range(1, len(text)):
        lines = LineSplitter()
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert [line for piece in pieces for line in lines.feed(piece)] == ["ä", "", "last"]
        assert lines.finish() == []


def test_long_lines_are_split_and_bad_bytes_replaced() -> None:
    lines = LineSplitter(max_line=4)
    assert lines.feed(b"123456789") == ["1234", "5678"]
    assert lines.feed(b"0\nabcdef\nfull\n\xff") == ["90", "abcd", "ef", "full"]
    assert lines.finish() == ["\ufffd"]


# ----------------------------------------------------------------------------- excerpt


def test_the_last_traceback_is_kept_with_its_causes() -> None:
    head = "Traceback (most recent call last):"
    first = [head, "  a", "ValueError: 1"]
    link = ["", "During handling of the above exception, another exception occurred:", ""]
    second = [head, "  b", "KeyError: 2"]
    assert failure_lines([*first, "later", *second]) == tuple(second)
    assert failure_lines(["x", *first, *link, *second]) == (*first, *link, *second)
    cause = ["", "The above exception was the direct cause of the following exception:", ""]
    assert failure_lines(["x", *first, *cause, *second]) == (*first, *cause, *second)
    third = [head, "  c", "OSError: 3"]
    assert failure_lines([*first, *link, *second, "later", *third]) == tuple(third)


def test_an_error_is_named_with_the_last_place_in_the_users_code() -> None:
    lines = [
        "Traceback (most recent call last):",
        '  File "/home/me/node.py", line 9, in <module>',
        "    main()",
        '  File "/home/me/arm.py", line 3, in main',
        "    np.stack([])",
        '  File "/venv/lib/python3.11/site-packages/numpy/shape.py", line 7, in stack',
        "    raise ValueError('need an array')",
        "ValueError: need an array",
        "",
    ]
    assert error_line(lines) == "ValueError: need an array (/home/me/arm.py:3)"
    library = [line for line in lines if "/home/me" not in line]
    assert error_line(library).endswith("array (/venv/lib/python3.11/site-packages/numpy/shape.py:7)")
    assert error_line(["", "thread panicked at no.rs", "  note"]) == "thread panicked at no.rs"
    assert error_line([]) == ""


def test_errors_and_tails() -> None:
    assert failure_lines(["a", "fatal Error: no", "b"]) == ("fatal Error: no", "b")
    assert failure_lines(["Error: 1", "a", "Error: 2", "b"]) == ("Error: 2", "b")
    many = ["Error: no", *[str(number) for number in range(100)]]
    assert failure_lines(many) == tuple(many[:MAX_LINES])
    assert failure_lines([str(number) for number in range(30)]) == tuple(str(n) for n in range(20, 30))
    assert failure_lines([]) == ()
    syntax = [
        '  File "op.py", line 1',
        "    class Operator",
        "                  ^",
        "SyntaxError: expected ':'",
    ]
    assert failure_lines(["starting", *syntax]) == tuple(syntax)
    endless = ["Traceback (most recent call last):", *["  deeper"] * 500, "RecursionError: x"]
    excerpt = failure_lines(endless)
    assert len(excerpt) < 70
    assert (excerpt[0], excerpt[-1]) == (endless[0], endless[-1])


# ----------------------------------------------------------------------------- loop


def test_the_loop_serves_descriptors_timers_and_other_threads() -> None:
    loop = Loop()
    seen: list[str] = []
    read, write = os.pipe()
    loop.watch(read, READ, lambda _: seen.append(os.read(read, 10).decode()))
    os.write(write, b"data")
    loop.run_once(None)
    loop.call_at(time.monotonic() - 1, lambda: seen.append("late"))
    loop.call_at(time.monotonic() - 2, lambda: seen.append("later")).cancel()
    loop.run_once(None)
    thread = threading.Thread(target=loop.call_threadsafe, args=(lambda: seen.append("thread"),))
    thread.start()
    loop.run_once(None)
    thread.join()
    loop.run_once(time.monotonic() - 1)  # nothing to do: returns at once
    loop.unwatch(read)
    loop.unwatch(read)
    assert seen == ["data", "late", "thread"]
    loop.close()
    loop.call_threadsafe(lambda: None)  # after the end: no harm
    os.close(read)
    os.close(write)


def test_a_timer_of_a_month_ends_no_loop() -> None:
    loop = Loop()
    loop.call_later(30 * 86_400, lambda: None)
    seen: list[str] = []
    loop.call_threadsafe(lambda: seen.append("awake"))
    loop.run_once(None)
    assert seen == ["awake"]
    loop.close()


def test_a_descriptor_closed_by_an_earlier_callback_of_the_round_is_not_served() -> None:
    loop = Loop()
    pipes = [os.pipe(), os.pipe()]
    served: list[int] = []

    def serve(own: int) -> None:
        served.append(own)
        for read, _ in pipes:
            loop.unwatch(read)

    for index, (read, write) in enumerate(pipes):
        loop.watch(read, READ, lambda _, index=index: serve(index))  # type: ignore[misc]
        os.write(write, b"x")
    loop.run_once(None)
    assert len(served) == 1
    loop.close()
    for pair in pipes:
        for fd in pair:
            os.close(fd)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("no-such-program", "there is no program `no-such-program` on PATH"),
        ("./bad", "neither a program of this machine nor a script"),
        ("./lost", "the interpreter named in the first line of"),
    ],
)
def test_a_process_that_cannot_be_started_is_reported_with_the_reason(
    command: str, sentence: str, tmp_path: Path
) -> None:
    for name, text in {"bad": "\0\0", "lost": "#!/no/such/interpreter\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    command = command.replace("./", f"{tmp_path}/")
    with pytest.raises(CannotSpawn, match=sentence):
        PlainProcess([command], env={"PATH": "/bin"}, cwd=str(tmp_path))


@pytest.mark.processes
def test_the_daemon_waits_for_a_process_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "KILL_TIMEOUT", 0.01)
    with subprocess.Popen(["/bin/sh", "-c", "read x"], stdin=subprocess.PIPE) as waiting:
        process.reap(waiting)
        assert waiting.poll() is None


@pytest.mark.processes
def test_an_abandoned_process_that_ends_later_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import time\ntime.sleep(1000)\n")
    dataflow = Dataflow((NodeSpec("a", path="a.py"),), str(tmp_path))
    loop = Loop()
    started: list[int] = []
    ended: list[tuple[str, int | None, int | None]] = []

    def feed(event: on.Event) -> None:
        assert isinstance(event, on.Spawned)
        started.append(event.pid)

    stand_in: Any = SimpleNamespace(dataflow_id="x", socket=f"{tmp_path}/s", run_id="0" * 12)
    watchdog: Any = SimpleNamespace(register=lambda _: None)
    processes = NodeProcesses(
        loop,
        stand_in,
        LocalRunOptions(),
        feed=feed,
        on_line=lambda *_: None,
        on_end=lambda *end: ended.append(end),
        template=None,
        watchdog=watchdog,
        on_warning=lambda _: None,
        is_encrypted=False,
    )
    processes.spawn(dataflow, "a", 0)
    processes.spawn(dataflow, "a", 1)
    abandoned, present = started
    deadline = time.monotonic() + TIMEOUT
    while len(list(processes)) > 1:
        assert time.monotonic() < deadline
        loop.run_once(time.monotonic() + 0.05)
    assert not ended
    assert [child.pid for child in processes] == [present]
    assert not alive(abandoned)
    processes.kill_all()
    loop.close()


# ----------------------------------------------------------------------------- board


@pytest.fixture
def accounting(tmp_path: Path) -> Accounting:
    return make_accounting(tmp_path, "backpressure")


def make_accounting(tmp_path: Path, policy: Literal["drop_oldest", "backpressure"]) -> Accounting:
    flow = Dataflow(
        (
            NodeSpec("a", path="a.py", outputs=("x",)),
            NodeSpec("b", path="b.py", inputs=(InputSpec("x", NodeOutput("a", "x"), queue_policy=policy),)),
        ),
        "/",
    )
    layout = plan(flow, RunContext("id", str(tmp_path), "p_", str(tmp_path / "board")))
    for path in layout.bells:
        Doorbell.make(path)
    return Accounting(Board.create(str(tmp_path / "board"), layout.lines), layout)


def rings(bell: Doorbell) -> bool:
    return bool(select.select([bell.fd], [], [], 0)[0])


def test_a_notification_counts_and_rings(accounting: Accounting, tmp_path: Path) -> None:
    bell = Doorbell(f"{tmp_path}/bell-1")
    accounting.notify("b")
    slot = accounting._plan.configs["b"].node_slot
    assert accounting.board.get(slot, CONTROL) == 1
    assert rings(bell)
    bell.close()
    accounting.close()


def test_a_frame_for_a_node_that_was_removed_rings_nothing(accounting: Accounting, tmp_path: Path) -> None:
    context = RunContext("id", str(tmp_path), "p_", str(tmp_path / "board"))
    accounting.change(plan(Dataflow((NodeSpec("a", path="a.py"),), "/"), context, accounting._plan))
    accounting.notify("b")
    accounting.close()


def test_removed_links_whose_counts_are_not_kept_are_in_the_report(
    accounting: Accounting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.daemon.accounting._GONE_LINKS", 2)
    context = RunContext("id", str(tmp_path), "p_", str(tmp_path / "board"))
    both = Dataflow(
        (
            NodeSpec("a", path="a.py", outputs=("x",)),
            NodeSpec("b", path="b.py", inputs=(InputSpec("x", NodeOutput("a", "x")),)),
        ),
        "/",
    )
    for _ in range(3):
        accounting.change(plan(Dataflow(both.nodes[:1], "/"), context, accounting._plan))
        accounting.change(plan(both, context, accounting._plan))
    assert accounting.uncounted_links == 1
    text = loss_report(DataflowResult("id", uncounted_links=1))
    assert text == "The counts of 1 removed link are not kept, and are in no line above."
    accounting.close()


def test_closing_a_dead_receivers_links_wakes_its_senders(accounting: Accounting) -> None:
    (link,) = accounting._plan.links
    credit = Doorbell(accounting._plan.configs["a"].outputs[0].credit_bell)
    accounting.close_receivers("b")
    assert not rings(credit)  # it never connected: nobody waits for it
    accounting.board.set(link.slot, STATE, CONNECTED)
    accounting.board.set(link.slot, SILENT.word, 1)
    accounting.close_receivers("b")
    assert accounting.board.get(link.slot, STATE) == CLOSED
    assert accounting.board.get(link.slot, SILENT.word) == 0
    assert rings(credit)
    credit.close()
    accounting.close()


def test_a_stop_releases_the_sends_of_a_node_until_its_next_process(accounting: Accounting) -> None:
    config = accounting._plan.configs["a"]
    credit = Doorbell(config.outputs[0].credit_bell)
    accounting.clock = lambda: 1_000_000_000
    accounting.release_sends("a", ReloadFrame(), lambda _: 0.0)
    assert accounting.board.get(config.node_slot, STOPPED) == 0
    accounting.release_sends("a", StopFrame(), lambda _: 2.0)
    assert accounting.board.get(config.node_slot, STOPPED) == 3_000_000_000
    assert rings(credit)
    accounting.release_sends("a", StopFrame(), lambda _: 0.0)  # the whole dataflow
    assert accounting.board.get(config.node_slot, STOPPED) == 1_000_000_000
    accounting.release_sends("a", StopFrame(), lambda _: 5.0)
    assert accounting.board.get(config.node_slot, STOPPED) == 1_000_000_000
    accounting.reopen_receivers("a")
    assert accounting.board.get(config.node_slot, STOPPED) == 0
    credit.close()
    accounting.close()


SPREAD = Dataflow(
    (
        NodeSpec("a", path="a.py", outputs=("x",)),
        NodeSpec("b", path="b.py", inputs=(InputSpec("x", NodeOutput("a", "x")),), outputs=("y", "z")),
        NodeSpec("c", path="c.py", inputs=(InputSpec("y", NodeOutput("b", "y")),)),
        NodeSpec("d", path="d.py", inputs=(InputSpec("y", NodeOutput("b", "y")),)),
    ),
    "/",
)


def spread(tmp_path: Path, machine: str) -> Accounting:
    """Return the accounting of `left`, with `a` and `c`, or of `right`, with `b`."""
    placement = Placement(machine, {"a": "left", "b": "right", "c": "left", "d": "right"})
    board = str(tmp_path / machine)
    layout = plan(SPREAD, RunContext("id", str(tmp_path), "p_", board, placement=placement))
    return Accounting(Board.create(board, layout.lines), layout)


def test_what_the_gateway_passes_on_does_not_hide_what_an_ended_node_has_sent(tmp_path: Path) -> None:
    right = spread(tmp_path, "right")
    (link,) = (each for each in right._plan.links if str(each) == "a/x -> b/x")
    right.board.set(link.slot, STATE, CONNECTED)
    right.board.set(link.slot, RECEIVED, 20)
    right.set_sent("a", {"x": 100})
    right.board.set(link.output_slot, SENT, 21)  # as the gateway does with the next message
    (report,) = (each for each in right.report({}, {}) if each.link == "a/x -> b/x")
    assert (report.sent, report.received, report.dropped + report.unread) == (100, 20, 80)


@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_node_knows_how_to_encrypt_before_it_sends(tmp_path: Path, is_encrypted: bool) -> None:
    tls = TlsFiles("ca.pem", "left.pem", "left.pem") if is_encrypted else None
    remote = RemoteConfig("10.0.0.1:6014", {"right": "10.0.0.2:6014"}, "secret", tls)
    placement = Placement("left", {"a": "left", "b": "right", "c": "left", "d": "right"}, remote=remote)
    layout = plan(SPREAD, RunContext("id", str(tmp_path), "p_", "board", placement=placement))
    (link,) = layout.configs["a"].outputs[0].links
    assert link.is_encrypted == placement.is_encrypted == is_encrypted
    request = fork_request(SPREAD.node("a"), ["a.py"], {}, "/", is_encrypted=is_encrypted)
    assert (sealing.__name__ in request.modules) == is_encrypted


def test_a_part_that_is_started_again_goes_on_counting(tmp_path: Path) -> None:
    left, right = spread(tmp_path, "left"), spread(tmp_path, "right")
    links = {str(link): link for link in left._plan.links}
    left.board.set(links["b/y -> c/y"].output_slot, SENT, 70)
    left.board.set(links["a/x -> b/x"].slot, STATE, CONNECTED)
    left.board.set(links["a/x -> b/x"].slot, RECEIVED, 50)
    part = left.part_of("right", PeerStatus({}))
    assert (part.sent, part.taken) == ({"b/y": 70}, {"b/x": 50})
    right.resume(part)
    links = {str(link): link for link in right._plan.links}
    assert right.sent("b") == {"y": 70, "z": 0}
    remote, inside = links["a/x -> b/x"], links["b/y -> d/y"]
    assert [right.board.get(remote.slot, word) for word in (FIRST, STATE)] == [50, CLOSED]
    assert [right.board.get(inside.slot, word) for word in (FIRST, STATE)] == [70, UNCONNECTED]
    reports = {report.link: report for report in right.report({}, {})}
    assert (reports["a/x -> b/x"].sent, reports["b/y -> d/y"].sent) == (0, 0)
    left.close()
    right.close()


def test_a_part_that_is_started_again_uses_no_number_that_was_given_up(tmp_path: Path) -> None:
    left = spread(tmp_path, "left")
    (link,) = (each for each in left._plan.links if str(each) == "b/y -> c/y")
    left.board.set(link.output_slot, SENT, 70)
    left.board.set(link.output_slot, BEGUN, 80)  # of the ten before it, nothing will come
    assert left.part_of("right", PeerStatus({})).sent == {"b/y": 80}
    left.close()


def test_counters_of_removed_nodes_are_in_the_report(accounting: Accounting, tmp_path: Path) -> None:
    both = accounting._plan
    context = RunContext("id", str(tmp_path), "p_", str(tmp_path / "board"))
    accounting.count("b", RESTARTS)
    only_a = plan(Dataflow((NodeSpec("a", path="a.py", outputs=("x",)),), "/"), context, both)
    accounting.change(only_a)
    accounting.count("b", RESTARTS)  # its process still ends
    assert accounting.report_nodes() == {"b": {"restarts": 2}}
    again = plan(Dataflow((NodeSpec("a", path="a.py"), NodeSpec("b", path="b.py")), "/"), context, only_a)
    accounting.change(again)
    accounting.count("b", RESTARTS)
    assert accounting.node_counts("b") == {"restarts": 1}
    assert accounting.report_nodes() == {"b": {"restarts": 3}}
    accounting.close()


def test_unsent_messages_are_reported_apart(accounting: Accounting) -> None:
    (link,) = accounting._plan.links
    accounting.board.set(link.slot, STATE, CONNECTED)
    accounting.board.set(link.output_slot, SENT, 5)
    accounting.board.set(link.slot, RECEIVED, 5)
    accounting.board.set(link.slot, UNSENT.word, 2)
    (report,) = accounting.report({}, {})
    assert (report.sent, report.received, report.unread, report.count(UNSENT)) == (5, 5, 0, 2)
    accounting.close()


def test_the_report_adds_up_and_leaves_out_messages_without_a_receiver(accounting: Accounting) -> None:
    (link,) = accounting._plan.links
    board = accounting.board
    assert accounting.report({}, {})[0].sent == 0
    board.set(link.output_slot, SENT, 100)
    assert accounting.report({}, {})[0].sent == 0  # not connected yet
    board.set(link.slot, STATE, CONNECTED)
    board.set(link.slot, FIRST, 20)
    board.set(link.slot, RECEIVED, 50)
    board.set(link.slot, DROPPED, 10)
    assert not accounting.drained("a")
    accounting.close_receivers("b")
    assert accounting.drained("a")
    board.set(link.output_slot, SENT, 1000)  # after the receiver's end
    (report,) = accounting.report({}, {})
    assert (report.sent, report.received, report.dropped, report.unread) == (80, 50, 10, 20)
    accounting.close()


def test_only_what_was_sent_before_the_first_end_of_a_receiver_is_counted(accounting: Accounting) -> None:
    (link,) = accounting._plan.links
    accounting.board.set(link.slot, STATE, CONNECTED)
    accounting.board.set(link.output_slot, SENT, 5)
    accounting.close_receivers("b")
    accounting.board.set(link.output_slot, SENT, 9)
    accounting.close_receivers("b")  # as when a node closes, and ends later
    assert accounting.report({}, {})[0].sent == 5
    accounting.close()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_messages_count_again_once_a_receiver_is_back(accounting: Accounting, elsewhere: bool) -> None:
    (link,) = accounting._plan.links
    accounting.board.set(link.slot, STATE, CONNECTED)
    accounting.board.set(link.output_slot, SENT, 5)
    accounting.close_receivers("b")
    if elsewhere:  # then its process does not connect to this board
        accounting.open_receivers("b")
    else:
        accounting.reopen_receivers("b")
        accounting.board.set(link.slot, STATE, CONNECTED)
    accounting.board.set(link.output_slot, SENT, 9)
    assert accounting.board.get(link.slot, STATE) == CONNECTED
    assert accounting.report({}, {})[0].sent == 9
    accounting.close()


def test_a_link_without_a_receiver_is_not_opened(accounting: Accounting) -> None:
    (link,) = accounting._plan.links
    accounting.open_receivers("b")
    assert accounting.board.get(link.slot, STATE) == UNCONNECTED
    accounting.close()


def test_a_removed_link_is_read_to_its_end_or_to_that_of_its_receiver(
    accounting: Accounting, tmp_path: Path
) -> None:
    (link,) = accounting._plan.links
    accounting.board.set(link.slot, STATE, CONNECTED)
    accounting.board.set(link.output_slot, SENT, 5)
    context = RunContext("id", str(tmp_path), "p_", str(tmp_path / "board"))
    unlinked = Dataflow((NodeSpec("a", path="a.py", outputs=("x",)), NodeSpec("b", path="b.py")), "/")
    accounting.change(plan(unlinked, context, accounting._plan))
    assert not accounting.drained("a")
    accounting.close_receivers("b")
    assert accounting.drained("a")
    assert accounting.board.get(link.slot, STATE) == CLOSED
    accounting.close()


def test_the_gateway_reads_what_goes_to_other_machines_and_is_read_here(tmp_path: Path) -> None:
    left = spread(tmp_path, "left")
    links = {str(link): link for link in left._plan.links}
    there, here = links["a/x -> b/x"], links["b/y -> c/y"]
    for link in (there, here):
        left.board.set(link.slot, STATE, CONNECTED)
        left.board.set(link.output_slot, SENT, 5)
    assert not left.drained("a")
    left.board.set(there.output_slot, FORWARDED, 5)
    assert left.drained("a")
    assert left.drained(GATEWAY)  # nothing has arrived
    left.board.set(here.output_slot, FORWARDED, 5)
    assert not left.drained(GATEWAY)
    left.board.set(here.slot, RECEIVED, 3)
    left.board.set(here.slot, DROPPED, 2)
    assert left.drained(GATEWAY)
    left.close()


def test_an_output_is_recorded_once_all_that_was_sent_is(accounting: Accounting) -> None:
    (link,) = accounting._plan.links
    slot = link.output_slot
    accounting.board.set(slot, SENT, 5)
    assert accounting.recorded("a", ())  # nobody records it
    accounting.board.set(slot, RECORDED, 4)
    assert not accounting.recorded("a", {slot})
    accounting.board.set(slot, RECORDED, 5)
    assert accounting.recorded("a", {slot})
    accounting.close()


def test_a_report_of_counts_of_different_moments_adds_up(accounting: Accounting) -> None:
    (link,) = accounting._plan.links
    accounting.board.set(link.slot, STATE, CONNECTED)
    accounting.board.set(link.output_slot, SENT, 5)
    accounting.close_receivers("b")
    accounting.board.set(link.slot, RECEIVED, 4)
    accounting.board.set(link.slot, DROPPED, 3)
    accounting.board.set(link.slot, FLUSHED.word, 6)  # of the dropped ones
    (report,) = accounting.report({}, {})
    assert (report.sent, report.received, report.dropped, report.unread) == (7, 4, 3, 0)
    assert report.count(FLUSHED) == 3
    accounting.close()


def test_a_queue_counts_messages_beyond_its_size_as_dropped(tmp_path: Path) -> None:
    """What a receiver that ended early left behind, but for the last of it, had been pushed out."""
    accounting = make_accounting(tmp_path, "drop_oldest")
    (link,) = accounting._plan.links
    accounting.board.set(link.slot, STATE, CONNECTED)
    accounting.board.set(link.output_slot, SENT, 100)
    accounting.board.set(link.slot, RECEIVED, 1)
    (report,) = accounting.report({}, {})
    assert (report.sent, report.received, report.dropped, report.unread) == (100, 1, 89, 10)
    accounting.close()
