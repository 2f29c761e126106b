"""What a cluster file may say, and how its mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora.cluster.ssh.file import CLUSTER, COORDINATOR, MACHINE, load_cluster, parse_cluster
from dora.errors import DataflowError

MANUAL = Path(__file__).parents[2] / "docs" / "how-to" / "cluster.md"

WHOLE = """\
coordinator:
  addr: 192.168.1.10
  port: 7000
machines:
  - id: robot
    host: robot.local
    user: ros
    port: 2222
    labels: {arm: true, gpu: rtx}
    dora: ~/venv/bin/dora
    zenoh_addr: 10.0.0.2
  - {id: desk, host: "fd00::2"}
x-notes: mine
"""


def faults(text: str, file: str = "cluster.yml") -> list[str]:
    """Return the errors of a text as "line:column message"."""
    with pytest.raises(DataflowError) as caught:
        parse_cluster(text, file)
    return [
        f"{problem.line}:{problem.column} {problem.message}"
        for problem in caught.value.problems
        if problem.severity == "error"
    ]


def test_every_field_of_a_cluster_file_is_parsed() -> None:
    cluster = parse_cluster(WHOLE, "cluster.yml")
    assert (cluster.address, cluster.port, cluster.warnings) == ("192.168.1.10", 7000, ())
    robot, desk = cluster.machines
    assert (robot.id, robot.host, robot.user, robot.port) == ("robot", "robot.local", "ros", 2222)
    assert robot.labels == {"arm": "true", "gpu": "rtx"}
    assert (robot.dora, robot.address) == ("~/venv/bin/dora", "10.0.0.2")
    assert (desk.user, desk.port, desk.labels, desk.dora) == (None, None, {}, "dora")


def test_a_coordinator_with_tls(tmp_path: Path) -> None:
    coordinator = "{addr: 10.0.0.1, tls_cert: a.pem, tls_key: keys/a.key, tls_ca: ca.pem}"
    text = f"coordinator: {coordinator}\nmachines: [{{id: a, host: b}}]"
    file = tmp_path / "cluster.yml"
    assert [fault.partition(" ")[2] for fault in faults(text, str(file))] == [
        f"there is no file {tmp_path}/{name}" for name in ("a.pem", "keys/a.key", "ca.pem")
    ]
    (tmp_path / "keys").mkdir()
    for name in ("a.pem", "keys/a.key", "ca.pem"):
        (tmp_path / name).touch()
    cluster = parse_cluster(text, str(file))
    assert (cluster.certificate, cluster.key) == (f"{tmp_path}/a.pem", f"{tmp_path}/keys/a.key")
    assert cluster.authority == f"{tmp_path}/ca.pem"
    lacking = text.replace(", tls_ca: ca.pem", "").replace("tls_cert: a.pem, ", "")
    assert faults(lacking, str(file)) == ["1:31 `tls_key` does not go without `tls_cert` and `tls_ca`"]


def test_a_minimal_cluster_file_has_defaults() -> None:
    cluster = parse_cluster("coordinator: {addr: 10.0.0.1}\nmachines: [{id: a, host: b}]", "cluster.yml")
    assert cluster.port == 6013


def test_all_mistakes_are_reported_at_once_with_their_lines() -> None:
    text = """\
coordinator:
  addr: localhost
  prot: 6013
machines:
  - id: "my robot"
    host: -oProxyCommand=reboot
    user: a;b
    dora: dora; reboot
    zenoh_addr: 0.0.0.0
  - host: desk
  - {id: twin, host: a}
  - {id: twin, host: b, port: 70000}
"""
    assert faults(text) == [
        "2:9 `localhost` is not an IP address",
        "3:3 `coordinator` has no field `prot`",
        "5:9 the machine id `my robot` has to be of 1 to 63 letters (a-z), digits, `_`, `.` and `-`, and "
        "begin with none of the last two",
        "6:11 `-oProxyCommand=reboot` cannot be the name of a host",
        "7:11 `a;b` cannot be the name of a user",
        "8:11 `dora; reboot` cannot be a command",
        "9:17 `0.0.0.0` is not an address that another machine can connect to",
        "10:5 the field `id` of a machine is missing",
        "12:10 there is another machine `twin`, on line 11",
        "12:31 expected a whole number from 1 to 65535, found `70000`",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1 a cluster file is a mapping"),
        ("- a", "1:1 a cluster file is a mapping"),
        ("machines: []", "1:1 the field `coordinator` of a cluster is missing"),
        ("coordinator: {addr: 10.0.0.1}", "1:1 the field `machines` of a cluster is missing"),
        ("coordinator: {addr: 10.0.0.1}\nmachines: []", "2:11 a cluster has at least one machine"),
        (
            "coordinator: {addr: 127.0.0.1}\nmachines: [{id: far, host: far.local}]",
            "1:21 the machine `far` cannot reach a coordinator at `127.0.0.1`",
        ),
        (
            "coordinator: {addr: 10.0.0.1}\nzenoh_peer: tcp/a:1\n"
            "machines: [{id: a, host: b, zenoh_port: 7}]",
            "3:29 `zenoh_port` does not go with `zenoh_peer`",
        ),
        ("coordinator: {addr: 10.0.0.1}\nmachines: [{id: a, host: b}\n", "2:11 this list is never closed"),
    ],
)
def test_a_mistake_is_reported(text: str, message: str) -> None:
    assert any(fault.startswith(message) for fault in faults(text)), faults(text)


def test_fields_of_dora_rs_without_effect_cause_a_warning() -> None:
    text = "coordinator: {addr: 10.0.0.1}\nmachines: [{id: a, host: b, daemon_port: 8}]"
    warnings = parse_cluster(text, "cluster.yml").warnings
    assert len(warnings) == 1 and "cluster.yml:2:29: warning: `daemon_port` has no effect" in warnings[0]


def test_a_machine_has_a_port_for_links_another_one_or_none() -> None:
    text = "coordinator: {addr: 10.0.0.1}\nmachines: [{id: a, host: b, zenoh_port: PORT}, {id: c, host: d}]"
    for port in (0, 7000):
        cluster = parse_cluster(text.replace("PORT", str(port)), "cluster.yml")
        assert [machine.link_port for machine in cluster.machines] == [port, None]
        assert cluster.warnings == ()
    wrong = text.replace("PORT", "65536")
    assert faults(wrong) == ["2:41 expected a whole number from 0 to 65535, found `65536`"]


def test_a_loopback_coordinator_serves_local_machines() -> None:
    text = "coordinator: {addr: 127.0.0.1}\nmachines: [{id: a, host: localhost}, {id: b, host: 127.0.0.2}]"
    assert len(parse_cluster(text, "cluster.yml").machines) == 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "cluster.yml").write_text("")
    with pytest.raises(DataflowError, match=r"there is no file .*; did you mean `cluster.yml`"):
        load_cluster(tmp_path / "clusters.yml")


def test_every_field_is_in_the_manual() -> None:
    manual = MANUAL.read_text(encoding="utf-8")
    for block in (CLUSTER, COORDINATOR, MACHINE):
        for name in block.fields:
            assert f"| `{name}` |" in manual, f"{MANUAL} does not describe `{name}`"
