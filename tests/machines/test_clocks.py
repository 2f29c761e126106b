"""The clocks of two machines differ by an hour, and all contracts in time hold all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cluster_system import Spread
from hosts import network
from waiting import wait_until

pytestmark = pytest.mark.processes

DELAY = 0.05  # seconds, in each direction
AN_HOUR_AHEAD = """
import time

real_time, real_time_ns = time.time, time.time_ns
time.time = lambda: real_time() + 3600
time.time_ns = lambda: real_time_ns() + 3_600_000_000_000
"""
SENDS = 30  # messages, then there is a pause
FILES = {
    "source.py": f"""
        import sys
        import time
        from datetime import UTC, datetime

        from dora import Node

        node = Node()
        for number, event in enumerate(node):
            if event["type"] != "INPUT":
                continue
            made = time.time() - (60 if "old" in sys.argv and number % 2 else 0)
            true = time.clock_gettime(time.CLOCK_REALTIME)  # nobody has set this clock
            stamp = {{"timestamp": datetime.fromtimestamp(made, UTC)}} if "stamps" in sys.argv else {{}}
            node.send_output("out", b"x", {{"number": number, "true": true, **stamp}})
            if number == {SENDS} and "pauses" in sys.argv:
                time.sleep(1)
    """,
    "detector.py": """
        from dora import Node

        for event in (node := Node()):
            if event["type"] == "INPUT":
                node.send_output("boxes", b"y", event["metadata"])
    """,
    "judge.py": """
        import json

        from dora import Node

        for event in (node := Node()):
            facts = {key: event[key] for key in ("latency", "slowest_hop", "late") if key in event}
            if event["type"] == "SYNC":
                one, other = (each["metadata"] for each in event.messages())
                numbers = [one["number"], other["number"]]
                facts = {"numbers": numbers, "apart": abs(one["true"] - other["true"])}
            elif event["type"] == "INPUT":
                facts = {"number": event["metadata"]["number"]}
            paths = node.statistics()["paths"]
            facts["paths"] = {path["source"] + " to " + path["sink"]: path for path in paths}
            print(json.dumps({"type": event["type"], "id": event.get("id"), **facts}), flush=True)
    """,
    "flow.yml": """
        nodes:
          - id: camera
            path: source.py
            args: stamps
            inputs: {tick: dora/timer/hz/20}
            outputs: [out]
            deploy: {machine: here}
          - id: detector
            path: detector.py
            inputs: {image: camera/out}
            outputs: [boxes]
            deploy: {machine: ahead}
          - id: matched
            path: judge.py
            inputs:
              image: {source: camera/out, queue_size: 20}
              boxes: {source: detector/boxes, max_age: 30s}
            sync: [{inputs: [boxes, image], tolerance: 5ms}]
            deploy: {machine: here}
          - id: lidar
            path: source.py
            inputs: {tick: dora/timer/hz/20}
            outputs: [out]
            deploy: {machine: ahead}
          - id: fused
            path: judge.py
            inputs:
              image: {source: camera/out, queue_size: 20}
              scan: lidar/out
            sync: [{inputs: [image, scan], tolerance: 40ms}]
            deploy: {machine: here}
          - id: sensor
            path: source.py
            args: stamps old pauses
            inputs: {tick: dora/timer/hz/20}
            outputs: [out]
            deploy: {machine: ahead}
          - id: watch
            path: judge.py
            inputs:
              fresh: {source: sensor/out, max_age: 30s, deadline: 500ms}
              slow: {source: lidar/out, rate: 5hz}
            deploy: {machine: here}
        paths:
          - {from: camera/out, to: matched/boxes, budget: 80ms, on_miss: event}
    """,
}


@pytest.mark.slow
def test_contracts_in_time_hold_although_a_clock_is_an_hour_ahead(tmp_path: Path) -> None:
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead" / "sitecustomize.py").write_text(AN_HOUR_AHEAD)
    with network("here", "ahead", impaired=True) as hosts:
        system = Spread(hosts, tmp_path, {})
        system.write(FILES)
        hosts["ahead"].impair(delay=DELAY)
        system.start_coordinator()
        system.start_daemon("here")
        env = {"PYTHONPATH": str(tmp_path / "ahead")}
        system.background(hosts["ahead"], "ahead", "daemon", "--machine-id", "ahead", env=env)
        system.wait_for_machines("here", "ahead")

        def clock() -> bool:
            found = system.machines()["ahead"].get("clock_ahead_ms")
            return found is not None and abs(found - 3_600_000) < 200

        wait_until(clock, "the coordinator to know the clock of the machine")
        dataflow = system.start("flow.yml")

        def events(node: str, kind: str, name: str | None = None) -> list[dict[str, Any]]:
            lines = system.dora("logs", dataflow, "--node", node).splitlines()
            found = [json.loads(line[line.index("{") :]) for line in lines if "{" in line]
            return [each for each in found if each["type"] == kind and name in (None, each["id"])]

        wait_until(lambda: events("watch", "DEADLINE_MET"), "messages after the pause")
        for node in ("matched", "fused"):
            wait_until(lambda node=node: len(events(node, "SYNC")) > 20, f"sets of {node}")
        system.dora("stop", dataflow)

        matched, fused = events("matched", "SYNC"), events("fused", "SYNC")
        path = matched[-1]["paths"]["camera/out to matched/boxes"]
        error = path["clock_error_ms"] / 1000
        assert 0 < error < 0.2
        assert all(one == other for one, other in (each["numbers"] for each in matched))
        assert all(each["apart"] < 0.04 + error for each in fused)
        assert max(fused[0]["numbers"]) < 10, "the offset of the clocks is known from the start"
        # There and back, a wrong offset of the clocks makes no difference.
        assert path["median_ms"] > 0.9 * 2 * DELAY * 1000
        for each in (*matched[-1]["paths"].values(), *fused[-1]["paths"].values()):
            assert each["worst_ms"] < 60_000
        late = events("matched", "BUDGET_MISSED")
        on_a_way = [each for each in late if each["slowest_hop"].startswith("the way from")]
        assert len(on_a_way) > len(late) / 2 > 8
        fresh = events("watch", "INPUT", "fresh")
        assert len(fresh) > 10 and not any(each["number"] % 2 for each in fresh)
        missed, *_ = events("watch", "DEADLINE_MISSED")
        assert 0 <= missed["late"] < 10
        first, *further = events("watch", "INPUT", "slow")
        assert 4 < len(further) <= (further[-1]["number"] - first["number"]) / 20 * 5 + 5
