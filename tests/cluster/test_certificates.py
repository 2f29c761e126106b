"""Certificates of a cluster: who may use them, for how long, and what is said when they do not fit."""

from __future__ import annotations

import datetime
import os
import ssl
from pathlib import Path

import pytest

from dora.cluster.ssh import authority as module
from dora.cluster.ssh.authority import Authority, expires_soon, first_expiry, folder_of, with_own_authority
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
    return Authority(CLUSTER)


def files_of(authority: Authority, tmp_path: Path, address: str = "10.0.0.2") -> TlsFiles:
    """Return the files of a machine."""
    bundle = tmp_path / "robot.pem"
    bundle.write_text(authority.certify("robot", address))
    return TlsFiles(f"{folder_of(CLUSTER)}/ca.pem", str(bundle), str(bundle))


def at(monkeypatch: pytest.MonkeyPatch, shift: datetime.timedelta) -> None:
    """Make certificates as if it was another time."""
    now = datetime.datetime.now(datetime.UTC) + shift
    monkeypatch.setattr(module, "_now", lambda: now)


def test_a_machine_may_use_its_certificate_at_both_ends_of_a_link(
    authority: Authority, tmp_path: Path
) -> None:
    check_machine_certificate(files_of(authority, tmp_path), "10.0.0.2")
    check_machine_certificate(files_of(authority, tmp_path, "fd00::2"), "fd00::2")


def test_certificates_satisfy_the_strictest_clients(authority: Authority, tmp_path: Path) -> None:
    files = files_of(authority, tmp_path)
    client, server = (
        ssl.create_default_context(cafile=files.authority),
        server_context(files.key, files.key),
    )
    assert server is not None
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(here, there, server_hostname="10.0.0.2"),
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
        DoraError, match=r"robot.pem is not for 10.0.0.3, the address of this machine; make"
    ):
        check_machine_certificate(files, "10.0.0.3")
    at(monkeypatch, -366 * DAY)
    with pytest.raises(DoraError, match=r"has expired, by the clock of this machine \(\d+.*or renew the"):
        check_machine_certificate(files_of(authority, tmp_path))
    at(monkeypatch, 2 * DAY)
    with pytest.raises(
        DoraError, match=r"is not valid yet, by the clock of this machine .*; set the clock"
    ):
        check_machine_certificate(files_of(authority, tmp_path))
    monkeypatch.undo()
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path / "other"))
    Authority(CLUSTER)
    other = TlsFiles(f"{folder_of(CLUSTER)}/ca.pem", files.certificate, files.key)
    with pytest.raises(DoraError, match=r"robot.pem cannot be verified with .*/other/.*/ca.pem: "):
        check_machine_certificate(other)
    with pytest.raises(DoraError, match=r"are not a certificate and its key"):
        check_machine_certificate(TlsFiles(files.authority, files.certificate, files.authority))
    with pytest.raises(DoraError, match=r"cannot read /nowhere: No such file"):
        check_machine_certificate(TlsFiles(files.authority, files.certificate, "/nowhere"))


def test_certificates_are_renewed_a_month_before_they_expire(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not authority.is_good("", "10.0.0.2"), "there is none yet"
    made = authority.certify_machine(ROBOT, "10.0.0.2")
    kept = Path(folder_of(CLUSTER), "machine-robot.pem").read_text()
    assert "PRIVATE KEY" in made and made.endswith(kept) and "PRIVATE KEY" not in kept
    assert authority.is_good(kept, "10.0.0.2") and not authority.is_good(kept, "10.0.0.9")
    assert authority.certify_coordinator() and not authority.certify_coordinator()
    end = first_expiry(CLUSTER)
    assert end is not None and not expires_soon(end)
    at(monkeypatch, 340 * DAY)
    assert expires_soon(end) and not authority.is_good(kept, "10.0.0.2")
    assert authority.certify_coordinator(), "it is due"


def test_the_authority_stays_and_its_files_are_of_this_user_only(authority: Authority) -> None:
    folder = Path(folder_of(CLUSTER))
    assert Authority(CLUSTER).certificate == authority.certificate
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
            Authority(CLUSTER)
    key = Path(folder_of(CLUSTER), "ca.key")
    for damage in ("", "nonsense", authority.certify("x", "10.0.0.1")):
        key.write_text(damage)
        with pytest.raises(
            DoraError, match=r"cannot use .*; after `dora cluster down cluster.yml`, remove"
        ):
            Authority(CLUSTER)
    key.unlink()
    with pytest.raises(DoraError, match=r"cannot use .*/ca.key: No such file or directory; after"):
        Authority(CLUSTER)


def test_a_machine_says_what_it_has(authority: Authority, tmp_path: Path) -> None:
    assert machine_state("robot", "127.0.0.1", 6013).certificate == ""
    bundle = tmp_path / "machine-robot.pem"
    bundle.write_text(authority.certify("robot", "127.0.0.1"))
    state = machine_state("robot", "127.0.0.1", 6013)
    assert state.address == "127.0.0.1" and authority.is_good(state.certificate, "127.0.0.1")
    bundle.write_text(state.certificate)
    assert machine_state("robot", "127.0.0.1", 6013).certificate == "", "its key is missing"
    bundle.unlink()
    bundle.mkdir()
    with pytest.raises(DoraError, match=r"cannot read .*/machine-robot.pem: Is a directory"):
        machine_state("robot", "127.0.0.1", 6013)


def test_a_server_uses_renewed_files(authority: Authority, tmp_path: Path) -> None:
    bundle = tmp_path / "robot.pem"
    bundle.write_text(authority.certify("robot", "10.0.0.2"))
    context = server_context(str(bundle), str(bundle))
    assert context is not None and not context.reload()
    bundle.write_text("half a file")
    os.utime(bundle, ns=(1, 1))
    assert not context.reload(), "it waits until they are complete"
    bundle.write_text(authority.certify("robot", "10.0.0.2"))
    assert context.reload() and not context.reload()
