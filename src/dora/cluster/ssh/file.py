"""``cluster.yml`` → a checked `Cluster`: the coordinator, and the machines with the way to each by ssh.

A cluster is encrypted until `--no-tls` says otherwise; this machine records that choice.
"""

from __future__ import annotations

import ipaddress
import os
import re

import msgspec

from dora._paths import DEFAULT_LINK_PORT, DEFAULT_PORT, LOOPBACK, NO_TLS, data_folder
from dora._shared_folders import check_folder_if_there
from dora.dataflow.parser.deploy import MACHINE_NAME, Labels
from dora.dataflow.problems import ProblemReport
from dora.dataflow.yaml.compose import compose_mapping
from dora.dataflow.yaml.field_types import FieldType, ListType, Reader, Schema, TextType
from dora.dataflow.yaml.files import Unreadable, read_text
from dora.dataflow.yaml.number_types import IntegerType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock
from dora.dataflow.yaml.tree import YamlNode
from dora.errors import DataflowError, cannot_write

_PORT = IntegerType(1, 65535)
_HOST = r"[A-Za-z0-9:][A-Za-z0-9._:-]*"
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?"


class Machine(msgspec.Struct, frozen=True):
    """A machine that ssh reaches at ``port``. ``dora`` is the command on that machine."""

    id: str
    host: str
    user: str | None = None
    port: int | None = None
    labels: dict[str, str] = {}
    address: str | None = None  # where other machines reach it; None: where the coordinator sees it
    link_port: int | None = None  # as `dora.cluster.agent.identity.Identity` has it
    dora: str = "dora"
    connection: str = ""  # the socket of an `SshConnection` that commands use; "": each makes its own


class Cluster(msgspec.Struct, frozen=True):
    """``file`` is how messages call the cluster file."""

    address: str
    port: int
    machines: tuple[Machine, ...]
    file: str
    warnings: tuple[str, ...] = ()
    certificate: str = ""  # these two are files, or "" for a certificate that the coordinator makes
    key: str = ""
    authority: str = ""  # a file, "", or `NO_TLS`, see `dora.transport.proof.proven_connection`


class _Word(FieldType[str]):
    """A text that a shell takes as one plain word."""

    def __init__(self, wanted: str, pattern: str, allowed: str) -> None:
        self.wanted = wanted
        self.pattern = pattern
        self.allowed = allowed

    def read(self, value: YamlNode, reader: Reader) -> str | None:
        text = TextType(self.wanted, may_be_empty=False).read(value, reader)
        if text is not None and not re.fullmatch(self.pattern, text):
            reader.report.error(value, f"`{text[:60]}` cannot be {self.wanted}", self.allowed)
            return None
        return text

    def schema(self) -> Schema:
        return {"type": "string", "pattern": f"^{self.pattern}$"}


class _Address(FieldType[str]):
    """An IP address at which machines can be reached."""

    def read(self, value: YamlNode, reader: Reader) -> str | None:
        text = TextType("an IP address", may_be_empty=False).read(value, reader)
        if text is None:
            return None
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            reader.report.error(value, f"`{text[:60]}` is not an IP address", "for example `192.168.1.10`")
            return None
        if address.is_unspecified:
            reader.report.error(
                value,
                f"`{text}` is not an address that another machine can connect to",
                "give the address that this machine has in the network of the cluster",
            )
            return None
        return text

    def schema(self) -> Schema:
        return {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}


class _ClusterFilePath(FieldType[str]):
    """A file on this machine, relative to the folder of the cluster file."""

    def read(self, value: YamlNode, reader: Reader) -> str | None:
        text = TextType("a file", may_be_empty=False).read(value, reader)
        if text is None:
            return None
        path = os.path.abspath(os.path.join(reader.report.folder, os.path.expanduser(text)))
        if not os.path.isfile(path):
            reader.report.error(value, f"there is no file {path}", "paths begin in the folder of this file")
            return None
        return path

    def schema(self) -> Schema:
        return {"type": "string", "minLength": 1}


COORDINATOR = SchemaBlock(
    "`coordinator`",
    [
        Field(
            "addr",
            _Address(),
            "The IP address of the machine on which you give the commands, as the others reach it.",
            required=True,
        ),
        Field("port", _PORT, "The port of the coordinator.", default=DEFAULT_PORT),
        Field("tls_cert", _ClusterFilePath(), "The certificate of the coordinator, which has TLS then."),
        Field("tls_key", _ClusterFilePath(), "The key of the certificate."),
        Field("tls_ca", _ClusterFilePath(), "The authority that has signed the certificate."),
    ],
)

MACHINE = SchemaBlock(
    "a machine",
    [
        Field("id", MACHINE_NAME, "The name of the machine, for `deploy: {machine: ID}`.", required=True),
        Field(
            "host",
            _Word(
                "the name of a host",
                _HOST,
                "a name or an address, as for `ssh`; a user and a port are fields of their own",
            ),
            "The host that ssh connects to: a name, an address, or a `Host` of your ssh configuration.",
            required=True,
        ),
        Field(
            "user",
            _Word(
                "the name of a user",
                _USER,
                "letters, digits, `_`, `.` and `-` are allowed",
            ),
            "The user on that machine; by default as your ssh configuration says.",
        ),
        Field("port", _PORT, "The port of ssh; by default as your ssh configuration says."),
        Field("labels", Labels(), "Labels of the machine, for `deploy: {labels: ...}`."),
        Field(
            "dora",
            _Word(
                "a command",
                r"(~/|/)?[A-Za-z0-9_.][A-Za-z0-9_./+-]*",
                "a path of letters, digits, `_`, `.`, `/`, `+` and `-`, such as `~/venv/bin/dora`",
            ),
            "The `dora` command on that machine, for example in a virtual environment: `~/venv/bin/dora`.",
            default="dora",
        ),
        Field(
            "zenoh_addr",
            _Address(),
            "Where other machines reach this one; by default the address that the coordinator sees.",
        ),
        Field(
            "zenoh_port",
            IntegerType(0, 65535),
            "The TCP port at which other machines reach this one, for links; 0: none, it connects to them. "
            f"By default {DEFAULT_LINK_PORT}, or any if that is taken.",
        ),
        Field("daemon_port", _PORT, "Of dora-rs, without effect: dynamic nodes need no port."),
    ],
)

CLUSTER = SchemaBlock(
    "a cluster",
    [
        Field("coordinator", COORDINATOR, "Where the coordinator is.", required=True),
        Field("machines", ListType(MACHINE, "machines"), "The machines, at least one.", required=True),
        Field(
            "zenoh_peer",
            TextType("an endpoint", may_be_empty=False),
            "Of dora-rs, without effect: machines reach each other without a meeting point.",
        ),
    ],
    notes=True,
)

_TLS = ("tls_cert", "tls_key", "tls_ca")


def parse_machine(text: str) -> Machine:
    """Return the machine of ``[USER@]HOST`` or ``ssh://[USER@]HOST[:PORT]``; raises ``ValueError``.

    Its id is the text.

    >>> parse_machine("ros@robot.local").host, parse_machine("ssh://[fd00::2]:2222").port
    ('robot.local', 2222)
    """
    rest, port = text, None
    if text.startswith("ssh://"):
        rest = text.removeprefix("ssh://").rstrip("/")
        if found := re.fullmatch(r"(.*[^:]|.*\]):(\d{1,5})", rest):
            rest, port = found[1], int(found[2])
    user, at, host = rest.rpartition("@")
    host = host.removeprefix("[").removesuffix("]")
    fits = re.fullmatch(_HOST, host) and (not at or re.fullmatch(_USER, user))
    if not fits or not (port is None or 0 < port < 1 << 16):
        raise ValueError(
            f"`{text[:60]}` is no machine for ssh: write HOST, USER@HOST or ssh://USER@HOST:PORT"
        )
    return Machine(id=text, host=host, user=user or None, port=port)


def load_cluster(path: str | os.PathLike[str]) -> Cluster:
    """Read and check a cluster file; raises `DataflowError` with all problems at once."""
    shown = os.fspath(path)
    try:
        text = read_text(shown, shown)
    except Unreadable as error:
        hint = f"; {error.hint}" if error.hint else ""
        raise DataflowError(f"{error}{hint}") from None
    return parse_cluster(text, shown)


def parse_cluster(text: str, file: str) -> Cluster:
    """Check the text of a cluster file; `load_cluster` without the reading."""
    report = ProblemReport(text, file)
    hint = "it begins with `coordinator:` and `machines:`"
    root = compose_mapping(report, "a cluster file is a mapping", hint)
    checked = None if root is None else CLUSTER.read(root, Reader(report, os.environ))
    cluster = None if checked is None else _assemble(checked, report)
    if report.failed or cluster is None:
        raise DataflowError(problems=report.sorted())
    return cluster


def _assemble(checked: CheckedBlock, report: ProblemReport) -> Cluster | None:
    blocks: tuple[CheckedBlock, ...] = checked.get("machines") or ()
    if not blocks and checked.has("machines") and not checked.failed("machines"):
        report.error(
            checked.place("machines"), "a cluster has at least one machine", "add `- {id: ..., host: ...}`"
        )
    machines = [_machine(block, report) for block in blocks]
    _check_ids_differ(blocks, report)
    if checked.has("zenoh_peer"):
        for block in blocks:
            for name in ("zenoh_addr", "zenoh_port"):
                if block.has(name):
                    report.error(
                        block.keys[name], f"`{name}` does not go with `zenoh_peer`", "remove one of them"
                    )
        report.warn(checked.keys["zenoh_peer"], "`zenoh_peer` has no effect", "remove it")
    coordinator: CheckedBlock | None = checked.get("coordinator")
    address = coordinator.get("addr") if coordinator is not None else None
    if coordinator is None or address is None:
        return None
    given = [name for name in _TLS if coordinator.has(name)]
    if given and len(given) < len(_TLS):
        missing = " and ".join(f"`{name}`" for name in _TLS if name not in given)
        report.error(
            coordinator.keys[given[0]], f"`{given[0]}` does not go without {missing}", f"add {missing}"
        )
    if ipaddress.ip_address(address).is_loopback:
        remote = next((block for block in blocks if not _is_here(block.get("host") or "localhost")), None)
        if remote is not None:
            report.error(
                coordinator.place("addr"),
                f"the machine `{remote.get('id')}` cannot reach a coordinator at `{address}`",
                "give the address that this machine has in the network of the cluster",
            )
    return Cluster(
        address=address,
        port=coordinator.get("port") or DEFAULT_PORT,
        machines=tuple(machine for machine in machines if machine is not None),
        file=report.file,
        certificate=coordinator.get("tls_cert") or "",
        key=coordinator.get("tls_key") or "",
        authority=coordinator.get("tls_ca") or "",
        warnings=tuple(str(problem) for problem in report.sorted() if problem.severity == "warning"),
    )


def _machine(block: CheckedBlock, report: ProblemReport) -> Machine | None:
    if block.has("daemon_port"):
        report.warn(block.keys["daemon_port"], "`daemon_port` has no effect", "remove it")
    if block.get("id") is None or block.get("host") is None:
        return None  # reported
    return Machine(
        id=block.get("id"),
        host=block.get("host"),
        user=block.get("user"),
        port=block.get("port"),
        labels=block.get("labels") or {},
        address=block.get("zenoh_addr"),
        link_port=block.get("zenoh_port"),
        dora=block.get("dora") or "dora",
    )


def _check_ids_differ(blocks: tuple[CheckedBlock, ...], report: ProblemReport) -> None:
    seen: dict[str, CheckedBlock] = {}
    for block in blocks:
        name: str | None = block.get("id")
        if name is None:
            continue
        if name in seen:
            line = seen[name].place("id").line + 1
            report.error(
                block.place("id"),
                f"there is another machine `{name}`, on line {line}",
                "give each an id of its own",
            )
        seen.setdefault(name, block)


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def with_choice(cluster: Cluster) -> Cluster:
    """Return a cluster as `choose_tls` was called last; one with certificates of the user stays."""
    if cluster.authority or not os.path.exists(_note(cluster)):
        return cluster
    return msgspec.structs.replace(cluster, authority=NO_TLS)


def is_encrypted(cluster: Cluster) -> bool:
    """Return whether the connections of a cluster have TLS. On loopback they need none."""
    return cluster.authority != NO_TLS and (bool(cluster.authority) or cluster.address not in LOOPBACK)


def choose_tls(cluster: Cluster, tls: bool) -> None:
    """Note whether a cluster is encrypted; raises `DoraError`."""
    note = _note(cluster)
    try:
        if tls:
            if os.path.exists(note):
                os.unlink(note)
            return
        check_folder_if_there(os.path.dirname(note), below=data_folder())
        os.makedirs(os.path.dirname(note), mode=0o700, exist_ok=True)
        os.close(os.open(note, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise cannot_write(note, error) from None


def _note(cluster: Cluster) -> str:
    return f"{data_folder()}/tls/no-tls-{cluster.address.replace(':', '_')}-{cluster.port}"
