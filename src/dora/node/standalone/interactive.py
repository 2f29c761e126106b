"""The interactive host: a node that is started by hand at a terminal asks for its inputs."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from dora.node.events import Event, Input, Reference, Stop
from dora.node.standalone.host import EventSource, Standalone
from dora.node.standalone.recorded_inputs import read_arrow_file
from dora.wire.decode import decode_arrow
from dora.wire.message import Message

_WELCOME = """\
This program is a dora node, and no dataflow started it (DORA_NODE_CONFIG is not set): it takes its inputs
from you. Data is JSON or text, FILE:<path.arrow>, HEX:<bytes>, or nothing. An empty input id ends it."""
_ESCAPE = "\x1b"


def converse() -> Standalone:
    """Return the host that asks a person at the terminal."""
    name = os.path.splitext(os.path.basename(sys.argv[0] or "node"))[0] or "node"
    print(_WELCOME, flush=True)
    return Standalone(name, _Person(), _show)


class _Person(EventSource):
    def poll(self) -> Event | None:
        """Ask for an event, and wait for the answer."""
        if not self.open:
            return None
        while True:
            try:
                input_id = input("Input ID [empty to stop]: ").strip()
                if not input_id or input_id == _ESCAPE:
                    break
                value = _value(input("Data [JSON, text, FILE:, HEX:, or empty]: "))
            except EOFError:
                print()
                break
            except ValueError as error:
                print(f"{error}; try again")
                continue
            return Input.make(input_id, Reference(value, {}, time.time_ns()))
        self.open = False
        return Stop("MANUAL")

    def ready(self) -> bool:
        return self.open


def _value(text: str) -> Any:
    """Return the array that a line stands for; raises ``ValueError``."""
    import pyarrow as pa

    text = text.strip()
    if not text or _ESCAPE in text:
        return pa.nulls(0)
    if text.startswith("FILE:"):
        return read_arrow_file(text.removeprefix("FILE:").strip())
    if text.startswith("HEX:"):
        return pa.array(list(bytes.fromhex(text.removeprefix("HEX:"))), pa.uint8())
    try:
        return pa.array([json.loads(text)])
    except (json.JSONDecodeError, RecursionError):
        return pa.array([text])
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"this is no Arrow data: {error}") from error


def _show(output_id: str, message: Message) -> None:
    array = decode_arrow(message)
    shown = str(array.slice(0, 20).to_pylist())
    more = f" … {len(array)} values" if len(array) > 20 else ""
    print(f"node sends output `{output_id}` ({array.type}): {shown}{more}", flush=True)
