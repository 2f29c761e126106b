"""Certificates of a cluster: who may use them, for how long, and what is said when they do not fit."""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path

import pytest

from dora.cluster import authority as module
from dora.cluster.authority import Authority, expires_soon
from dora.cluster.ssh.authority import (
    authority_of,
    certify_machine,
    first_expiry,
    folder_of,
    with_own_authority,
)
from dora.cluster.ssh.certificates import machine_state
from dora.cluster.ssh.file import Cluster, Machine
from dora.errors import DoraError
from dora.transport.tls import check_machine_certificate, server_context
from dora.wire.node_config import TlsFiles

ROBOT = Machine(id="robot", host="robot.local")
CLUSTER = Cluster(address="10.0.0.1", port=6013, machines=(ROBOT,), file="cluster.yml")
DAY = datetime.timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    return authority_of(CLUSTER)


def files_of(authority: Authority, tmp_path: Path) -> TlsFiles:
    """Return the files of a machine."""
    bundle = tmp_path / "robot.pem"
    bundle.write_text(authority.certify("robot"))
    return TlsFiles(f"{folder_of(CLUSTER)}/ca.pem", str(bundle), str(bundle))


def at(monkeypatch: pytest.MonkeyPatch, shift: datetime.timedelta) -> None:
    """Make certificates as if it was another time."""
    now = datetime.datetime.now(datetime.UTC) + shift
    monkeypatch.setattr(module, "_now", lambda: now)


def test_a_machine_may_use_its_certificate_at_both_ends_of_a_link(
    authority: Authority, tmp_path: Path
) -> None:
    check_machine_certificate(files_of(authority, tmp_path), "robot")


@pytest.mark.parametrize("host", ["10.0.0.2", "fd00::2", "robot.local"])
def test_certificates_satisfy_the_strictest_clients(
    authority: Authority, tmp_path: Path, host: str
) -> None:
    bundle = tmp_path / "coordinator.pem"
    bundle.write_text(authority.certify("coordinator", hosts=["10.0.0.2", "fd00::2", "robot.local"]))
    client, server = (
        ssl.create_default_context(cafile=authority.file),
        server_context(str(bundle), str(bundle)),
    )
    assert server is not None
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(here, there, server_hostname=host),
        server.wrap_bio(there, here, server_side=True),
    ]
    for end in (*ends, ends[0]):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    assert ends[0].cipher()


def test_certificates_that_do_not_fit_are_refused_with_a_remedy(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(authority, tmp_path)
    with pytest.raises(
        DoraError, match=r"robot.pem is not for machine `Robot`; make another one with subjectAltName=URI"
    ):
        check_machine_certificate(files, "Robot")
    at(monkeypatch, -366 * DAY)
    with pytest.raises(DoraError, match=r"has expired, by the clock of this machine \(\d+.*or renew the"):
        check_machine_certificate(files_of(authority, tmp_path), "robot")
    at(monkeypatch, 2 * DAY)
    with pytest.raises(
        DoraError, match=r"is not valid yet, by the clock of this machine .*; set the clock"
    ):
        check_machine_certificate(files_of(authority, tmp_path), "robot")
    monkeypatch.undo()
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path / "other"))
    authority_of(CLUSTER)
    other = TlsFiles(f"{folder_of(CLUSTER)}/ca.pem", files.certificate, files.key)
    with pytest.raises(DoraError, match=r"robot.pem cannot be verified with .*/other/.*/ca.pem: "):
        check_machine_certificate(other, "robot")
    with pytest.raises(DoraError, match=r"are not a certificate and its key"):
        check_machine_certificate(TlsFiles(files.authority, files.certificate, files.authority), "robot")
    with pytest.raises(DoraError, match=r"cannot read /nowhere: No such file"):
        check_machine_certificate(TlsFiles(files.authority, files.certificate, "/nowhere"), "robot")


def test_certificates_are_renewed_a_month_before_they_expire(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not authority.is_good("", machine="robot"), "there is none yet"
    made = certify_machine(authority, ROBOT)
    kept = Path(folder_of(CLUSTER), "machine-robot.pem").read_text()
    assert "PRIVATE KEY" in made and made.endswith(kept) and "PRIVATE KEY" not in kept
    assert authority.is_good(kept, machine="robot") and not authority.is_good(kept, machine="desk")
    assert authority.certify_server(["10.0.0.1"]) and not authority.certify_server(["10.0.0.1"])
    assert authority.certify_server(["10.0.0.1", "10.0.0.9"]), "it has another address as well"
    end = first_expiry(CLUSTER)
    assert end is not None and not expires_soon(end)
    at(monkeypatch, 340 * DAY)
    assert expires_soon(end) and not authority.is_good(kept, machine="robot")
    assert authority.certify_server(["10.0.0.1"]), "it is due"


def test_the_authority_stays_and_its_files_are_of_this_user_only(authority: Authority) -> None:
    folder = Path(folder_of(CLUSTER))
    assert authority_of(CLUSTER).certificate == authority.certificate
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    found = with_own_authority(CLUSTER)
    assert found.own_authority and found.authority == f"{folder}/ca.pem"


def test_a_damaged_or_old_authority_is_reported(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        at(later, 3630 * DAY)
        with pytest.raises(
            DoraError, match=r"the authority in .* expires on 20\d\d-.*--tls cluster.yml` makes"
        ):
            authority_of(CLUSTER)
    key = Path(folder_of(CLUSTER), "ca.key")
    for damage in ("", "nonsense", authority.certify("x")):
        key.write_text(damage)
        with pytest.raises(
            DoraError, match=r"cannot use .*; after `dora cluster down cluster.yml`, remove"
        ):
            authority_of(CLUSTER)
    key.unlink()
    with pytest.raises(DoraError, match=r"cannot use .*/ca.key: No such file or directory; after"):
        authority_of(CLUSTER)


def test_a_machine_says_what_it_has(authority: Authority, tmp_path: Path) -> None:
    assert machine_state("robot").certificate == ""
    bundle = tmp_path / "machine-robot.pem"
    bundle.write_text(authority.certify("robot"))
    state = machine_state("robot")
    assert authority.is_good(state.certificate, machine="robot")
    bundle.write_text(state.certificate)
    assert machine_state("robot").certificate == "", "its key is missing"
    bundle.unlink()
    bundle.mkdir()
    with pytest.raises(DoraError, match=r"cannot read .*/machine-robot.pem: Is a directory"):
        machine_state("robot")


def test_a_server_uses_renewed_files(authority: Authority, tmp_path: Path) -> None:
    bundle = tmp_path / "robot.pem"
    bundle.write_text(authority.certify("robot"))
    context = server_context(str(bundle), str(bundle))
    assert context is not None and not context.reload()
    bundle.write_text("half a file")
    os.utime(bundle, ns=(1, 1))
    assert not context.reload(), "it waits until they are complete"
    bundle.write_text(authority.certify("robot"))
    assert context.reload() and not context.reload()
