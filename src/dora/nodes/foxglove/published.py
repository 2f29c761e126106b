"""Messages that clients of Foxglove publish."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from dora.errors import DoraError
from dora.nodes.foxglove.server import Published
from dora.observe.formatting import parse_data


def array_of(published: Published) -> pa.Array[Any]:
    """Return the Arrow array that a client means; raises `DoraError` for what is none.

    Foxglove publishes objects: ``{"values": [1, 2]}`` is the array of these values. Any other object is an
    array with one struct.
    """
    text = published.data.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        if isinstance(found, dict) and found.keys() == {"values"}:
            text = json.dumps(found["values"])
        array: pa.Array[Any] = parse_data(text)
    except ValueError as error:
        raise DoraError(f"a message for `{published.topic}` cannot be sent: {error}") from None
    return array
