"""The page shows the networks between machines, and names an output that takes most of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import NEEDS_CHROMIUM, Running

from dora.observe.networks import NetworkRate, StreamRate, as_json

pytestmark = [pytest.mark.processes, NEEDS_CHROMIUM]

PROGRAMS = {
    "camera.py": """
        from dora import Node
        for event in Node():
            pass
        """
}
FLOW = "nodes: [{id: camera, path: camera.py, inputs: {tick: dora/timer/millis/100}}]"
FIGURES = {
    "available": 1_250_000,
    "round_trip": 21_000_000,
    "normal_waiting": 2,
    "control_age_median": 26_000_000,
    "control_age_p99": 64_000_000,
}


def network(share: float, state: str = "connected") -> NetworkRate:
    streams = [StreamRate("camera/image", share * 1.25e6, share)]
    return NetworkRate("robot", "desk", state, 1.2e6, 0.02, FIGURES, streams)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("networks"), PROGRAMS, FLOW)
    yield running
    running.end()


class Robot:
    """Puts the networks of a spread dataflow into what the server says about one on this machine."""

    def __init__(self) -> None:
        self.networks: list[NetworkRate] = []

    def between(self, socket: Any) -> None:
        server = socket.connect_to_server()

        def pass_on(message: Any) -> None:
            if isinstance(message, str) and '"state"' in message:
                value = json.loads(message)
                value["state"]["networks"] = [as_json(item) for item in self.networks]
                message = json.dumps(value)
            socket.send(message)

        server.on_message(pass_on)


@pytest.mark.slow
def test_an_output_that_takes_most_of_a_network_is_named(browser: Any, running: Running) -> None:
    robot = Robot()
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.route_web_socket("**/live", robot.between)
    page = context.new_page()
    page.goto(running.address)
    page.wait_for_selector("body.ready")
    details = page.get_by_label("Details")
    details.get_by_text("Overview").wait_for()
    assert not page.get_by_text("Between machines").count()

    robot.networks = [network(0.94)]
    said = "camera/image takes 94 % of the network to `desk`: compress it, or lower its rate"
    page.get_by_role("status").filter(has_text=said).wait_for()
    details.get_by_text("1.2 MB/s of 1.3 MB/s, round trip 21.0 ms, loss 2.0 %.").wait_for()
    details.get_by_text(
        "Messages of control priority are 26.0 ms old on arrival (99 %: 64.0 ms)."
    ).wait_for()
    details.get_by_text("Messages that wait: 2 normal.").wait_for()

    robot.networks = [network(0.3, "cut")]
    details.get_by_text("cut", exact=True).wait_for()
    page.get_by_text(said).wait_for(state="detached")
    context.close()
