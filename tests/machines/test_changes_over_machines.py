"""Dataflows over several machines that change while they run, in network namespaces."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from changing_machines import (
    DATAFLOW,
    NODES,
    PRESSED,
    all_get_everything,
    outlasts_a_cut,
    said_by,
    start_and_wait,
    wait_for_nodes,
    whole,
)
from cluster_system import DORA, Spread, spread_over
from hosts import network
from waiting import wait_until

pytestmark = pytest.mark.processes


@pytest.mark.slow
def test_links_and_nodes_come_and_go_between_machines(system: Spread, running: str) -> None:
    there_and_back(system, running)


@pytest.mark.slow
def test_links_inside_machines_may_be_carried_by_shm(
    namespaces: None,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    env = {"DORA_ENGINE": "shm"}
    with network("left", "right") as hosts, spread_over(hosts, tmp_path, env) as system:
        system.write({**NODES, "spread.yml": DATAFLOW})
        there_and_back(system, start_and_wait(system))


def there_and_back(system: Spread, running: str) -> None:
    """Let what `count` sends go to a new node on the other machine, and from there to `near`."""
    system.write(
        {
            "echo.yml": "{id: echo, path: echo.py, outputs: [out], inputs: {in: {source: count/out, "
            "queue_size: 1000}}, deploy: {machine: right}}"
        }
    )
    printed = system.dora("node", "add", "--from-yaml", "echo.yml")
    assert printed == f"Node `echo` added to dataflow {running}\n"
    printed = system.dora("node", "connect", "echo/out", "near/back", *PRESSED)
    assert printed == "echo/out -> near/back\n"
    said_by(system, running, "near", "back begins with")
    assert system.dora("node", "disconnect", "echo/out", "near/back") == "echo/out -x- near/back\n"
    whole(system, running, "near", "back")
    system.dora("node", "connect", "echo/out", "near/back", "--queue-size", "1000")
    said_by(system, running, "near", "back begins with", times=2)
    system.dora("node", "remove", "echo")
    whole(system, running, "near", "back", times=2)
    all_get_everything(system, running)


ADDED = "{id: echo, path: echo.py, outputs: [out], inputs: {in: count/out}, deploy: {machine: right}}"


@pytest.mark.slow
def test_a_change_links_machines_without_an_earlier_link(system: Spread) -> None:
    system.write(
        {
            "apart.yml": """
                nodes:
                  - {id: count, path: count.py, outputs: [out], deploy: {machine: left}}
                  - {id: near, path: collect.py, inputs: {numbers: {source: count/out, queue_size: 1000}},
                     deploy: {machine: left}}
                  - {id: far, path: collect.py, inputs: {tick: dora/timer/secs/100},
                     deploy: {machine: right}}
            """
        }
    )
    dataflow = system.start("apart.yml")
    said_by(system, dataflow, "near", "numbers begins with")
    right = system.hosts["right"]
    options = ("--queue-policy", "backpressure", "--queue-size", "3")
    system.dora("node", "connect", "count/out", "far/numbers", *options, host=right)
    first = said_by(system, dataflow, "far", "numbers begins with")
    (system.folder / "enough").touch()
    number = int(said_by(system, dataflow, "count", "sent ").split()[0])
    assert whole(system, dataflow, "far", "numbers") == f"{first} to {number - 1}"
    assert whole(system, dataflow, "near", "numbers") == f"0 to {number - 1}"


@pytest.mark.slow
def test_operators_get_links_from_other_machines_and_lose_them(system: Spread) -> None:
    system.write(
        {
            "hands.yml": """
                nodes:
                  - {id: count, path: count.py, outputs: [out], deploy: {machine: left}}
                  - id: hands
                    deploy: {machine: right}
                    operators:
                      - {id: one, python: hand.py, inputs: {tick: dora/timer/secs/100}}
                      - {id: two, python: hand.py, inputs: {tick: dora/timer/secs/100}}
            """
        }
    )
    dataflow = system.start("hands.yml")
    options = ("--queue-policy", "backpressure", "--queue-size", "3")
    for operator in ("one", "two"):
        system.dora("node", "connect", "count/out", f"hands/{operator}/numbers", *options)
        said_by(system, dataflow, "hands", "numbers begins with")
    system.dora("node", "disconnect", "count/out", "hands/one/numbers")
    said_by(system, dataflow, "hands", "numbers is closed: ")
    (system.folder / "enough").touch()
    number = int(said_by(system, dataflow, "count", "sent ").split()[0])

    def closings() -> list[tuple[str, str]]:
        logs = system.dora("logs", dataflow, "-n", "hands")
        found = re.findall(r"numbers is closed: \d+ to (\d+) without (\d+)", logs)
        return found if len(found) == 2 else []

    first, second = wait_until(closings, lambda: f"two closings: {system.logs(dataflow)}")
    assert (first[1], second) == ("0", (str(number - 1), "0"))


@pytest.mark.slow
def test_a_late_link_with_back_pressure_outlasts_a_cut(system: Spread, running: str) -> None:
    options = ("--queue-policy", "backpressure", "--queue-size", "3")
    system.dora("node", "connect", "count/out", "far/again", *options)
    first = said_by(system, running, "far", "again begins with")
    outlasts_a_cut(system, running, "right")
    last = int(said_by(system, running, "count", "sent ").split()[0]) - 1
    assert whole(system, running, "far", "again") == f"{first} to {last}"


@pytest.mark.slow
def test_a_replacement_takes_over_on_its_machine(system: Spread, running: str) -> None:
    system.write({"echo.yml": ADDED, "other.yml": "path: other.py", "broken.yml": "path: broken.py"})
    system.write({"broken.py": "raise SystemExit('it is broken')"})
    system.dora("node", "add", "--from-yaml", "echo.yml")
    system.dora("node", "connect", "echo/out", "near/back", "--queue-size", "1000")
    printed = system.dora("node", "replace", "echo", "--from-yaml", "broken.yml", status=1)
    assert "the replacement of node `echo` does not start, the old one goes on: it is broken" in printed
    system.write({"moved.yml": "{path: other.py, deploy: {machine: left}}"})
    printed = system.dora("node", "replace", "echo", "--from-yaml", "moved.yml", status=1)
    assert "node `echo` runs on machine `right`, and what replaces it is for `left`" in printed
    printed = system.dora("node", "replace", "echo", "--from-yaml", "other.yml")
    assert printed == f"Node `echo` replaced in dataflow {running}\n"
    said_by(system, running, "echo", "the other one")
    said_by(system, running, "near", "NODE_RESTARTED echo")
    system.dora("node", "disconnect", "count/out", "echo/in")
    system.dora("node", "connect", "count/out", "echo/in")
    all_get_everything(system, running)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["queue_size: 1000", "queue_size: 5, queue_policy: backpressure"])
def test_nothing_is_lost_by_a_replacement(system: Spread, running: str, policy: str) -> None:
    """Neither on links from another machine, nor on those inside, nor on those to another machine."""
    system.write(
        {
            "relay.yml": f"{{id: relay, path: echo.py, outputs: [out], deploy: {{machine: left}}, "
            f"inputs: {{in: {{source: count/out, {policy}}}}}}}",
            "echo.yml": f"{{id: echo, path: echo.py, outputs: [out], deploy: {{machine: right}}, "
            f"inputs: {{in: {{source: relay/out, {policy}}}}}}}",
            "other.yml": "path: other.py",
        }
    )
    system.dora("node", "add", "--from-yaml", "relay.yml")
    system.dora("node", "add", "--from-yaml", "echo.yml")
    for node in ("near", "far"):
        system.dora("node", "connect", "echo/out", f"{node}/back", "--queue-size", "1000")
        said_by(system, running, node, "back begins with")
    for node in ("echo", "relay"):
        system.dora("node", "replace", node, "--from-yaml", "other.yml")
        said_by(system, running, node, "the other one")
    (system.folder / "enough").touch()
    for node in ("near", "far"):
        whole(system, running, node, "back")
    all_get_everything(system, running)


@pytest.mark.slow
def test_a_refused_node_leaves_nothing_behind(system: Spread, running: str) -> None:
    def add(text: str) -> str:
        system.write({"new.yml": text})
        return system.dora("node", "add", "--from-yaml", "new.yml", status=1)

    assert "`new` is for machine `nowhere`, which is not there" in add(
        "{id: new, path: echo.py, deploy: {machine: nowhere}}"
    )
    assert "there is no file" in add("{id: new, path: missing.py, deploy: {machine: right}}")
    assert "has no folder /not/there" in add(
        "{id: new, path: echo.py, deploy: {machine: right, working_dir: /not/there}}"
    )
    assert "has no output `oot`" in add(
        "{id: new, path: echo.py, inputs: {in: count/oot}, deploy: {machine: right}}"
    )
    assert "no-such-program" in add("{id: new, path: no-such-program, deploy: {machine: right}}")
    system.write({"cannot.sh": "#!/no/such/interpreter\n"})
    (system.folder / "cannot.sh").chmod(0o755)
    assert "node `new` could not be started: " in add(
        "{id: new, path: ./cannot.sh, inputs: {in: count/out}, deploy: {machine: right}}"
    )
    wait_for_nodes(system, running, "count", "near", "far")
    system.write(
        {"new.yml": "{id: new, path: collect.py, inputs: {in: count/out}, deploy: {machine: right}}"}
    )
    system.dora("node", "add", "--from-yaml", "new.yml")
    said_by(system, running, "new", "in begins with")
    all_get_everything(system, running)


@pytest.mark.slow
def test_a_node_that_is_removed_can_be_added_on_another_machine(system: Spread, running: str) -> None:
    for machine in ("right", "left", "right"):
        system.write({"echo.yml": ADDED.replace("right", machine)})
        system.dora("node", "add", "--from-yaml", "echo.yml")
        system.dora("node", "connect", "echo/out", "near/back", "--queue-size", "1000")
        system.dora("node", "connect", "echo/out", "far/back", "--queue-size", "1000")
        for node in ("near", "far"):
            said_by(system, running, node, "back begins with")
        rows = system.dora("node", "list", "-d", running).splitlines()
        assert next(row.split()[2] for row in rows if row.startswith("echo")) == machine
        system.dora("node", "remove", "echo")
        wait_for_nodes(system, running, "count", "near", "far")
    closings = re.findall(r"back is closed: .* without (\d+)", system.logs(running))
    assert len(closings) == 6, system.logs(running)
    all_get_everything(system, running)


@pytest.mark.slow
def test_the_record_outlives_the_coordinator(system: Spread, running: str) -> None:
    system.write({"echo.yml": ADDED})
    system.dora("node", "add", "--from-yaml", "echo.yml")
    os.kill(system.processes["coordinator"].pid, signal.SIGKILL)
    system.processes["coordinator"].wait()
    system.start_coordinator()
    system.wait_for_machines("left", "right", "third")
    system.dora("node", "connect", "echo/out", "near/back", "--queue-size", "1000")
    said_by(system, running, "near", "back begins with")
    system.dora("node", "disconnect", "count/out", "near/numbers")
    printed = system.dora("restart", running)
    again = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]+){4}", printed)[-1]
    said_by(system, again, "near", "back begins with")
    rows = [row.split() for row in system.dora("node", "list", "-d", again).splitlines()[1:]]
    assert [(row[0], row[2]) for row in rows] == [
        *(("count", "left"), ("near", "left"), ("far", "right"), ("echo", "right"))
    ]
    (system.folder / "enough").touch()
    system.wait_for(again, "Finished")


@pytest.mark.slow
def test_parameters_that_were_set_count_for_a_restart(system: Spread, running: str) -> None:
    system.write({"echo.yml": ADDED, "own.yml": "path: other.py\nparameters: {own: 1}\n"})
    system.dora("param", "set", "far", "before", "1")
    system.dora("node", "add", "--from-yaml", "echo.yml")
    system.dora("param", "set", "echo", "gain", "2")
    system.dora("param", "set", "near", "after", "3")
    system.dora("node", "replace", "echo", "--from-yaml", "own.yml")
    printed = system.dora("restart", running)
    again = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]+){4}", printed)[-1]
    for node, then in (("far", {"before": 1}), ("echo", {"own": 1}), ("near", {"after": 3}), ("count", {})):
        printed = system.dora("param", "list", node, "-d", again, "-f", "json")
        assert json.loads(printed) == then, node
    (system.folder / "enough").touch()
    system.wait_for(again, "Finished")


@pytest.mark.slow
def test_a_machine_that_is_cut_off_is_named_and_nothing_changes(system: Spread, running: str) -> None:
    system.write({"echo.yml": ADDED})
    right = system.hosts["right"]
    right.cut()
    try:
        printed = system.dora("node", "add", "--from-yaml", "echo.yml", status=1)
        assert "machine `right`" in printed
        printed = system.dora("node", "disconnect", "count/out", "near/numbers", status=1)
        assert "machine `right` is not connected at the moment, so nothing was changed" in printed
    finally:
        right.restore()
    system.wait_for_machines("right")
    wait_for_nodes(system, running, "count", "near", "far")
    system.dora("node", "add", "--from-yaml", "echo.yml")
    wait_for_nodes(system, running, "count", "near", "far", "echo")
    all_get_everything(system, running)


@pytest.mark.slow
def test_concurrent_changes_are_applied_in_turn(system: Spread, running: str) -> None:
    names = [f"echo-{number}" for number in range(6)]
    commands = []
    for index, name in enumerate(names):
        text = ADDED.replace("id: echo,", f"id: {name},").replace("right", ("left", "right")[index % 2])
        system.write({f"{name}.yml": text})
        arguments = ("node", "add", "--from-yaml", f"{name}.yml", "-d", running)
        commands.append(system.first.popen([*DORA, *arguments], env=system.env, cwd=system.folder))
    assert [command.wait() for command in commands] == [0] * len(names)
    rows = system.dora("node", "list", "-d", running).splitlines()[1:]
    assert sorted(row.split()[0] for row in rows) == sorted([*names, "count", "near", "far"])
    all_get_everything(system, running)
