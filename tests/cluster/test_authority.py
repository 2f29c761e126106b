"""Certificates of an authority: who may use them, for how long, and what is said when they do not fit."""

from __future__ import annotations

import base64
import datetime
import errno
import os
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from dora.cluster import authority as module
from dora.cluster.agent.identity import LinkCertificate
from dora.cluster.authority import (
    SERVER,
    Authority,
    Signer,
    new_request,
    own_authority,
    own_certificate,
)
from dora.cluster.coordinator.api import LinkAuthority
from dora.errors import DoraError
from dora.transport.tls import check_machine_certificate, server_context
from dora.wire.node_config import TlsFiles

DAY = datetime.timedelta(days=1)
PORT = 6013


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    return own_authority(PORT)


def files_of(authority: Authority, tmp_path: Path) -> TlsFiles:
    """Return the files of a machine."""
    bundle = tmp_path / "robot.pem"
    bundle.write_text(authority.certify("robot"))
    return TlsFiles(authority.file, str(bundle), str(bundle))


def at(monkeypatch: pytest.MonkeyPatch, shift: datetime.timedelta) -> None:
    """Make certificates as if it was another time."""
    now = datetime.datetime.now(datetime.UTC) + shift
    monkeypatch.setattr(module, "_now", lambda: now)


def test_a_machine_may_use_its_certificate_at_both_ends_of_a_link(
    authority: Authority, tmp_path: Path
) -> None:
    check_machine_certificate(files_of(authority, tmp_path), "robot")


@pytest.mark.parametrize("end", ["listener", "connector"])
def test_a_certificate_that_is_replaced_while_it_is_read_is_read_again(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    files = files_of(authority, tmp_path)
    (tmp_path / "next.pem").write_text(authority.certify("robot"))
    load, loaded = ssl.SSLContext.load_cert_chain, 0

    def load_while_it_is_replaced(
        context: ssl.SSLContext, certificate: str, key: str, password: Callable[[], bytes]
    ) -> None:
        nonlocal loaded
        loaded += 1
        is_replaced = loaded == ("listener", "connector").index(end) + 1
        load(context, certificate, str(tmp_path / "next.pem") if is_replaced else key, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_while_it_is_replaced)
    check_machine_certificate(files, "robot")
    assert loaded > 2


def test_a_daemon_gets_a_certificate_for_a_key_that_it_keeps(tmp_path: Path, authority: Authority) -> None:
    certificate = LinkCertificate("robot", str(tmp_path / "daemon"))
    request = certificate.request()
    assert "PRIVATE KEY" not in request
    signed, digest = LinkAuthority(PORT, is_remote=True).sign(request, "robot")
    certificate.take(signed)
    assert certificate.write() == ""
    files = certificate.files
    assert Path(files.authority).read_text() == Path(authority.file).read_text()
    assert all(os.stat(path).st_mode & 0o077 == 0 for path in (files.authority, files.key))
    assert LinkAuthority(PORT, is_remote=True).sign(new_request("x")[1], "desk")[1] == digest, (
        "the same one"
    )
    certificate.remove()
    assert not [*tmp_path.glob("daemon*")]


def test_a_machine_whose_clock_is_years_late_can_use_its_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path))
    at(monkeypatch, 20 * 365 * DAY)  # the clock of the coordinator
    certificate = LinkCertificate("robot", str(tmp_path / "daemon"))
    signed, _ = LinkAuthority(PORT, is_remote=True).sign(certificate.request(), "robot")
    certificate.take(signed)
    assert certificate.write() == ""  # which checks it


@pytest.mark.usefixtures("authority")
def test_the_name_in_a_request_does_not_count(tmp_path: Path) -> None:
    certificate = LinkCertificate("robot", str(tmp_path / "daemon"))
    signed, _ = LinkAuthority(PORT, is_remote=True).sign(certificate.request(), "desk")
    certificate.take(signed)
    assert "daemon.next.pem is not for machine `robot`" in certificate.write()
    assert not certificate.is_there


@pytest.mark.usefixtures("authority")
def test_a_certificate_that_cannot_be_written_leaves_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is written once there is room on the disk, also if another one has been asked for meanwhile."""
    certificate = LinkCertificate("robot", str(tmp_path / "daemon"))
    links = LinkAuthority(PORT, is_remote=True)

    def take() -> str:
        certificate.take(links.sign(certificate.request(), "robot")[0])
        return certificate.write()

    assert take() == ""
    former = Path(certificate.files.certificate).read_text()

    def replace(*_: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr("os.replace", replace)
        assert take().endswith("daemon.pem cannot be written: No space left on device")
    assert Path(certificate.files.certificate).read_text() == former
    certificate.request()
    assert certificate.write() == ""
    assert Path(certificate.files.certificate).read_text() != former
    check_machine_certificate(certificate.files, "robot")
    certificate.remove()
    assert not [*tmp_path.glob("daemon*")]


@pytest.mark.parametrize("request_", ["", "nonsense", "with a wrong signature"])
def test_a_bad_request_is_refused(authority: Authority, request_: str) -> None:
    if request_ == "with a wrong signature":
        _, one = new_request("robot")
        head, *lines, foot = one.strip().splitlines()
        content = bytearray(base64.b64decode("".join(lines)))
        content[-1] ^= 1  # of the signature
        request_ = "\n".join([head, base64.b64encode(content).decode(), foot])
    with pytest.raises(ValueError, match=r"."):
        authority.sign(request_, "robot")


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
    at(monkeypatch, -3651 * DAY)
    old = Signer.new("old")
    texts = {"old-ca.pem": old.text, "old.pem": old.certify("robot")}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    former = TlsFiles(*(str(tmp_path / name) for name in ("old-ca.pem", "old.pem", "old.pem")))
    with pytest.raises(DoraError, match=r"has expired, by the clock of this machine \(\d+.*or renew the"):
        check_machine_certificate(former, "robot")
    at(monkeypatch, 2 * DAY)
    with pytest.raises(
        DoraError, match=r"is not valid yet, by the clock of this machine .*; set the clock"
    ):
        (tmp_path / "early.pem").write_text(authority.certify("robot", hosts=["10.0.0.1"]))
        early = str(tmp_path / "early.pem")
        check_machine_certificate(TlsFiles(authority.file, early, early), "robot")
    monkeypatch.undo()
    monkeypatch.setenv("DORA_DATA_DIR", str(tmp_path / "other"))
    other = TlsFiles(own_authority(PORT).file, files.certificate, files.key)
    with pytest.raises(DoraError, match=r"robot.pem cannot be verified with .*/other/.*/ca.pem: "):
        check_machine_certificate(other, "robot")
    with pytest.raises(DoraError, match=r"are not a certificate and its key"):
        check_machine_certificate(TlsFiles(files.authority, files.certificate, files.authority), "robot")
    with pytest.raises(DoraError, match=r"cannot read /nowhere: No such file"):
        check_machine_certificate(TlsFiles(files.authority, files.certificate, "/nowhere"), "robot")


def test_certificates_are_renewed_a_month_before_they_expire(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not authority.is_good("", []), "there is none yet"
    assert authority.certify_server(["10.0.0.1"]) and not authority.certify_server(["10.0.0.1"])
    assert authority.certify_server(["10.0.0.1", "10.0.0.9"]), "it has another address as well"
    at(monkeypatch, 340 * DAY)
    assert authority.certify_server(["10.0.0.1"]), "it is due"
    assert "PRIVATE KEY" in Path(authority.folder, SERVER).read_text()


def test_the_authority_stays_and_its_files_are_of_this_user_only(authority: Authority) -> None:
    folder = Path(authority.folder)
    assert own_authority(PORT).certificate == authority.certificate
    assert own_certificate(authority, "0.0.0.0").encoded == own_certificate(authority, "0.0.0.0").encoded
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_a_damaged_or_old_authority_is_reported(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as later:
        at(later, 3630 * DAY)
        with pytest.raises(DoraError, match=r"the authority in .* expires on 20\d\d-.*; remove that"):
            own_authority(PORT)
    key = Path(authority.folder, "ca.key")
    for damage in ("", "nonsense", authority.certify("x")):
        key.write_text(damage)
        with pytest.raises(DoraError, match=r"cannot use .*; remove that folder, and the next start"):
            own_authority(PORT)
    key.unlink()
    with pytest.raises(DoraError, match=r"cannot use .*/ca.key: No such file or directory; remove"):
        own_authority(PORT)


def test_a_server_uses_renewed_files(authority: Authority, tmp_path: Path) -> None:
    bundle = tmp_path / "robot.pem"
    bundle.write_text(authority.certify("robot"))
    context = server_context(str(bundle), str(bundle))
    assert context is not None and not context.reload()
    first = context.encoded
    bundle.write_text("half a file")
    os.utime(bundle, ns=(1, 1))
    assert not context.reload(), "it waits until they are complete"
    bundle.write_text(authority.certify("robot"))
    assert context.reload() and not context.reload()
    assert context.encoded != first
