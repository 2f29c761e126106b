"""Control messages beside pictures, on a link that is too slow for the pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cluster_system import Spread, spread_over
from hosts import network
from rounds import ROUNDS

pytestmark = pytest.mark.processes

Figure = Callable[[str], None]

NODES = {
    # Sends control messages at 100 Hz and pictures at 30 Hz, each with the time at its beginning.
    "robot.py": """
        import json, os, time
        import numpy as np
        from dora import Node

        node = Node()
        size, seconds = int(os.environ["SIZE"]), float(os.environ["SECONDS"])
        data = {"control": np.zeros(64, np.uint8), "picture": np.zeros(size, np.uint8)}
        period = {"control": 0.01, "picture": 1 / 30}
        began = time.monotonic()
        due = dict.fromkeys(data, began)
        longest = 0.0
        while (now := time.monotonic()) < began + seconds:
            for name, at in due.items():
                if at <= now:
                    due[name] += period[name]
                    data[name][:8].view(np.int64)[0] = started = time.monotonic_ns()
                    node.send_output(name, data[name])
                    longest = max(longest, time.monotonic_ns() - started)
            time.sleep(max(0.0, min(due.values()) - time.monotonic()))
        print(json.dumps({"sent": node.statistics()["outputs"], "longest": longest / 1e6}), flush=True)
    """,
    "desk.py": """
        import json, time
        import numpy as np
        from dora import Node

        node, ages = Node(), {"control": [], "picture": []}
        for event in node:
            if event["type"] == "INPUT":
                at = time.monotonic_ns()
                sent = int(event["value"].to_numpy()[:8].view(np.int64)[0])
                ages[event["id"]].append((at - sent) / 1e6)
        inputs = node.statistics()["inputs"]
        print(json.dumps({"ages": ages, "inputs": inputs}), flush=True)
    """,
}
DATAFLOW = """
    nodes:
      - id: robot
        path: robot.py
        outputs: [control, picture]
        deploy: {machine: robot}
        env: {SIZE: %d, SECONDS: %g}
      - id: desk
        path: desk.py
        deploy: {machine: desk}
        inputs:
          control: {source: robot/control, queue_size: 100}
          picture: {source: robot/picture, queue_policy: latest}
"""


@pytest.fixture(scope="module")
def system(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("slow")
    with network("desk", "robot", impaired=True) as hosts, spread_over(hosts, folder) as system:
        system.write(NODES)
        yield system


@dataclass
class Measured:
    """What one run printed; times in milliseconds."""

    ages: dict[str, list[float]]
    sent: dict[str, dict[str, int]]
    inputs: dict[str, dict[str, int]]
    longest: float  # call of `send_output`

    def age(self, name: str, share: float) -> float:
        """Return the age that this share of the messages does not exceed."""
        values = sorted(self.ages[name])
        return values[min(len(values) - 1, int(len(values) * share))]

    def __str__(self) -> str:
        parts = [
            f"{name}: {len(ages)} of {self.sent[name]['sent']}, "
            f"age {self.age(name, 0.5):.0f} ms (p99 {self.age(name, 0.99):.0f})"
            for name, ages in self.ages.items()
        ]
        return f"{'; '.join(parts)}; longest send_output {self.longest:.1f} ms"


def measure(system: Spread, size: int, seconds: float) -> Measured:
    """Run the dataflow with pictures of this size."""
    (system.folder / "flow.yml").write_text(DATAFLOW % (size, seconds))
    dataflow = system.start("flow.yml")
    system.wait_for(dataflow, "Finished")
    found: dict[str, Any] = {}
    for line in system.logs(dataflow).splitlines():
        if "{" in line:
            found |= json.loads(line[line.index("{") :])
    measured = Measured(**found)
    for name, counted in measured.inputs.items():
        assert counted["received"] == len(measured.ages[name])
        assert counted["received"] + counted["dropped"] == measured.sent[name]["sent"]
    return measured


def run(system: Spread, congestion: str, seconds: float, size: int, **link: float) -> Measured:
    for host in system.hosts.values():
        host.use_congestion_control(congestion)
    robot = system.hosts["robot"]
    robot.impair(**link)
    try:
        return measure(system, size, seconds)
    finally:
        robot.impair()


CAMERA = {"size": 1 << 20, "rate": 50e6, "delay": 0.01}
SMALL_CAMERA = {"size": 64_000, "rate": 10e6, "delay": 0.01}


@pytest.mark.parametrize("link", [CAMERA, SMALL_CAMERA], ids=["50 Mbit", "10 Mbit"])
def test_control_does_not_wait_for_pictures(system: Spread, link: Any, figure: Figure) -> None:
    found = run(system, "cubic", 3.0, **link)
    figure(f"cubic, {link['rate'] / 1e6:g} Mbit/s: {found}")
    assert found.inputs["control"]["dropped"] == 0
    assert found.age("control", 0.5) < 150  # on a busy machine; behind the pictures they would be seconds
    assert found.age("picture", 0.5) < 600


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_control_does_not_wait_for_pictures_on_any_link(system: Spread, figure: Figure) -> None:
    for congestion in ("cubic", "bbr"):
        for link in (CAMERA, SMALL_CAMERA, {**CAMERA, "loss": 0.002}, {**CAMERA, "loss": 0.02}):
            found = run(system, congestion, max(0.12 * ROUNDS, 3.0), **link)
            figure(f"{congestion}, {link['rate'] / 1e6:g} Mbit/s, loss {link.get('loss', 0):.1%}: {found}")
            if "loss" not in link:
                assert found.inputs["control"]["dropped"] == 0
                assert found.age("control", 0.5) < 60
