"""A recorded dataflow whose nodes fail, each after what another way of receiving has brought it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shared_template import left_by_runs, share_template
from waiting import TIMEOUT

FLOW = """
    exit_when_nodes_finish: true
    nodes:
      - id: source
        path: source.py
        send_stdout_as: said
        outputs:
          - left
          - right
          - map: {latched: 1}
          - said
      - id: caller
        description: 🤖 asks the server
        path: caller.py
        inputs: {left: source/left, answer: server/to_caller}
        outputs: [question, result]
      - id: asker
        path: asker.py
        inputs: {left: {source: source/left, queue_policy: backpressure}, answer: server/to_asker}
        outputs: [question, result]
      - id: gatherer
        path: gatherer.py
        inputs: {left: source/left, answer: server/to_gatherer}
        outputs: [question, result]
      - id: server
        path: server.py
        inputs: {caller: caller/question, asker: asker/question, gatherer: gatherer/question}
        outputs: [to_caller, to_asker, to_gatherer]
      - id: matcher
        path: matcher.py
        inputs: {left: source/left, right: source/right, map: source/map}
        sync: [{inputs: [left, right], tolerance: 500ms}]
        outputs: [pair]
      - id: hands
        operators:
          - id: a
            python: operator_.py
            inputs: {x: source/left}
            outputs: [out]
          - id: b
            python: operator_.py
            inputs: {x: hands/a/out, map: source/map}
            outputs: [out]
      - id: listener
        path: listener.py
        inputs: {line: source/said, left: source/left}
        outputs: [seen]
      - id: ticker
        path: ticker.py
        inputs: {left: source/left, tick: dora/timer/millis/5}
        outputs: [time]
      - id: poller
        path: poller.py
        inputs: {left: source/left}
        outputs: [looks]
      - id: restarter
        path: restarter.py
        restart_policy: on-failure
        max_restarts: 1
        inputs: {left: {source: source/left, queue_policy: backpressure}}
        outputs: [out]
      - id: sane
        path: sane.py
        inputs: {left: {source: source/left, queue_policy: backpressure}}
        outputs: [box]
"""
PROGRAMS = {
    "source.py": """
        import time
        import numpy as np
        import pyarrow as pa
        from dora import Node

        node = Node()
        node.send_output("map", pa.array(["a map"]))
        for number in range(60):
            time.sleep(0.005)
            node.send_output("left", np.array([number, 2.5 * number]), {"number": number})
            node.send_output("right", np.array([number], np.int32))
            if number % 10 == 0:
                print("line", number)
        """,
    "caller.py": """
        from dora import Node

        node = Node()
        total = 0
        for event in node:
            if event["type"] == "INPUT" and event["id"] == "left":
                answer = node.call("question", event["value"], timeout=20).wait()
                total += int(answer["value"][0].as_py()) >= 20
                node.send_output("result", answer["value"])
                if total == 3:
                    raise RuntimeError("three answers are large")
        """,
    "asker.py": """
        from dora import Node

        node = Node()
        pending = {}
        for event in node:
            if event["type"] == "INPUT" and event["id"] == "left":
                pending[node.send_service_request("question", event["value"])] = event["metadata"]["number"]
            elif event["type"] == "INPUT":
                number = pending.pop(event["metadata"]["request_id"])
                node.send_output("result", event["value"])
                if number == 33:
                    raise RuntimeError("thirty-three")
        """,
    "gatherer.py": """
        import asyncio
        from dora import Node

        async def main():
            node = Node()
            async for event in node:
                if event["type"] == "INPUT" and event["id"] == "left":
                    calls = node.call("question", event["value"]), node.call("question", event["value"])
                    first, second = await asyncio.gather(*calls)
                    node.send_output("result", first["value"])
                    if second["value"][0].as_py() > 30:
                        1 / 0

        asyncio.run(main())
        """,
    "server.py": """
        from dora import Node

        node = Node()
        for name in ("caller", "asker", "gatherer"):
            node.serve(name, f"to_{name}")(lambda request: request.value)
        for event in node:
            pass
        """,
    "matcher.py": """
        import pyarrow as pa
        from dora import Node

        node = Node()
        known = None
        for event in node:
            if event["type"] == "SYNC":
                right = event["inputs"]["right"]["value"][0].as_py()
                node.send_output("pair", pa.array([event["inputs"]["left"]["value"][0].as_py(), right]))
                if known and right >= 40:
                    raise ValueError("forty")
            elif event["type"] == "INPUT":
                known = event["value"][0].as_py()
        """,
    "operator_.py": """
        from dora import DoraStatus

        class Operator:
            def __init__(self):
                self.map = None

            def on_event(self, event, send_output):
                if event["type"] == "INPUT" and event["id"] == "map":
                    self.map = event["value"]
                elif event["type"] == "INPUT":
                    send_output("out", event["value"])
                    if self.map is not None and event["value"][0].as_py() >= 35:
                        raise KeyError("thirty-five")
                return DoraStatus.CONTINUE
        """,
    "listener.py": """
        import pyarrow as pa
        from dora import Node

        node = Node()
        lines = 0
        for event in node:
            if event["type"] == "INPUT" and event["id"] == "line":
                lines += 1
            elif event["type"] == "INPUT":
                node.send_output("seen", pa.array([lines]))
                assert lines < 3, "three lines"
        """,
    "ticker.py": """
        import pyarrow as pa
        from dora import Node

        node = Node()
        ticks = 0
        for event in node:
            if event["type"] == "INPUT" and event["id"] == "tick":
                ticks += 1
                node.send_output("time", pa.array([event["metadata"]["timestamp"].timestamp()]))
            elif event["type"] == "INPUT" and ticks > 3:
                raise OSError("it took more than three ticks")
        """,
    "poller.py": """
        import pyarrow as pa
        from dora import Node

        node = Node()
        waits = 0
        while (event := node.next(timeout=0.001)) is not None:
            if event["type"] == "ERROR":
                waits += 1
            elif event["type"] == "INPUT":
                node.send_output("looks", pa.array([waits, int(node.is_empty())]))
                if waits > 2:
                    raise TimeoutError("waited three times")
        """,
    "restarter.py": """
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("out", event["value"])
                if event["metadata"]["number"] == 25:
                    raise RuntimeError("once")
        """,
    "sane.py": """
        import numpy as np
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("box", np.array([event["metadata"]["number"] * 10, 3]))
        """,
}
FAILING = ("caller", "asker", "gatherer", "matcher", "hands", "listener", "ticker", "poller")


class AloneFolder:
    """A folder with the programs and their recording, ``a.mcap``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.restore()
        (folder / "flow.yml").write_text(textwrap.dedent(FLOW))

    def restore(self) -> None:
        """Put the programs back, and remove what tests have written."""
        for name, text in PROGRAMS.items():
            self.program(name, text)
        for name in ("tests", ".vscode"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def dora(
        self,
        *arguments: str,
        status: int = 0,
        stdin: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command to its end; return all that it printed, errors first."""
        done = subprocess.run(
            [sys.executable, "-m", "dora", *arguments],
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            env={**os.environ, **(environment or {})},
            check=False,
        )
        assert done.returncode == status, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr + done.stdout


@contextmanager
def recorded_folder() -> Iterator[AloneFolder]:
    """A recorded dataflow, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="dora-test-", dir="/tmp"))
    before = os.environ.get("DORA_RUNTIME_DIR")
    os.environ["DORA_RUNTIME_DIR"] = str(folder / "run")
    share_template(f"{folder}/run")
    made = AloneFolder(folder)
    try:
        made.dora("record", "flow.yml", "-o", "a.mcap", status=1)  # most of its nodes fail
        yield made
        assert not left_by_runs(f"{folder}/run"), "a run left its directory"
    finally:
        if before is None:
            del os.environ["DORA_RUNTIME_DIR"]
        else:
            os.environ["DORA_RUNTIME_DIR"] = before
        shutil.rmtree(folder)
