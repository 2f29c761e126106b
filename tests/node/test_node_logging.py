"""Log entries of nodes, and the bridge from the standard ``logging`` module."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fake_daemon import FakeDaemon, StartFlow, finish
from flows import node

from dora import Node
from dora.daemon.logs.parse import parse_line
from dora.node.log import MAX_FIELDS, LogBridge, log_line


@pytest.fixture
def daemon(start_flow: StartFlow) -> FakeDaemon:
    return start_flow(node("a", outputs="out"))


def entries(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def run(daemon: FakeDaemon, script: str) -> list[dict[str, Any]]:
    """Run a script as node ``a``; return its log entries."""
    status, out, err = finish(daemon.start_process("a", script))
    assert status == 0, err
    assert err == ""
    return entries(out)


# ------------------------------------------------------------------ Node.log


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("error", "error"),
        ("warn", "warn"),
        ("warning", "warn"),
        ("INFO", "info"),
        ("Debug", "debug"),
        ("trace", "trace"),
        ("whatever", "info"),
    ],
)
def test_levels(level: str, expected: str) -> None:
    assert json.loads(log_line("a", level, "text"))["level"] == expected


def test_an_entry_is_one_line_of_json(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    sender = daemon.node("a")
    sender.log("info", "two\nlines, größer", target="my.part", fields={"a": "1"})
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    (entry,) = entries(out)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "level": "info",
        "node_id": "a",
        "message": "two\nlines, größer",
        "target": "my.part",
        "fields": {"a": "1"},
    }


def test_shorthands(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    sender = daemon.node("a")
    for level in ("error", "warn", "info", "debug", "trace"):
        getattr(sender, f"log_{level}")(level)
    written = entries(capsys.readouterr().out)
    assert [(e["level"], e["message"]) for e in written] == [
        (level, level) for level in ("error", "warn", "info", "debug", "trace")
    ]


def test_a_message_is_a_string(daemon: FakeDaemon) -> None:
    with pytest.raises(TypeError, match="a log message is a string, not int"):
        daemon.node("a").log_info(5)  # type: ignore[arg-type]


def test_huge_fields_are_dropped() -> None:
    fields = json.loads(log_line("a", "info", "x", fields={"big": "x" * MAX_FIELDS}))["fields"]
    assert fields == {"fields_dropped": "true"}


def test_the_daemon_understands_the_line() -> None:
    line = log_line("a", "warn", "careful", "my.part", {"k": "v"}, {"file": "f.py", "line": 3})
    parsed = parse_line("a", "stdout", line, 0)
    assert (parsed.level, parsed.message, parsed.target) == ("warn", "careful", "my.part")
    assert parsed.fields == {"k": "v"}
    assert (parsed.file, parsed.line) == ("f.py", 3)


# ------------------------------------------------------------------ the bridge


@pytest.mark.processes
def test_records_keep_their_level_logger_and_place(daemon: FakeDaemon) -> None:
    written = run(
        daemon,
        """
        import logging
        from dora import Node
        node = Node()
        log = logging.getLogger("my.part")
        log.error("broken: %s", 5)
        log.warning("careful")
        log.info("fine")
        log.debug("not shown")
        logging.info("from the root")
        """,
    )
    assert [(e["level"], e["message"], e["target"]) for e in written] == [
        ("error", "broken: 5", "my.part"),
        ("warn", "careful", "my.part"),
        ("info", "fine", "my.part"),
        ("info", "from the root", "root"),
    ]
    assert all(e["node_id"] == "a" for e in written)
    assert written[0]["line"] == 6
    assert written[0]["file"] == "<string>"


@pytest.mark.processes
def test_exceptions_come_with_their_traceback(daemon: FakeDaemon) -> None:
    (entry,) = run(
        daemon,
        """
        import logging
        from dora import Node
        node = Node()
        try:
            1 / 0
        except ZeroDivisionError:
            logging.exception("failed")
        """,
    )
    assert entry["level"] == "error"
    assert entry["message"].startswith("failed\nTraceback (most recent call last):")
    assert entry["message"].endswith("ZeroDivisionError: division by zero")


@pytest.mark.processes
def test_basic_config_sets_the_level(daemon: FakeDaemon) -> None:
    written = run(
        daemon,
        """
        import logging
        from dora import Node
        node = Node()
        logging.basicConfig(level=logging.DEBUG, format="%(message)s")
        logging.debug("shown")
        logging.log(5, "not shown")
        logging.basicConfig(level="WARNING")
        logging.info("not shown")
        logging.warning("shown too")
        """,
    )
    assert [(e["level"], e["message"]) for e in written] == [("debug", "shown"), ("warn", "shown too")]


@pytest.mark.processes
def test_basic_config_with_a_stream_replaces_the_bridge(daemon: FakeDaemon) -> None:
    status, out, err = finish(
        daemon.start_process(
            "a",
            """
            import logging, sys
            from dora import Node
            node = Node()
            logging.basicConfig(stream=sys.stderr, format="mine: %(message)s", level="INFO")
            logging.info("once")
            """,
        )
    )
    assert (status, out, err) == (0, "", "mine: once\n")


@pytest.mark.processes
def test_a_root_logger_that_the_program_configured_stays_as_it_is(daemon: FakeDaemon) -> None:
    status, out, err = finish(
        daemon.start_process(
            "a",
            """
            import logging
            logging.basicConfig(format="mine: %(message)s", level="WARNING")
            from dora import Node
            node = Node()
            logging.warning("once")
            logging.info("not shown")
            """,
        )
    )
    assert (status, out, err) == (0, "", "mine: once\n")


@pytest.mark.processes
def test_a_level_that_the_program_has_set_stays(daemon: FakeDaemon) -> None:
    written = run(
        daemon,
        """
        import logging
        logging.getLogger().setLevel(logging.ERROR)
        from dora import Node
        node = Node()
        logging.warning("not shown")
        logging.error("shown")
        """,
    )
    assert [e["message"] for e in written] == ["shown"]


@pytest.mark.processes
def test_two_nodes_in_a_process_do_not_log_twice(daemon: FakeDaemon) -> None:
    written = run(
        daemon,
        """
        import logging
        from dora import Node
        node = Node()
        again = Node()
        logging.info("once")
        """,
    )
    warning, entry = [e["message"] for e in written]
    assert "called again" in warning
    assert entry == "once"


def test_a_record_that_cannot_be_formatted_does_not_raise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = logging.LogRecord("x", logging.INFO, "f.py", 1, "%d", ("no number",), None)
    LogBridge("a").emit(record)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Logging error" in captured.err


@pytest.mark.processes
def test_threads_do_not_mix_their_lines(daemon: FakeDaemon) -> None:
    written = run(
        daemon,
        """
        import logging, threading
        from dora import Node
        node = Node()
        def work(name):
            for number in range(100):
                logging.info("%s", name * 50)
                node.log_info(name * 50)
        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        """,
    )
    assert len(written) == 800
    assert {e["message"] for e in written} == {name * 50 for name in "abcd"}


@pytest.mark.processes
def test_a_dynamic_node_leaves_logging_alone(start_flow: StartFlow) -> None:
    daemon = start_flow(node("a", path="dynamic"))
    status, out, err = finish(
        daemon.start_process(
            "a",
            """
            import logging
            from dora import Node
            node = Node("a")
            assert not logging.getLogger().handlers
            """,
        )
    )
    assert (status, out, err) == (0, "", "")


def test_nodes_have_their_names(daemon: FakeDaemon) -> None:
    assert isinstance(daemon.node("a"), Node)
    assert daemon.node("a").id == "a"
