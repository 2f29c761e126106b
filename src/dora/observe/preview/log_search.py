"""Log entries for the page, and the search for old ones."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from dora.daemon.logs.entry import LogEntry, parse_level, passes
from dora.daemon.logs.reader import LogReader
from dora.observe.preview.protocol import Found, Search

MAX_MESSAGE = 4000  # characters of an entry that are shown


def encode_entry(entry: LogEntry) -> bytes:
    """Return an entry as JSON."""
    message = entry.message
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]}… {len(message) - MAX_MESSAGE:,} more characters"
    record: dict[str, Any] = {
        "time": entry.timestamp_ns / 1e6,
        "level": entry.level,
        "node": entry.node_id,
        "stream": entry.stream,
        "message": message,
    }
    if entry.fields:
        record["fields"] = entry.fields
    return msgspec.json.encode(record)


def search(directory: str, wanted: Search) -> Found:
    """Return the last entries that match, and how many match in all."""
    reader = LogReader(directory, None)
    try:
        level = parse_level(wanted.level)
    except ValueError:
        level = "stdout"
    text = wanted.text.casefold()
    kept: deque[LogEntry] = deque(maxlen=max(1, min(wanted.limit, 5000)))
    total = 0
    for entry in reader.entries():
        if (
            (not wanted.node or (entry.node_id or "dora") == wanted.node)
            and passes(entry.level, level)
            and (not text or text in entry.message.casefold())
        ):
            kept.append(entry)
            total += 1
    reader.close()
    return Found(wanted.ticket, [encode_entry(entry) for entry in kept], total)
