"""Control messages beside pictures, on a link that is slow, loses packets, or is cut."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cluster_system import Spread, spread_over
from hosts import network
from rounds import ROUNDS
from waiting import wait_until

pytestmark = pytest.mark.processes

Figure = Callable[[str], None]

NODES = {
    # Sends control messages at 100 Hz, maps at 10 Hz and pictures at 30 Hz, each with the time at its
    # beginning.
    "robot.py": """
        import json, os, time
        import numpy as np
        from dora import Node

        node = Node()
        seconds = float(os.environ["SECONDS"])
        sizes = {"control": 64, "map": int(os.environ["MAP"]), "picture": int(os.environ["PICTURE"])}
        data = {name: np.zeros(size, np.uint8) for name, size in sizes.items() if size}
        period = {"control": 0.01, "map": 0.1, "picture": 1 / 30}
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

        node, arrivals = Node(), {"control": [], "map": [], "picture": []}
        for event in node:
            if event["type"] == "INPUT":
                sent = int(event["value"].to_numpy()[:8].view(np.int64)[0])
                arrivals[event["id"]].append((sent / 1e9, time.monotonic()))
                if len(arrivals["control"]) == 1:
                    print("first", flush=True)
        inputs = node.statistics()["inputs"]
        print(json.dumps({"arrivals": arrivals, "inputs": inputs}), flush=True)
    """,
}
DATAFLOW = """
    nodes:
      - id: robot
        path: robot.py
        outputs: [control, map, {picture: {priority: %s}}]
        deploy: {machine: robot}
        env: {MAP: %d, PICTURE: %d, SECONDS: %g}
      - id: desk
        path: desk.py
        deploy: {machine: desk}
        inputs:
          control: {source: robot/control, queue_size: 100}
          map: {source: robot/map, queue_size: 2}
          picture: {source: robot/picture, queue_policy: latest}
"""


@pytest.fixture(scope="module")
def system(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("slow")
    marked = {"DORA_LINK_DSCP": "46"}
    with network("desk", "robot", impaired=True) as hosts, spread_over(hosts, folder, marked) as system:
        system.write(NODES)
        yield system


@dataclass
class Measured:
    """What one run printed. All nodes are on one machine, so they have the same clock."""

    arrivals: dict[str, list[tuple[float, float]]]  # when sent, when received; in seconds
    sent: dict[str, dict[str, int]]
    inputs: dict[str, dict[str, int]]
    longest: float  # call of `send_output`, in milliseconds

    def age(self, name: str, share: float) -> float:
        """Return the age in milliseconds that this share of the messages does not exceed."""
        ages = sorted((received - sent) * 1e3 for sent, received in self.arrivals[name])
        return ages[min(len(ages) - 1, int(len(ages) * share))]

    def __str__(self) -> str:
        parts = [
            f"{name}: {len(arrivals)} of {self.sent[name]['sent']}, "
            f"age {self.age(name, 0.5):.0f} ms (p99 {self.age(name, 0.99):.0f})"
            for name, arrivals in self.arrivals.items()
            if arrivals
        ]
        return f"{'; '.join(parts)}; longest send_output {self.longest:.1f} ms"


def measure(
    system: Spread,
    seconds: float,
    picture: int,
    map_size: int = 0,
    priority: str = "normal",
    while_running: Callable[[], None] = lambda: None,
) -> Measured:
    """Run the dataflow with messages of these sizes; no maps by default."""
    (system.folder / "flow.yml").write_text(DATAFLOW % (priority, map_size, picture, seconds))
    dataflow = system.start("flow.yml")
    wait_until(lambda: "first" in system.logs(dataflow), lambda: system.logs(dataflow))
    while_running()
    system.wait_for(dataflow, "Finished")
    found: dict[str, Any] = {}
    for line in system.logs(dataflow).splitlines():
        if "{" in line:
            found |= json.loads(line[line.index("{") :])
    measured = Measured(**found)
    for name, counted in measured.inputs.items():
        assert counted["received"] == len(measured.arrivals[name])
        assert counted["received"] + counted["dropped"] == measured.sent[name]["sent"]
    return measured


def run(system: Spread, congestion: str, link: dict[str, Any], *arguments: Any, **options: Any) -> Measured:
    for host in system.hosts.values():
        host.use_congestion_control(congestion)
    robot = system.hosts["robot"]
    robot.impair(**link)
    try:
        return measure(system, *arguments, **options)
    finally:
        robot.impair()


FAST = {"rate": 50e6, "delay": 0.01}
SLOW = {"rate": 10e6, "delay": 0.01}
WIRELESS = {"rate": 50e6, "delay": 0.005, "jitter": 0.03, "in_order": True, "loss": 0.002}
MIB = 1 << 20


@pytest.mark.slow
@pytest.mark.parametrize(("link", "picture"), [(FAST, MIB), (SLOW, 64_000)], ids=["50 Mbit", "10 Mbit"])
def test_control_does_not_wait_for_pictures(
    system: Spread, link: Any, picture: int, figure: Figure
) -> None:
    found = run(system, "cubic", link, 3.0, picture)
    figure(f"cubic, {link['rate'] / 1e6:g} Mbit/s: {found}")
    assert found.inputs["control"]["dropped"] == 0
    assert found.age("control", 0.5) < 150  # on a busy machine; behind the pictures they would be seconds
    assert found.age("picture", 0.5) < 600


@pytest.mark.stress
@pytest.mark.timeout(900)
def test_control_does_not_wait_for_pictures_on_any_link(system: Spread, figure: Figure) -> None:
    for congestion in ("cubic", "bbr"):
        for link, picture in (
            (FAST, MIB),
            (SLOW, 64_000),
            ({**FAST, "loss": 0.002}, MIB),
            ({**FAST, "loss": 0.02}, MIB),
            (WIRELESS, MIB),
            ({**WIRELESS, "loss": 0.02}, MIB),
        ):
            found = run(system, congestion, link, max(0.12 * ROUNDS, 3.0), picture)
            what = f"{link['rate'] / 1e6:g} Mbit/s, jitter {link.get('jitter', 0) * 1e3:.0f} ms"
            figure(f"{congestion}, {what}, loss {link.get('loss', 0):.1%}: {found}")
            if "loss" not in link:
                assert found.inputs["control"]["dropped"] == 0
                assert found.age("control", 0.5) < 60


@pytest.mark.slow
def test_the_connection_of_control_messages_is_marked(system: Spread) -> None:
    marks: list[int] = []

    def is_one_road() -> bool:  # both machines may have dialled, and one road goes then
        listed = system.hosts["robot"].run(["ss", "--tcp", "--numeric", "--no-header", "--tos"])
        marks[:] = [line.count("tos:0xb8") for line in listed.splitlines() if ":6013" not in line]
        return len(marks) == 3

    run(
        system,
        "cubic",
        FAST,
        1.0,
        64,
        while_running=lambda: wait_until(is_one_road, lambda: f"one road: {marks}"),
    )
    assert sum(marks) == 1, "the connections of other messages are not marked"


@pytest.mark.slow
def test_bulk_goes_behind_other_large_messages(system: Spread, figure: Figure) -> None:
    shown: dict[str, str] = {}
    pictures: dict[str, float] = {}  # for each map

    def look() -> None:
        for name in ("control", "picture"):
            described = system.dora("topic", "info", f"robot/{name}", "--duration", "0.1")
            found = re.search(r"^Priority +(.+)$", described, re.MULTILINE)
            assert found is not None, described
            shown[name] = found[1]

    for priority in ("normal", "bulk"):
        options: dict[str, Any] = {"map_size": 100_000, "priority": priority, "while_running": look}
        found = run(system, "cubic", SLOW, 6.0, 64_000, **options)
        assert shown == {"control": "control up to 8 KiB, normal above", "picture": priority}
        figure(f"pictures are {priority}: {found}")
        assert found.inputs["control"]["dropped"] == 0
        assert found.age("picture", 1.0) < 2000, "one that waits is dropped for a newer one"
        pictures[priority] = len(found.arrivals["picture"]) / len(found.arrivals["map"])
    # On an idle machine a quarter. A busy one sends less than the link carries, and then bulk passes, too.
    assert pictures["bulk"] < 0.85 * pictures["normal"]


@pytest.mark.slow
@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
def test_after_a_cut_no_old_picture_comes(system: Spread, congestion: str, figure: Figure) -> None:
    robot = system.hosts["robot"]
    back = 0.0

    def attempts() -> set[str]:
        """Return the addresses from which the robot tries to connect to the desk's node."""
        listed = robot.run(["ss", "--tcp", "--numeric", "--no-header", "state", "syn-sent"])
        lines = [line.split() for line in listed.splitlines()]
        return {own for *_, own, other in lines if not other.endswith(":6013")}

    def cut() -> None:
        nonlocal back
        robot.cut()
        first = wait_until(attempts, "an attempt to connect")
        # The system repeats the first packet of an attempt more and more rarely.
        wait_until(lambda: not first & attempts(), "new attempts", timeout=7.0)
        robot.restore()
        back = time.monotonic()

    found = run(system, congestion, FAST, 12.0, MIB, while_running=cut)
    first = {
        name: next((sent, received) for sent, received in found.arrivals[name] if received > back)
        for name in ("control", "picture")
    }
    said = [
        f"{name} {received - back:.2f} s after the network, {received - sent:.2f} s old"
        for name, (sent, received) in first.items()
    ]
    figure(f"{congestion}, cut: {'; '.join(said)}; {found}")
    sent, received = first["picture"]
    assert received - sent < 1.0
    assert max(received for _, received in first.values()) - back < 8.0  # on a busy machine
