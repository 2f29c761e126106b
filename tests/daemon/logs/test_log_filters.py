"""Thresholds: what is shown at which level."""

import pytest

from dora.daemon.logs.entry import LogEntry, LogFilter, parse_filter, parse_level, passes
from dora.dataflow.model import LOG_LEVELS


def test_levels_are_ordered_and_stdout_lets_everything_through():
    shown = {
        threshold: [level for level in LOG_LEVELS if passes(level, threshold)] for threshold in LOG_LEVELS
    }
    assert shown == {
        "error": ["error"],
        "warn": ["error", "warn"],
        "info": ["error", "warn", "info"],
        "debug": ["error", "warn", "info", "debug"],
        "trace": ["error", "warn", "info", "debug", "trace"],
        "stdout": list(LOG_LEVELS),
    }


def test_a_node_has_its_own_threshold():
    log_filter = LogFilter("warn", parse_filter("camera=debug, plot=error"))

    def shows(node_id, level):
        return log_filter.shows(LogEntry(0, level, node_id, "m"))

    assert shows("camera", "debug") and not shows("camera", "trace")
    assert shows("plot", "error") and not shows("plot", "warn")
    assert shows("other", "warn") and not shows("other", "info")
    assert shows(None, "warn") and not shows(None, "info")


def test_names_of_levels():
    assert [parse_level(text) for text in ("WARN", " warning ", "StdOut")] == ["warn", "warn", "stdout"]
    with pytest.raises(ValueError, match=r"`loud`.*error, warn, info, debug, trace, stdout"):
        parse_level("loud")


@pytest.mark.parametrize("text", ["camera", "=debug", "camera=loud", "camera=debug,plot"])
def test_wrong_filters_are_refused(text):
    with pytest.raises(ValueError, match=r"`"):
        parse_filter(text)


def test_empty_items_of_a_filter_do_not_matter():
    assert parse_filter("") == {}
    assert parse_filter("a=info,,a=warn,") == {"a": "warn"}
