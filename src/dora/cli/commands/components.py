"""``dora coordinator`` and ``dora daemon``: run one component in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dora._paths import DEFAULT_LINK_PORT, DEFAULT_PORT, LINK_PORT_VARIABLE, LOOPBACK
from dora.cli.argument_values import MAX_SECONDS, InputFile, ParameterValue, parse_address, shortened
from dora.cli.compat import ignored_option, refused_option
from dora.cli.coordinator import absolute_path, coordinator_options_of_daemon
from dora.cli.main import configure_diagnostics
from dora.cluster.client import Client
from dora.daemon.logs.diagnostics import VARIABLE
from dora.daemon.options import ALLOW_SHELL
from dora.errors import DoraError, cannot_write
from dora.transport.proof import no_token
from dora.transport.tls import server_context
from dora.transport.tokens import find_token, make_token

if TYPE_CHECKING:
    from dora.transport.tls import ServerContext
    from dora.transport.tokens import Token

_Function = TypeVar("_Function", bound=Callable[..., Any])
_FROM_COORDINATOR = "machines learn of each other from the coordinator; see --interface"

auth_option = ignored_option(
    "--auth", is_flag=True, hidden=False, why="the token of this user is always required"
)


def _begin_log(quiet: bool, file: str) -> None:
    """Log to standard error, which is the file from now on unless it is ""."""
    from dora.daemon.logs.process_log import ProcessLog, limit_lines

    if file:
        try:
            ProcessLog(file).watch()
        except OSError as error:
            raise cannot_write(file, error) from None
    configure_diagnostics("error" if quiet else os.environ.get(VARIABLE, ""))
    limit_lines()


_log_file_option = click.option(
    "--log-file",
    default="",
    metavar="FILE",
    callback=absolute_path,
    help="Write the log to this file instead of standard error. At 10 MiB a new one begins; the last four "
    "are kept.",
)


def tls_options(function: _Function) -> _Function:
    """Declare the certificate and key of a coordinator: absolute paths, or "" for its own.

    ``no_tls``: none of them.
    """

    def option(name: str, variable: str, help: str) -> Callable[[_Function], _Function]:
        return click.option(
            name,
            type=InputFile(),
            default="",
            callback=absolute_path,
            envvar=variable,
            show_envvar=True,
            metavar="FILE",
            help=help,
        )

    certificate = option(
        "--tls-cert", "DORA_COORDINATOR_TLS_CERT", "Certificate, instead of one that it makes."
    )
    key = option("--tls-key", "DORA_COORDINATOR_TLS_KEY", "Key of the certificate.")
    plain = click.option(
        "--no-tls",
        is_flag=True,
        help="Encrypt nothing. Without this, connections of other machines have TLS.",
    )
    return certificate(key(plain(function)))


def given_encryption(certificate: str, key: str, no_tls: bool) -> ServerContext | None:
    """Return the context of a coordinator with the certificate of its options; None without one.

    Raises `DoraError`.
    """
    if no_tls and (certificate or key):
        raise DoraError("--no-tls makes no sense with --tls-cert and --tls-key")
    return server_context(certificate, key)


def _parse_store(text: str) -> str:
    """Return the file of the store; `redb` and `redb:FILE` of dora-rs are accepted too."""
    from dora.cluster.coordinator.store import MEMORY

    if text == "memory":
        return MEMORY
    kind, _, path = text.partition(":")
    file = path if kind == "redb" else text
    return os.path.abspath(file) if file else ""


@click.command()
@click.option(
    "--interface",
    type=ParameterValue("address", parse_address),
    default="127.0.0.1",
    envvar="DORA_COORDINATOR_INTERFACE",
    show_envvar=True,
    metavar="IP",
    help="Address to listen on [127.0.0.1].",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    envvar="DORA_COORDINATOR_PORT",
    show_envvar=True,
    metavar="PORT",
    help=f"Port to listen on [{DEFAULT_PORT}].",
)
@auth_option
@tls_options
@click.option("--quiet", is_flag=True, help="Log errors only.")
@_log_file_option
@click.option(
    "--store",
    type=ParameterValue("store", _parse_store),
    default="",
    metavar="FILE|memory",
    help="Where to keep the records of dataflows [a file for this port in the data folder]; with memory, a "
    "new coordinator knows no ended ones.",
)
def coordinator(
    interface: str,
    port: int,
    tls_cert: str,
    tls_key: str,
    no_tls: bool,
    quiet: bool,
    log_file: str,
    store: str,
) -> None:
    """Run the coordinator in the foreground.

    `dora up` runs it in the background. SIGTERM ends it; dataflows continue.

    Environment variables limit how long it waits for a machine, in seconds: until its nodes are built
    (DORA_BUILD_RESULT_TIMEOUT_SECS [1200]) and their processes started (DORA_SPAWN_RESULT_TIMEOUT_SECS
    [60]), and until one that does not answer counts as lost (DORA_UNREACHABLE_AFTER [never]).
    """
    from dora.cluster.coordinator.api import LinkAuthority
    from dora.cluster.coordinator.server import serve
    from dora.cluster.coordinator.store import MEMORY

    _check_unreachable_after(os.environ.get("DORA_UNREACHABLE_AFTER", ""))
    _begin_log(quiet, log_file)
    encryption = given_encryption(tls_cert, tls_key, no_tls)
    is_remote = interface not in LOOPBACK
    is_own = encryption is None and not no_tls and is_remote
    if is_own:
        from dora.cluster.authority import own_authority, own_certificate

        encryption = own_certificate(own_authority(port), interface)
    where = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(interface, interface)
    scheme = "http" if encryption is None or (is_own and where != interface) else "https"
    where = f"[{where}]" if ":" in where and not where.startswith("[") else where
    serve(
        interface,
        port,
        on_ready=lambda path: _print_dashboard(f"{scheme}://{where}:{port}{path}"),
        encryption=encryption,
        plain_loopback=is_own,
        link_authority=None
        if no_tls
        else LinkAuthority(port, is_remote=is_remote, is_kept=is_remote or store != MEMORY),
        records=store,
    )


def _print_dashboard(address: str) -> None:
    """Print the address of the dashboard, with its ticket; only on a terminal, as others may read a log."""
    if sys.stderr.isatty():
        click.echo(f"dashboard: {address}", err=True)


def _token_for(client: Client) -> Token:
    """Return the token for a daemon; create the user's if the coordinator runs on this machine."""
    if client.address in LOOPBACK:
        return make_token()
    if (token := find_token(also_here=False)) is None:
        raise DoraError(no_token(client.where))
    return token


def _check_unreachable_after(text: str) -> None:
    try:
        fits = not text or 0.0 <= float(text) <= MAX_SECONDS
    except ValueError:
        fits = False
    if not fits:
        raise DoraError(f"DORA_UNREACHABLE_AFTER is `{shortened(text)}`; it has to be a number of seconds")


def _parse_machine_id(text: str) -> str:
    from dora.dataflow.names import machine_id_fault

    if fault := machine_id_fault(text):
        raise ValueError(f"`{text}` {fault}")
    return text


def _parse_labels(text: str) -> dict[str, str]:
    from dora.cluster.agent.identity import parse_labels

    return parse_labels(text)


def _parse_ip_address(text: str) -> str:
    try:
        return str(ip_address(text)) if text else ""
    except ValueError:
        raise ValueError(f"`{text}` is not an IP address") from None


@click.command()
@coordinator_options_of_daemon
@click.option("--allow-shell-nodes", is_flag=True, help="Allow nodes with `path: shell`.")
@click.option("--quiet", is_flag=True, help="Log errors only.")
@_log_file_option
@click.option(
    "--machine-id",
    type=ParameterValue("id", _parse_machine_id),
    default="default",
    metavar="ID",
    help="Name of this machine for `deploy: {machine: ID}` [the default machine].",
)
@click.option(
    "--labels",
    type=ParameterValue("labels", _parse_labels),
    default="",
    metavar="NAME=VALUE,...",
    help="Labels of this machine for `deploy: {labels: ...}`.",
)
@click.option(
    "--interface",
    type=ParameterValue("address", _parse_ip_address),
    default="",
    metavar="IP",
    help="Address at which other machines reach this one [where the coordinator sees it].",
)
@click.option(
    "--link-port",
    type=click.IntRange(0, 65535),
    default=None,
    envvar=LINK_PORT_VARIABLE,
    show_envvar=True,
    metavar="PORT",
    help="TCP port at which other machines reach this one, for the links of all dataflows; 0: none, it "
    f"connects to them [{DEFAULT_LINK_PORT}, or any if that is taken].",
)
@click.option(
    "--rt",
    is_flag=True,
    help="Lock memory and use SCHED_FIFO in the daemon, not in the nodes: stops, restarts and timeouts are "
    "on time on an overloaded machine. Needs CAP_IPC_LOCK and CAP_SYS_NICE.",
)
@ignored_option("--local-listen-port", warn=True, why="dynamic nodes find their dataflow without a port")
@ignored_option(
    "--worker-threads", warn=True, why="the daemon has one thread, and no message passes through it"
)
@refused_option("--zenoh-peer", instead=_FROM_COORDINATOR)
@refused_option("--zenoh-listen", instead=_FROM_COORDINATOR)
@refused_option("--zenoh-connect", instead=_FROM_COORDINATOR)
@refused_option("--zenoh-no-multicast", is_flag=True, instead=_FROM_COORDINATOR)
@refused_option("--zenoh-config-overlay", instead=_FROM_COORDINATOR)
def daemon(
    client: Client,
    allow_shell_nodes: bool,
    quiet: bool,
    log_file: str,
    machine_id: str,
    labels: dict[str, str],
    interface: str,
    link_port: int | None,
    rt: bool,
) -> None:
    """Run the daemon of a machine in the foreground.

    `dora up` runs it in the background, for the default machine. The daemon tries to reach the coordinator
    until it succeeds, at its addresses in turn, and again when the connection is lost: a machine may change
    its network. SIGTERM stops its dataflows and ends it, a second SIGTERM kills them.

    Environment variables: DORA_TLS_CA, DORA_TLS_CERT and DORA_TLS_KEY name the files for TLS between
    machines. DORA_LINK_DSCP [0] marks the packets of control messages, so that Wi-Fi and routers put them
    first. With DORA_QUIET, log entries of nodes stay in the files of this machine.
    """
    from dora.cluster.agent.agent import Agent
    from dora.cluster.agent.identity import Identity, tls_from

    _begin_log(quiet, log_file)
    if allow_shell_nodes:
        os.environ[ALLOW_SHELL] = "true"
    token = _token_for(client)
    os.environ.pop("DORA_AUTH_TOKEN", None)  # not for nodes
    identity = Identity(machine_id, labels, interface, tls_from(os.environ, machine_id), link_port)
    run_options = ["--quiet"] if quiet else []
    if rt:
        from dora.cluster.agent.limits import become_realtime

        run_options.append("--rt")
        for fault in become_realtime():
            click.echo(f"warning: --rt: {fault}", err=True)
    Agent(client.addresses, client.port, token, identity, client.authority, run_options).run()
