"""Nodes of a recording that run alone: the same every time, whatever brings them their events."""

from __future__ import annotations

import fcntl
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from alone_flow import FAILING, PROGRAMS, AloneFolder, recorded_folder
from recorded_files import message_of, write_recording
from waiting import TIMEOUT, wait_until

from dora.errors import DoraError
from dora.recording.alone.expectation import Expectation
from dora.recording.alone.host import Exchanges, RunWatch
from dora.recording.alone.recorded_node import Contents, Step, recorded_node
from dora.recording.alone.run import NodeProgram, run_alone
from dora.recording.alone.shrink import REPEATS, DoesNotComeAgain, Small, recorded_error, reproduce, shrink
from dora.recording.alone.tries import _ORPHAN, _PATIENCE, Tries
from dora.recording.mcap.channels import form_of, prefix_of
from dora.recording.mcap.format import restore
from dora.recording.opening import open_recording
from dora.testing import run_recorded
from dora.wire.decode import decode_arrow, decode_numpy
from dora.wire.event_log import EntryKind, entries, pack_entry
from dora.wire.metadata import decode_metadata

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def recorded() -> Iterator[AloneFolder]:
    with recorded_folder() as made:
        yield made


@pytest.fixture
def folder(recorded: AloneFolder) -> Iterator[AloneFolder]:
    """The same for each test; programs that a test changes are put back."""
    yield recorded
    recorded.restore()


@pytest.mark.slow
@pytest.mark.parametrize("node_id", [*FAILING, "server", "sane"])
def test_a_node_alone_sends_what_it_has_sent_and_fails_where_it_has_failed(
    folder: AloneFolder, node_id: str
) -> None:
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, node_id)
        report = Tries(node, NodeProgram(node)).run()
    assert (report.different, report.missing) == ("", 0)
    assert report.equal == len(node.sent)
    assert (report.failure is not None) == (node_id in FAILING) == node.failed


@pytest.mark.slow
@pytest.mark.parametrize("node_id", FAILING)
def test_a_small_recording_fails_in_100_of_100_runs_plain_and_forked(
    folder: AloneFolder, node_id: str
) -> None:
    output = folder.dora("shrink", "a.mcap", node_id)
    (small,) = (folder.folder / "tests").glob("*.mcap")
    assert "warning" not in output
    with open_recording(str(small)) as recording:
        node = recorded_node(recording, node_id)
        assert len(node.steps) <= 9
        program = NodeProgram(node)
        tries = Tries(node, program)
        forked = {tries.run().failure for _ in range(100)}
        plain = {run_alone(node, program, RunWatch()).failure for _ in range(100)}
    (failure,) = forked
    assert failure is not None
    assert plain == forked
    assert str(failure) in output


@pytest.mark.slow
@pytest.mark.parametrize("node_id", ["caller", "hands", "matcher"])
def test_a_run_leaves_nothing_in_the_process(folder: AloneFolder, node_id: str) -> None:
    import time

    def state() -> tuple[object, ...]:
        return (
            time.time,
            time.sleep,
            sys.argv,
            list(sys.path),
            os.getcwd(),
            dict(os.environ),
            set(sys.modules),
        )

    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, node_id)
        run_alone(node, NodeProgram(node), RunWatch())  # imports packages
        before = state()
        files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
        run_alone(node, NodeProgram(node), RunWatch())
        assert state() == before
        if files:
            assert len(os.listdir("/proc/self/fd")) == files


def test_parts_of_the_events_are_enough(folder: AloneFolder) -> None:
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, "sane")
        report = Tries(node, NodeProgram(node)).run(node.steps[10:20])
    assert (report.failure, report.equal, report.different) == (None, 10, "")


def test_the_last_look_of_a_failed_node_finds_what_it_found_then(folder: AloneFolder) -> None:
    look = pack_entry(EntryKind.NOTHING, 0, 0, 1)
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, "poller")
        steps = node.steps
        while steps[-1].entry.kind == EntryKind.NOTHING:
            steps = steps[:-1]
        (entry,) = entries(memoryview(look))
        tries = Tries(node, NodeProgram(node))
        found = [tries.run([*steps, *more]).different for more in ([], [Step(len(node.steps), entry)])]
    assert sorted(map(bool, found)) == [False, True], "either a message was there, or none was"


def test_a_large_answer_keeps_its_nulls_when_it_gets_the_id_of_this_run(folder: AloneFolder) -> None:
    sent = message_of(pa.array([None, *range(1 << 18)]), {"request_id": "then"}, 1, 5)
    recorded = restore(prefix_of(sent, form_of(sent)) + sent.small_body)
    assert recorded.owner is not None, "it is large"
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        exchanges = Exchanges(recorded_node(recording, "caller"))
    exchanges._new["then"] = "now"
    answer = exchanges.translated(recorded)
    assert decode_metadata(answer.metadata)["request_id"] == "now"
    assert decode_arrow(answer).equals(decode_arrow(recorded))


def test_a_node_that_is_not_there_is_named_with_the_others(folder: AloneFolder) -> None:
    with (
        open_recording(str(folder.folder / "a.mcap")) as recording,
        pytest.raises(DoraError, match="no node `matchr`; did you mean `matcher`"),
    ):
        recorded_node(recording, "matchr")


def test_a_recording_without_the_order_of_events_is_refused(tmp_path: Path) -> None:
    flow = {"nodes": [{"id": "a", "path": "a.py", "outputs": ["x"]}]}
    path = write_recording(tmp_path / "a.mcap", [("a/x", 0.0, np.zeros(1))], dataflow=flow)
    with (
        open_recording(str(path)) as recording,
        pytest.raises(DoraError, match="lacks the order in which nodes took their events"),
    ):
        recorded_node(recording, "a")


def test_messages_beyond_the_memory_are_read_from_a_file_by_forks_too(
    folder: AloneFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Contents.__init__, "__defaults__", (0,))
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, "matcher")
        assert node.contents._file is not None
        tries = Tries(node, NodeProgram(node))
        for report in (tries.run(), tries.run()):
            assert (report.different, report.missing) == ("", 0)
            assert report.failure is not None


def test_a_process_that_a_node_leaves_ends_with_the_try(folder: AloneFolder) -> None:
    folder.program(
        "sane.py",
        """
        import fcntl, os, signal

        held = open("held", "w")
        fcntl.flock(held, fcntl.LOCK_EX)
        if os.fork() == 0:
            signal.alarm(60)
            signal.pause()
        """,
    )
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, "sane")
        report = Tries(node, NodeProgram(node)).run()
    assert report.failure is None, "it does not count as a hang"
    with (folder.folder / "held").open() as held:

        def is_free() -> bool:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_until(is_free, "the process that the node left ends")


def test_a_node_without_events_cannot_run_alone(folder: AloneFolder) -> None:
    with (
        open_recording(str(folder.folder / "a.mcap")) as recording,
        pytest.raises(DoraError, match="has no event that node `source` took"),
    ):
        recorded_node(recording, "source")


# ------------------------------------------------------------------------------ tries


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL: the process was killed by it"),
        ("os.kill(os.getpid(), signal.SIGINT)", "SIGINT: the process was killed by it"),
        ("os._exit(3)", "SystemExit: os._exit(3)"),
    ],
)
def test_a_try_tells_how_the_process_ended_without_a_word(
    folder: AloneFolder, code: str, failure: str
) -> None:
    folder.program("sane.py", f"import os, signal\n{code}\n")
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, "sane")
        report = Tries(node, NodeProgram(node)).run()
    assert str(report.failure) == failure


def test_a_try_ends_itself_if_nobody_is_left_to_end_it(folder: AloneFolder) -> None:
    folder.program("sane.py", "import signal\nraise SystemExit(signal.alarm(0))\n")
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, "sane")
        report = Tries(node, NodeProgram(node)).run()
    assert report.failure is not None, "an alarm is set"
    assert int(_PATIENCE) < int(report.failure.message) <= int(_PATIENCE) + _ORPHAN


def test_a_try_that_hangs_is_given_up_sooner_after_a_short_first_one(
    folder: AloneFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    folder.program(
        "sane.py",
        """
        import colorsys, os, signal

        if os.path.exists("tests"):
            signal.pause()
        os.mkdir("tests")
        """,
    )
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, "sane")
        tries = Tries(node, NodeProgram(node))
        monkeypatch.setattr("dora.recording.alone.tries._PATIENCE", 1.5)
        monkeypatch.setattr("dora.recording.alone.tries._TIMES", 0)
        files = len(os.listdir("/dev/fd"))
        failures = [tries.run().failure, tries.run().failure]
        assert len(os.listdir("/dev/fd")) == files
    assert list(map(str, failures)) == ["None", "Hang: it does not end within 0 s"]
    assert tries.count == 2
    assert "colorsys" in sys.modules, "further tries need not import it"


def test_the_first_message_that_differs_is_named(folder: AloneFolder) -> None:
    folder.program("sane.py", PROGRAMS["sane.py"].replace("* 10", "* 11"))
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, "sane")
        report = Tries(node, NodeProgram(node)).run()
        _, second, *_ = sorted(node.sent_at)
    assert report.equal == 1, "of the number 0"
    assert report.different == f"the first other message on `box` comes after event {second}"


# ------------------------------------------------------------------------------ shrinking


def test_without_time_all_events_up_to_the_failure_are_left(folder: AloneFolder) -> None:
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        found = reproduce(recording, "matcher")
        small = shrink(found, seconds=0)
    assert small.steps == found.node.steps[: len(small.steps)]
    assert small.steps[-1].number == found.report.step
    assert (small.minimal, small.tries, small.fails) == (False, 1 + REPEATS, REPEATS)


def failing(folder: AloneFolder, code: str) -> tuple[list[list[float]], Small]:
    """Shrink a node that runs ``code`` for each of its messages; return the values that are left."""
    begin = "from dora import Node\nseen = []\nfor event in Node():\n    if event['type'] == 'INPUT':\n"
    number = "        number, half = event['value'].to_pylist()\n        seen.append(number)\n"
    folder.program("sane.py", begin + number + textwrap.indent(textwrap.dedent(code), " " * 8))
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        small = shrink(reproduce(recording, "sane"), seconds=TIMEOUT)
        left = []
        for key in small.node.keys(small.steps):
            message = small.changed.get(key) or small.node.message(key)
            assert message is not None
            left.append(decode_numpy(message).tolist())
    assert (small.minimal, small.fails) == (True, REPEATS)
    return left, small


def test_events_are_left_out_though_the_text_of_the_error_changes(folder: AloneFolder) -> None:
    left, _ = failing(folder, "if number == 21: raise ValueError('first' if len(seen) == 1 else 'later')")
    assert left == [[21.0, 0.0]], "simpler values are compared with the new text"


def test_values_that_would_change_the_text_of_the_error_stay(folder: AloneFolder) -> None:
    left, _ = failing(
        folder, "if number == 21: raise ValueError(f'{number}, and ' + str(half or 'nothing'))"
    )
    assert left == [[21.0, 52.0]]


@pytest.mark.slow
def test_simpler_values_of_one_message_go_together_with_those_of_the_next(folder: AloneFolder) -> None:
    left, small = failing(
        folder,
        """
        total = half if len(seen) == 1 else total + half
        if {20, 21} <= set(seen) and total > 40: raise ValueError
        """,
    )
    assert left == [[20.0, 0.0], [21.0, 52.0]]
    assert len(small.changed) == 2


def test_only_the_last_processes_of_a_node_are_tried(
    folder: AloneFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        assert reproduce(recording, "restarter", attempts=1).failure.message == "once"
        monkeypatch.setattr("dora.recording.alone.shrink._MOST_PROCESSES", 1)
        with pytest.raises(DoesNotComeAgain):
            reproduce(recording, "restarter", attempts=1)


def test_a_failure_before_the_first_message_is_no_wrong_output(folder: AloneFolder) -> None:
    folder.program("sane.py", "raise ValueError('at once')\n")
    with (
        open_recording(str(folder.folder / "a.mcap")) as recording,
        pytest.raises(
            DoesNotComeAgain, match=r"in 2 tries, the node failed before, with ValueError: at once"
        ),
    ):
        reproduce(recording, "sane", expectation=Expectation("output.box[0] < 200"), attempts=2)


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["Traceback (most recent call last):\n  File 'a'\nValueError: forty", "bye"], "ValueError: forty"),
        (["Traceback", "  File 'a'", "", "KeyError: 1", "again", "Traceback", "OSError"], "OSError"),
        (["no error"], ""),
    ],
)
def test_the_error_that_a_node_logged_ends_its_last_traceback(
    folder: AloneFolder, lines: list[str], error: str
) -> None:
    with open_recording(str(folder.folder / "a.mcap")) as recording:
        node = recorded_node(recording, "sane")
    node.last_lines[:] = lines
    assert recorded_error(node) == error


# ------------------------------------------------------------------------------ in a test


@pytest.mark.parametrize("status", ["", "0", "None", "'too bad'"])
def test_only_a_program_that_exits_with_another_status_than_0_fails_its_test(
    folder: AloneFolder, status: str
) -> None:
    folder.program("sane.py", PROGRAMS["sane.py"] + f"\n        raise SystemExit({status})\n")
    recording = str(folder.folder / "a.mcap")
    if status.startswith("'"):
        with pytest.raises(AssertionError, match=f"node `sane` exits with {status}"):
            run_recorded(recording, "sane")
    else:
        assert len(run_recorded(recording, "sane")["box"]) == 60
