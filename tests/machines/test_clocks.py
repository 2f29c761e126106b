"""The clocks of two machines differ by an hour, and paths and ages are right all the same."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from cluster_system import Spread
from hosts import network
from waiting import wait_until

pytestmark = pytest.mark.processes

AN_HOUR_AHEAD = """
import time

real_time, real_time_ns = time.time, time.time_ns
time.time = lambda: real_time() + 3600
time.time_ns = lambda: real_time_ns() + 3_600_000_000_000
"""
FILES = {
    "camera.py": """
        from dora import Node

        node = Node()
        for event in node:
            if event["type"] == "INPUT":
                node.send_output("image", b"x")
    """,
    "motor.py": """
        from dora import Node

        node = Node()
        for number, event in enumerate(node):
            (path, *_) = node.statistics()["paths"] or [{"clock_error_ms": 0.0}]
            if path["clock_error_ms"]:
                print("path", path["worst_ms"], path["median_ms"], path["clock_error_ms"], flush=True)
    """,
    "sensor.py": """
        import time
        from datetime import UTC, datetime

        import pyarrow as pa
        from dora import Node

        node = Node()
        for number, event in enumerate(node):
            stamp = datetime.fromtimestamp(time.time() - (60 if number % 2 else 0), UTC)
            if event["type"] == "INPUT":
                node.send_output("out", pa.array([number]), {"timestamp": stamp})
    """,
    "judge.py": """
        from dora import Node

        for event in Node():
            if event["type"] == "INPUT":
                print("fresh", event["value"][0].as_py(), flush=True)
    """,
    "flow.yml": """
        nodes:
          - id: sensor
            path: sensor.py
            inputs: {tick: dora/timer/hz/20}
            outputs: [out]
            deploy: {machine: ahead}
          - id: judge
            path: judge.py
            inputs: {fresh: {source: sensor/out, max_age: 30s, deadline: 20s}}
            deploy: {machine: here}
          - id: camera
            path: camera.py
            inputs: {tick: dora/timer/hz/20}
            outputs: [image]
            deploy: {machine: ahead}
          - id: motor
            path: motor.py
            inputs: {image: camera/image}
            deploy: {machine: here}
    """,
}


def test_the_times_of_paths_and_ages_are_right_although_a_clock_is_an_hour_ahead(tmp_path: Path) -> None:
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead" / "sitecustomize.py").write_text(AN_HOUR_AHEAD)
    with network("here", "ahead", impaired=True) as hosts:
        system = Spread(hosts, tmp_path, {})
        system.write(FILES)
        system.start_coordinator()
        system.start_daemon("here")
        env = {"PYTHONPATH": str(tmp_path / "ahead")}
        system.background(hosts["ahead"], "ahead", "daemon", "--machine-id", "ahead", env=env)
        system.wait_for_machines("here", "ahead")
        hosts["ahead"].impair(delay=0.02)

        def clock() -> bool:
            found = system.machines()["ahead"].get("clock_ahead_ms")
            return found is not None and abs(found - 3_600_000) < 200

        wait_until(clock, "the coordinator to know the clock of the machine")
        dataflow = system.start("flow.yml")
        system.wait_for_log(dataflow, "path ")

        def measured() -> list[float] | None:
            lines = re.findall(r"path (\S+) (\S+) (\S+)", system.logs(dataflow))
            found = [float(ast.literal_eval(text)) for text in lines[-1]]
            return found if len(lines) > 80 else None

        _, median, error = wait_until(measured, "some messages")

        def only_fresh() -> bool:
            found = re.findall(r"fresh (\w+)", system.logs(dataflow))
            return len(found) > 20 and all(int(number) % 2 == 0 for number in found[-20:])

        wait_until(only_fresh, "messages older than `max_age` to expire, and no others")
        system.dora("stop", dataflow)
        assert error < 200
        assert abs(median - 20) <= error + 100
