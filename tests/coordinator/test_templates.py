"""The template processes of a machine, as `dora status` shows them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from system import System, own_system
from waiting import TIMEOUT, alive, wait_until

from dora.cluster.agent.warm_templates import WarmTemplates
from dora.daemon.template.checks import LOOK_EVERY
from dora.daemon.template.client import ANSWER_TIMEOUT

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="templates need Linux"),
]

HOLDS_MEMORY = """
    import yaml
    from dora import Node
    held = bytearray(b"x") * (64 << 20)
    for event in Node():
        pass
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    with own_system(tmp_path, monkeypatch, own_template=True) as system:
        yield system


RUNS = "from dora import Node\nfor event in Node(): pass"


def templates(system: System) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(system.dora("status", "-f", "json"))["templates"]
    return found


def pids(system: System) -> list[int]:
    return [template["pid"] for template in templates(system)]


def named_packages(file: Path, **packages: list[str]) -> str:
    """Name packages for the nodes of a dataflow file, and return its name."""
    dataflow = json.loads(file.read_text())
    for node in dataflow["nodes"]:
        node |= {"preload": packages[node["id"]]} if node["id"] in packages else {}
    file.write_text(json.dumps(dataflow))
    return file.name


def test_status_shows_the_template_processes_of_the_machine(system: System) -> None:
    system.dora("up")
    wait_until(lambda: len(templates(system)) == 1, "the template process")
    (base,) = templates(system)
    assert (base["machine"], base["interpreter"], base["packages"]) == ("default", sys.executable, [])
    assert base["starts"] == 0 and base["memory"] > 1 << 20
    system.dataflow("arm", a=RUNS, b=HOLDS_MEMORY)
    system.start(named_packages(system.folder / "arm.yml", b=["yaml"]))
    base, child = templates(system)
    assert (base["starts"], child["starts"], child["packages"]) == (1, 1, ["yaml"])
    assert child["since"] > base["since"]
    shown = system.dora("status")
    assert f"✓ Template process {base['pid']} on default: 1 start, " in shown
    assert f"✓ Template process {child['pid']} on default with yaml: 1 start, " in shown
    system.start(system.dataflow("leg", a=RUNS), "--no-preload")
    assert [template["starts"] for template in templates(system)] == [1, 1]
    wait_until(lambda: system.client.dataflows()[0].memory > 64 << 20, "the memory of forked nodes")


@pytest.mark.slow
def test_a_new_template_takes_the_place_of_one_whose_packages_have_changed(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a dataflow runs whose nodes the old one has forked."""
    packages = system.folder / "site-packages"
    packages.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(packages), prepend=os.pathsep)
    system.dora("up")
    wait_until(lambda: len(templates(system)) == 1, "the template process")
    (old,) = templates(system)
    first = system.start(system.dataflow("arm", a=RUNS))
    wait_until(lambda: [template["starts"] for template in templates(system)] == [1], "the first node")
    (packages / "new.py").write_text("")
    written = time.monotonic()
    wait_until(lambda: time.monotonic() > written + LOOK_EVERY, "the next look at the packages")
    system.start(system.dataflow("leg", a=RUNS))
    wait_until(lambda: pids(system) not in ([], [old["pid"]]), "another template process in its place")
    assert system.status_of(first) == "Running"
    system.start(system.dataflow("eye", a=RUNS))
    assert [template["starts"] for template in templates(system)] == [1]
    system.dora("stop", first)
    wait_until(lambda: not alive(old["pid"]), "the end of the old one, with its last node")


def test_a_stopped_template_holds_up_no_dataflow(system: System) -> None:
    system.dora("up")
    wait_until(lambda: len(templates(system)) == 1, "the template process")
    (base,) = templates(system)
    os.kill(base["pid"], signal.SIGSTOP)
    started = time.monotonic()
    system.start(system.dataflow("arm", a=RUNS))
    assert time.monotonic() - started < ANSWER_TIMEOUT / 2
    os.kill(base["pid"], signal.SIGCONT)


def test_the_nodes_of_a_run_have_its_cores(system: System) -> None:
    system.dora("up")
    wait_until(lambda: len(templates(system)) == 1, "the template process")
    core = min(os.sched_getaffinity(0))
    file = system.dataflow("arm", a="import os\nprint(os.sched_getaffinity(0))")
    text = subprocess.run(
        [sys.executable, "-m", "dora", "run", file],
        cwd=system.folder,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert f"{{{core}}}" in text.stdout + text.stderr
    assert [template["starts"] for template in templates(system)] == [1]


@pytest.mark.usefixtures("system")
def test_daemons_of_one_user_share_a_template() -> None:
    async def have_two() -> None:
        first, second = WarmTemplates(), WarmTemplates()
        try:
            first.ensure(sys.executable)
            second.ensure(sys.executable)
            assert await asyncio.to_thread(second.views) == []
            await second.close()
            await asyncio.to_thread(wait_until, first.views, "the template of the first one")
            await first.close()
            second.ensure(sys.executable)
            await asyncio.to_thread(wait_until, second.views, "a template of the second one")
        finally:
            await first.close()
            await second.close()

    asyncio.run(have_two())


@pytest.mark.usefixtures("system")
def test_a_daemon_leaves_the_template_of_another_one_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own template has ended for good, so the other daemon has started the next one."""
    monkeypatch.setattr("dora.cluster.agent.warm_templates._MAX_KILLS", 1)

    async def have_two() -> None:
        first, second = WarmTemplates(), WarmTemplates()
        try:
            first.ensure(sys.executable)
            await asyncio.to_thread(wait_until, first.views, "the template of the first one")
            kept = first._templates[sys.executable]
            kept._process.kill()
            async with asyncio.timeout(TIMEOUT):
                await kept._watching
            second.ensure(sys.executable)
            await asyncio.to_thread(wait_until, second.views, "the template of the second one")
            await first.close()
            assert await asyncio.to_thread(second.views)
        finally:
            await first.close()
            await second.close()

    asyncio.run(have_two())


def test_a_daemon_says_that_its_templates_have_no_guardian(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sh").touch()  # which cannot be executed
    monkeypatch.setattr("dora.daemon.watchdog._SHELL", str(tmp_path / "sh"))
    monkeypatch.setattr("dora.cluster.agent.warm_templates._is_served", lambda _: False)
    monkeypatch.setattr("dora.cluster.agent.warm_templates._Kept", lambda *_: None)
    WarmTemplates().ensure(sys.executable)
    assert [record.getMessage() for record in caplog.records] == [
        "template processes: no guardian can be started (Permission denied); "
        "a crash would leave processes behind"
    ]
