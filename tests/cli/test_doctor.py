"""`dora doctor`: what it looks at, and what it says when something is wrong."""

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path

import pytest

import dora
from dora.cli.main import run_command_line
from dora.daemon.build.pip import Fault
from dora.daemon.hardware import Condition
from dora.errors import SharedMemoryFull


@pytest.fixture
def doctor(capsys):
    """Run `dora doctor`: (exit status, lines of stdout, stderr)."""

    def run(*arguments):
        status = run_command_line(["doctor", *arguments])
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err

    return run


@pytest.fixture
def no_run(monkeypatch):
    """Leave out the check that starts processes."""
    monkeypatch.setattr("dora.cli.commands.doctor._round_trip", lambda: iter(()))


@pytest.mark.processes
def test_a_good_installation(doctor):
    status, out, err = doctor()
    assert (status, err) == (0, "")
    assert {line[:8] for line in out} <= {"  PASS  ", "  WARN  "}
    assert out[0].startswith(f"  PASS  {dora.__implementation__} in ")
    assert any(line.startswith("  PASS  pyarrow ") for line in out)
    assert out[-1].startswith("  PASS  a dataflow of two nodes ran in ")


@pytest.mark.lengthy
@pytest.mark.usefixtures("no_run")
def test_every_failure_is_counted(doctor, monkeypatch, tmp_path):
    (tmp_path / "dora").mkdir()
    (tmp_path / "dora" / "__init__.py").write_text("from .dora import *\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))

    def full(_=0):
        raise SharedMemoryFull("/dev/shm has 1.0 MiB left")

    monkeypatch.setattr("dora.daemon.run_directory.check_shared_memory", full)
    status, out, err = doctor()
    assert (status, err) == (1, "2 check(s) failed\n")
    assert any(line.startswith("  FAIL  dora-rs is installed over this dora; mend it") for line in out)
    assert "  FAIL  /dev/shm has 1.0 MiB left" in out


@pytest.mark.lengthy
@pytest.mark.usefixtures("no_run")
def test_the_folder_of_sockets_is_named_with_the_reason(doctor, monkeypatch):
    folder = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")
    try:
        monkeypatch.setenv("DORA_RUNTIME_DIR", folder)
        (Path(folder) / "letter").touch()
        where = f"{folder}/dora-{os.getuid()}"
        why = f"DORA_RUNTIME_DIR is set, and dora did not make {folder} itself"
        assert f"  PASS  sockets and locks in {where}, because {why}" in doctor()[1]
        os.chmod(where, 0o755)
        status, out, _ = doctor()
        assert status == 1
        assert any(line.startswith(f"  FAIL  {where} gives other users access") for line in out)
    finally:
        shutil.rmtree(folder)


@pytest.mark.lengthy
@pytest.mark.usefixtures("no_run")
def test_a_board_that_is_slowed_down_is_a_warning_with_the_remedy(doctor, monkeypatch):
    conditions = [Condition("temperature: 81 °C"), Condition("the processor is throttled", "give it a fan")]
    monkeypatch.setattr("dora.daemon.hardware.read_hardware", lambda: iter(conditions))
    status, out, _ = doctor()
    assert status == 0
    assert "  PASS  temperature: 81 °C" in out
    assert "  WARN  the processor is throttled; give it a fan" in out


@pytest.mark.usefixtures("no_run")
def test_missing_requirements_of_node_packages_are_warnings(doctor, monkeypatch):
    class Package:
        name = "some-node"
        requires = ("dora-rs>=0.3.9", "numpy<2")

    monkeypatch.setattr("importlib.metadata.distributions", lambda: [Package])
    lacks = {"some-node": [Fault("numpy<2", "some-node", "2.1")]}
    monkeypatch.setattr("dora.daemon.build.pip.faults", lambda asked: lacks.get(asked[0], []))
    status, out, _ = doctor()
    assert status == 0
    expected = "some-node requires numpy<2, but 2.1 is installed"
    assert f"  WARN  the node package some-node lacks a requirement: {expected}" in out
    assert "  PASS  1 node package in this environment" in out


@pytest.mark.processes
@pytest.mark.usefixtures("no_run")
def test_a_dataflow_is_checked_with_its_files(doctor, tmp_path):
    file = tmp_path / "dataflow.yml"
    file.write_text("nodes: [{id: a, path: a.py}]\n")
    status, out, _ = doctor("--dataflow", str(file))
    assert status == 1
    assert any("FAIL" in line and "there is no file" in line for line in out)
    (tmp_path / "a.py").touch()
    status, out, _ = doctor("--dataflow", str(file))
    assert status == 0 and f"  PASS  {file}: 1 node" in out
    file.write_text("nodes: [{id: a, pth: a.py}]\n")
    status, out, _ = doctor("--dataflow", str(file))
    assert status == 1 and f"  FAIL  {file} cannot be used:" in out


def test_running_is_refused_while_dora_rs_lies_over_this_dora(monkeypatch, capsys):
    monkeypatch.delattr(dora, "__implementation__")
    assert run_command_line(["validate", "any.yml"]) == 1
    assert "dora-rs 1.1.0 is installed over this dora, so nodes would use that" in capsys.readouterr().err
