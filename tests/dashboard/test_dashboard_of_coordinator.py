"""The dashboard of a coordinator in a real browser: many dataflows, ended ones, the token."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from browsing import NEEDS_CHROMIUM, TIMEOUT, Opened, wait_for_line
from system import FOREVER, System
from waiting import wait_until

pytestmark = [pytest.mark.processes, NEEDS_CHROMIUM]

FAILS = """
from dora import Node
node = Node()
print("I am about to fail", flush=True)
node.next()
raise ValueError("out of ideas")
"""
SENDS = """
import numpy as np
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("number", np.array([1.0]))
"""


def base(system: System) -> str:
    return f"http://127.0.0.1:{system.port}/"


def address(system: System) -> str:
    """Return the address at which a browser is let in."""
    return system.client.dashboard()


@pytest.mark.slow
def test_the_page_lists_dataflows_and_opens_their_nodes(system: System, visit: Any) -> None:
    file = system.dataflow("robot", arm=FOREVER, leg=FOREVER)
    system.dora("up")
    system.start(file, "--name", "kitchen")
    page = visit(address(system), ready=".listed")
    listed = page.locator(".listed")
    assert "kitchen" in listed.inner_text() and "2 nodes" in listed.inner_text()
    listed.click()
    page.wait_for_selector('.box[data-id="arm"][data-tone="fine"]')
    # A node is restarted, one is stopped, the other goes on.
    page.click('.box[data-id="arm"]')
    details = page.locator(".details")
    first = details.locator("dd").nth(3).inner_text()
    details.get_by_role("button", name="Restart", exact=True).click()
    details.get_by_role("button", name="Really restart?").click()
    wait_for_line(page, "--- restart 1 ---")
    page.wait_for_selector('.box[data-id="arm"][data-tone="fine"]')
    page.wait_for_function(
        """(first) => ![first, "–"].includes(document.querySelectorAll(".details dd")[3].textContent)""",
        arg=first,
    )
    details.get_by_role("button", name="Stop", exact=True).click()
    details.get_by_role("button", name="Really stop?").click()
    page.wait_for_selector('.box[data-id="arm"][data-tone="rest"]')
    assert page.locator('.box[data-id="leg"]').get_attribute("data-tone") == "fine"
    # The graph follows a change of the dataflow.
    (system.folder / "more.yml").write_text(
        "id: hand\npath: robot_leg.py\ninputs: {tick: dora/timer/secs/1}\n"
    )
    system.dora("node", "add", "--from-yaml", "more.yml", "-d", "kitchen")
    page.wait_for_selector('.box[data-id="hand"][data-tone="fine"]')
    page.locator("nav").get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Really stop?").click()
    page.wait_for_selector('header .chip >> text="Finished"')
    page.get_by_role("button", name="All dataflows").click()
    page.wait_for_selector('.listed .chip >> text="Finished"')


@pytest.mark.slow
def test_how_a_dataflow_failed_can_be_read_afterwards(system: System, visit: Any) -> None:
    file = system.dataflow("unlucky", thinker=FAILS, other=FOREVER)
    system.dora("up")
    dataflow_id = system.dora("start", file, "--detach").split()[-1]
    wait_until(lambda: "(first failure)" in system.dora("logs", dataflow_id), "the failure of the node")
    page = visit(address(system), ready=".listed")
    reason = page.locator(
        ".listed .bad", has_text="node `thinker` exited with status 1: ValueError: out of ideas ("
    )
    reason.wait_for()
    page.wait_for_selector('.listed .chip.bad >> text="Running"')
    system.dora("stop", "--all", status=1)
    page.wait_for_selector('.listed .chip.bad >> text="Failed"')
    reason.wait_for()
    assert str(system.folder) in page.locator(".listed").inner_text()
    page.goto(f"{base(system)}#{dataflow_id}")
    outcome = page.locator(".outcome")
    outcome.wait_for()
    assert "thinker" in outcome.inner_text() and "out of ideas" in outcome.inner_text()
    wait_for_line(page, "I am about to fail")
    page.get_by_label("Level", exact=True).select_option("error")
    page.wait_for_selector("text=/[1-9][0-9]* found/")
    wait_for_line(page, "exited with status 1: ValueError: out of ideas")


@pytest.mark.slow
def test_the_list_goes_on_after_the_page_of_an_ended_dataflow_has_lost_its_connection(
    system: System, visit: Any
) -> None:
    import psutil

    file = system.dataflow("robot", arm=FOREVER)
    system.dora("up")
    system.start(file, "--name", "kitchen")
    page = visit(address(system), ready=".listed")
    page.click(".listed")
    page.locator(".entry .message", has_text="got INPUT").first.wait_for()
    system.dora("stop", "kitchen")
    page.locator(".outcome").wait_for()
    (watcher,) = psutil.Process(system.coordinator()).children()
    watcher.terminate()
    watcher.wait(TIMEOUT / 1000)
    # The page connects again: the log can be searched.
    page.get_by_label("Text", exact=True).fill("got INPUT")
    page.wait_for_selector("text=/[1-9][0-9]* found/")
    page.wait_for_selector('header .chip >> text="Finished"')
    page.get_by_role("button", name="All dataflows").click()
    system.start(file, "--name", "garage")
    page.locator(".listed", has_text="garage").wait_for()


@pytest.mark.slow
def test_a_restart_leads_to_the_page_of_the_new_run(system: System, visit: Any) -> None:
    file = system.dataflow("robot", arm=FOREVER)
    system.dora("up")
    old = system.start(file)
    page = visit(address(system), ready=".listed")
    page.goto(f"{base(system)}#{old}")
    page.locator("nav").get_by_role("button", name="Restart").click()
    page.get_by_role("button", name="Really restart?").click()
    page.wait_for_function("(old) => location.hash.length > 20 && location.hash !== `#${old}`", arg=old)
    page.wait_for_selector('.box[data-id="arm"][data-tone="fine"]')


@pytest.mark.slow
def test_the_printed_address_or_the_token_lets_a_browser_in(system: System, browser: Any) -> None:
    system.dora("up")
    token = Path(system.folder, "config", "dora", ".dora-token").read_text().strip()
    opened = Opened(browser, {"width": 800, "height": 600})
    page = opened.page
    page.goto(base(system))
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector("text=this is not the token")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector("text=No dataflow was started yet")
    page.reload()
    page.wait_for_selector("text=No dataflow was started yet")
    assert page.evaluate("document.cookie") == ""  # out of the reach of scripts
    for place in (f"{base(system)}#token={token}", address(system)):
        opened.context.clear_cookies()
        page.goto("about:blank")
        page.goto(place)
        page.wait_for_selector("text=No dataflow was started yet")
        assert page.url == base(system)
    # A cookie goes to every port of the host; what the page keeps stays at its own.
    page.evaluate("localStorage.clear()")
    page.reload()
    page.get_by_label("Token").wait_for()
    opened.context.close()
    assert opened.errors == []
    log = Path(system.folder, "out", "dora-coordinator.txt").read_text()
    assert token not in log and "ticket=" not in log


@pytest.mark.slow
def test_no_watcher_runs_without_a_browser(system: System, browser: Any) -> None:
    import psutil

    file = system.dataflow("robot", arm=SENDS)
    (system.folder / file).write_text(
        (system.folder / file).read_text().replace('"path"', '"outputs": ["number"], "path"')
    )
    system.dora("up")
    system.start(file)
    coordinator = psutil.Process(system.coordinator())
    opened = Opened(browser, {"width": 800, "height": 600})
    opened.page.goto(address(system))
    opened.page.click(".listed")
    opened.page.click('.box[data-id="arm"]')
    opened.page.wait_for_selector('[data-topic="arm/number"] .numbers')
    (watcher,) = coordinator.children()
    # The browser goes away in the middle of it.
    opened.context.close()
    watcher.wait(TIMEOUT / 1000)

    def share() -> float:
        """Return which share of the time of one processor it takes."""
        before, begun = coordinator.cpu_times(), time.monotonic()
        time.sleep(1.0)  # what it costs is measured over a time
        after, seconds = coordinator.cpu_times(), time.monotonic() - begun
        return float(after.user + after.system - before.user - before.system) / seconds

    wait_until(lambda: share() < 0.05, "the coordinator to rest")  # once it has tidied up


@pytest.mark.slow
def test_nodes_of_another_machine_are_shown_and_changed_as_those_here(system: System, visit: Any) -> None:
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # another machine has other places
    (system.folder / "far.py").write_text(SENDS)
    (system.folder / "near.py").write_text(FOREVER)
    flow = {
        "nodes": [
            {
                "id": "far",
                "path": "far.py",
                "inputs": {"tick": "dora/timer/millis/50"},
                "outputs": ["number"],
                "deploy": {"machine": "arm"},
            },
            {"id": "near", "path": "near.py", "inputs": {"number": "far/number"}},
        ]
    }
    (system.folder / "spread.json").write_text(json.dumps(flow))
    system.dora("up")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "dora", "daemon", "--machine-id", "arm", "--quiet"],
        env={**os.environ, "DORA_RUNTIME_DIR": root},
        cwd=system.folder,
    )
    try:
        wait_until(lambda: len(system.client.status().daemons) == 2, "the other daemon")
        system.start("spread.json")
        page = visit(address(system), ready=".listed")
        page.click(".listed")
        page.wait_for_function("""() => /^arm: [0-9]+ % . [0-9.]+ MB$/.test(
            document.querySelector('.box[data-id="far"] .program')?.textContent)""")
        page.wait_for_function(
            """() => parseFloat(document.querySelector(".remark text")?.textContent) > 5"""
        )
        page.click('.box[data-id="far"]')
        page.wait_for_selector('[data-topic="far/number"] .numbers')
        page.get_by_label("New parameter").fill("mode")
        page.get_by_label("Its value").fill("fast")
        page.get_by_role("button", name="Add").click()
        page.wait_for_selector("text=mode is set")
        page.get_by_role("button", name="Restart", exact=True).last.click()
        page.get_by_role("button", name="Really restart?").click()
        wait_for_line(page, "--- restart 1 ---")
        page.locator(".entry .node", has_text="near").first.wait_for()
        system.dora("stop", "--all")
    finally:
        daemon.terminate()
        daemon.wait(TIMEOUT / 1000)
        shutil.rmtree(root, ignore_errors=True)
