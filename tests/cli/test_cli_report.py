"""The report at the end of a run."""

import pytest

from dora.daemon.report import failure_report, loss_report, network_report
from dora.daemon.supervisor.result import DataflowResult, LinkReport, NetworkReport, NodeFailure


def link(name="cam/image -> plot/image", policy="drop_oldest", *, size=10, sent=100, dropped=0, unread=0):
    return LinkReport(name, policy, size, sent, sent - dropped - unread, dropped, unread)


def test_a_clean_run_has_an_empty_report():
    result = DataflowResult("id", links=(link(),))
    assert failure_report(result, "out/id") == ""
    assert loss_report(result) == ""


def test_the_root_cause_comes_before_the_failures_that_follow():
    result = DataflowResult(
        "some-id",
        failures=(
            NodeFailure(
                "b", "exit", exit_code=3, message="exited with status 3", last_lines=("Boom", "  at x")
            ),
            NodeFailure("c", "cascading"),
            NodeFailure("a", "exit", signal=11, restarts=2, follows="b", remedy="use a spare lens"),
            NodeFailure("d", "cascading"),
        ),
    )
    assert failure_report(result, "out/some-id") == (
        "Dataflow some-id failed:\n\n"
        "First cause: node `b` exited with status 3. Its last lines:\n"
        "    Boom\n"
        "      at x\n\n"
        "Node `a` was killed by SIGSEGV, after the failure of `b`, which feeds it (after 2 restarts)\n"
        "    hint: use a spare lens\n\n"
        "2 others were stopped because of it: `c` and `d`\n\n"
        "Logs: out/some-id"
    )


def test_a_failure_whose_lines_were_shown_takes_one_line_with_file_and_line():
    lines = ("Traceback (most recent call last):", '  File "/lab/op.py", line 3, in f', "KeyError: 'x'")
    failure = NodeFailure(
        "a", "exit", exit_code=1, message="exited with status 1 in operator `b`", last_lines=lines
    )
    report = failure_report(DataflowResult("id", failures=(failure,)), None, "lab.yml", was_shown=bool)
    assert report == (
        "lab.yml failed:\n\nNode `a` exited with status 1 in operator `b`: KeyError: 'x' (/lab/op.py:3)"
    )


def test_cascading_failures_alone_are_not_hidden():
    report = failure_report(DataflowResult("id", failures=(NodeFailure("a", "cascading"),)))
    assert "Node `a` could not start" in report


def test_a_node_without_a_process_is_reported_by_its_message():
    failure = NodeFailure("a", "spawn", message="could not be started: there is no program `x`")
    report = failure_report(DataflowResult("id", failures=(failure,)))
    assert report.endswith("Node `a` could not be started: there is no program `x`")


def test_the_table_has_the_links_that_lost_messages_and_the_key_that_changes_it():
    result = DataflowResult(
        "id",
        links=(
            link("a/out -> b/in", dropped=20, unread=3),
            link("a/out -> fine/in"),
            link("a/out -> slow/in", policy="backpressure", sent=1000, unread=1),
        ),
    )
    lines = loss_report(result).splitlines()
    assert lines[0] == "Messages that were not received:"
    assert [line.split() for line in lines[1:4]] == [
        ["link", "sent", "received", "dropped", "unread"],
        ["a/out", "->", "b/in", "100", "77", "20", "3"],
        ["a/out", "->", "slow/in", "1000", "999", "0", "1"],
    ]
    assert len({len(line) for line in lines[1:4]}) == 1, "columns are aligned"
    hints = "\n".join(lines[4:])
    assert "`b/in` (queue_size: 10)" in hints and "queue_policy: backpressure" in hints
    assert "slow/in" not in hints and "unread:" in hints


def test_unread_messages_alone_need_no_hint_about_queues():
    report = loss_report(DataflowResult("id", links=(link(unread=1),)))
    assert "unread:" in report and "queue_size" not in report


def test_expected_losses_take_one_line_per_link():
    links = (
        link("a/out -> b/op/in", size=1, dropped=18),
        link("a/out -> c/in", size=1, dropped=3, unread=1),
    )
    assert loss_report(DataflowResult("id", links=links)).splitlines() == [
        "a/out -> b/op/in: 82 of 100 messages received, 18 dropped (queue_size: 1)",
        "a/out -> c/in: 96 of 100 messages received, 3 dropped (queue_size: 1), 1 unread",
    ]


def test_a_loss_in_a_queue_that_was_made_longer_is_a_surprise():
    report = loss_report(DataflowResult("id", links=(link("a/out -> b/in", size=100, dropped=18),)))
    assert "Messages that were not received:" in report and "`b/in` (queue_size: 100)" in report


def test_messages_unread_at_a_stop_are_not_reported():
    report = loss_report(DataflowResult("id", links=(link(unread=2),), stopped=True))
    assert report == (
        "cam/image -> plot/image: 98 of 100 messages received, 2 unread when the dataflow was stopped"
    )


def test_messages_unread_by_a_failed_receiver_are_not_reported():
    failed = (NodeFailure("plot", "exit", exit_code=1),)
    links = (link(unread=2), link("cam/image -> plotter/image", unread=1))
    table, lines = loss_report(DataflowResult("id", failures=failed, links=links)).split("\n\n")
    assert lines.endswith("2 unread when `plot` failed")
    assert "plotter/image" in table, "this one has not failed"


def test_drops_of_the_default_queue_stay_a_surprise_when_stopped():
    report = loss_report(DataflowResult("id", links=(link(dropped=1),), stopped=True))
    assert report.startswith("Messages that were not received:")


def test_undeclared_outputs():
    report = loss_report(DataflowResult("id", undeclared={"a": {"imgae": 3, "x": 1}}))
    assert "Node `a` sent 3 messages to `imgae`" in report
    assert "Node `a` sent 1 message to `x`" in report and "name it in its `outputs`" in report


def test_messages_that_qos_left_out_and_missed_deadlines_take_one_line():
    expired = LinkReport(
        "a/x -> b/y", "latest", 1, 100, 60, 10, 0, {"expired": 20, "thinned": 10, "missed": 1}
    )
    late = LinkReport("a/x -> c/y", "drop_oldest", 10, 5, 5, counts={"missed": 3})
    assert loss_report(DataflowResult("id", links=(expired, late, link()))) == (
        "a/x -> b/y: 60 of 100 messages received, 10 dropped (queue_policy: latest), 20 expired, "
        "10 thinned, missed its deadline 1 time\n"
        "a/x -> c/y: missed its deadline 3 times"
    )


def test_a_table_of_losses_has_what_qos_left_out_only_where_there_is_some():
    lost = LinkReport("a/x -> b/y", "drop_oldest", 10, 100, 60, 20, 0, {"thinned": 20})
    table = loss_report(DataflowResult("id", links=(lost,))).splitlines()
    assert table[1].split() == ["link", "sent", "received", "dropped", "thinned", "unread"]
    assert table[2].split() == ["a/x", "->", "b/y", "100", "60", "20", "20", "0"]


@pytest.mark.parametrize(("crowded_ms", "is_named"), [(400, False), (1000, True)])
def test_an_output_that_fills_a_network_for_a_moment_is_not_named(crowded_ms: int, is_named: bool) -> None:
    streams = {"camera/image": {"crowded": crowded_ms, "highest_share": 980}}
    result = DataflowResult("id", networks=(NetworkReport("robot", "desk", {}, streams),))
    assert ("camera/image took up to 98 %" in network_report(result)) is is_named
