"""Scripts (POSIX sh) for the machines of a cluster, and the systemd unit. Pure.

The scripts read the token from standard input, because other users can read command lines. The CA
certificate of a coordinator with a certificate of the user follows in further lines.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Sequence
from typing import Final

from dora._paths import AUTHORITY_VARIABLE, NO_TLS
from dora.cluster.ssh.file import Cluster, Machine

# A shell without login finds less: pip, pipx and uv install to ~/.local/bin.
_BEGIN: Final = """\
PATH="$HOME/.local/bin:$PATH"
umask 077
folder="${DORA_DATA_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/dora}"
mkdir -p "$folder" || exit 1
"""

_NEEDS_SYSTEMD: Final = """\
command -v systemctl >/dev/null || { echo "this machine has no systemd" >&2; exit 1; }
"""

# Behind `_service`. It may be installed and not run, as in a container.
_SYSTEMD_RUNS: Final = """\
$control show-environment >/dev/null 2>&1 || {
    echo "systemd does not run on this machine, or not for this user" >&2; exit 1
}
"""

# Behind `_find_process`. 300 tries are 30 s, as in `TimeoutStopSec`: its nodes have to end.
_END: Final = """\
[ -n "$pid" ] || exit 0
kill "$pid" && echo ended
tries=0
while [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null; do
    [ $tries -lt 300 ] || { echo "the daemon (process $pid) does not end" >&2; exit 1; }
    sleep 0.1; tries=$((tries + 1))
done
"""


def command(machine: Machine) -> str:
    """Return the ``dora`` command of a machine, quoted for its shell."""
    if machine.dora.startswith("~/"):
        return '"$HOME"/' + shlex.quote(machine.dora[2:])
    return shlex.quote(machine.dora)


def _find(machine: Machine) -> str:
    """Return lines that set ``dora`` to the absolute path of the command, or end with status 127."""
    return f'dora=$(command -v {command(machine)}) || {{ echo "not found" >&2; exit 127; }}\n'


def daemon_options(cluster: Cluster, machine: Machine) -> list[str]:
    """Return the options of ``dora daemon`` for a machine."""
    options = ["--machine-id", machine.id]
    options += ["--coordinator-addr", cluster.address, "--coordinator-port", str(cluster.port)]
    if machine.labels:
        options += [
            "--labels",
            ",".join(f"{name}={value}" for name, value in sorted(machine.labels.items())),
        ]
    if machine.address is not None:
        options += ["--interface", machine.address]
    if machine.link_port is not None:
        options += ["--link-port", str(machine.link_port)]
    return options


def _log(machine: Machine) -> str:
    return f'"$folder"/daemon-{machine.id}.txt'


def start_daemon(cluster: Cluster, machine: Machine, stamp: str) -> str:
    """Return the script that starts a daemon in the background, unless it runs.

    ``stamp`` tells whose daemon it is, for `end_started_daemon`.
    """
    options = shlex.join(daemon_options(cluster, machine))
    return (
        f"{_BEGIN}{_find(machine)}{_service(machine)}"
        'if [ -n "$service" ]; then\n'
        f"{_check_service(cluster, machine)}"
        f"    $control restart {unit_name(machine)}\n"
        "    exit\n"
        "fi\n"
        f"{_find_process(machine)}"
        '[ -z "$pid" ] || exit 0\n'  # it may be about to connect again, and have dataflows
        "IFS= read -r DORA_AUTH_TOKEN || :\n"
        "export DORA_AUTH_TOKEN\n"
        f"{_set_tls(cluster, machine)}"
        "cd /\n"
        f"echo {shlex.quote(stamp)} >{_stamp(machine)}\n"
        f'nohup "$dora" daemon {options} --log-file {_log(machine)} >>{_log(machine)} 2>&1 </dev/null &\n'
        f"echo $! >{_pid(machine)}\n"
    )


def _check_service(cluster: Cluster, machine: Machine) -> str:
    """Return lines that fail if the service was installed when the cluster had TLS, or had none."""
    wanted, other = ("off", "on") if cluster.authority == NO_TLS else ("on", "off")
    fault = f"its service was installed with TLS {other}; `dora cluster install` installs it again"
    return (
        f"    ! grep -qx {AUTHORITY_VARIABLE}={NO_TLS} {_environment(machine)}; was=$?\n"
        f"    [ $was = {int(wanted == 'off')} ] || {{ echo '{fault}' >&2; exit 1; }}\n"
    )


def _has_file(cluster: Cluster) -> bool:
    """Return whether there is an authority that machines have to know."""
    return cluster.authority not in ("", NO_TLS)


def _tls_value(cluster: Cluster, machine: Machine) -> str:
    """Return the value of ``DORA_COORDINATOR_CA`` for a daemon, quoted for its shell; "" without one."""
    return _authority(machine) if _has_file(cluster) else cluster.authority


def _set_tls(cluster: Cluster, machine: Machine) -> str:
    """Return lines that write the authority to a file, and name it to the daemon."""
    if not (value := _tls_value(cluster, machine)):
        return f"unset {AUTHORITY_VARIABLE}\n"
    written = f"cat >{value} || exit 1\n" if _has_file(cluster) else ""
    return f"{written}export {AUTHORITY_VARIABLE}={value}\n"


def end_daemon(machine: Machine) -> str:
    """Return the script that ends a daemon and what it runs, and waits for it; prints "ended" if it ran."""
    return (
        f"{_BEGIN}{_service(machine)}"
        'if [ -n "$service" ]; then\n'
        f"    $control stop {unit_name(machine)} && echo ended\n"
        "    exit\n"
        "fi\n"
        f"{_find_process(machine)}{_END}"
    )


def end_started_daemon(machine: Machine, stamp: str) -> str:
    """Return the script that does what `end_daemon` does, if `start_daemon` started it with this stamp.

    A daemon that ran before, and may have dataflows, stays. So does a service.
    """
    return (
        f"{_BEGIN}{_service(machine)}"
        '[ -z "$service" ] || exit 0\n'
        f'[ "$(cat {_stamp(machine)} 2>/dev/null)" = {shlex.quote(stamp)} ] || exit 0\n'
        f"{_find_process(machine)}{_END}"
    )


def log_of_ended_daemon(machine: Machine) -> str:
    """Return the script that prints the last lines of the log of a daemon, if it has ended."""
    return (
        f"{_BEGIN}{_service(machine)}"
        '[ -z "$service" ] || exit 0\n'
        f"{_find_process(machine)}"
        f'[ -n "$pid" ] || tail -n 5 {_log(machine)}\n'
    )


def last_log_line(machine: Machine) -> str:
    """Return the script that prints the last line of the log of a daemon."""
    return (
        f"{_BEGIN}{_service(machine)}"
        'if [ -n "$service" ]; then\n'
        f"    journalctl ${{control#systemctl}} -u {unit_name(machine)} -n 1 -o cat 2>/dev/null\n"
        "else\n"
        f"    tail -n 1 {_log(machine)}\n"
        "fi\n"
    )


def _service(machine: Machine) -> str:
    """Return lines that set ``control`` and ``service``, which is empty unless systemd has the daemon.

    A unit that is there while systemd does not run does not count.
    """
    return (
        "service= units=/etc/systemd/system control=systemctl\n"
        'if [ "$(id -u)" != 0 ]; then\n'
        '    units="${XDG_CONFIG_HOME:-$HOME/.config}/systemd/user" control="systemctl --user"\n'
        '    export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/run/user/$(id -u)}"\n'
        "fi\n"
        f'[ ! -e "$units"/{unit_name(machine)} ] || ! $control show-environment >/dev/null 2>&1 || '
        "service=yes\n"
    )


def _pid(machine: Machine) -> str:
    return f'"$folder"/daemon-{machine.id}.pid'


def _stamp(machine: Machine) -> str:
    return f'"$folder"/daemon-{machine.id}.stamp'


def _authority(machine: Machine) -> str:
    return f'"$folder"/coordinator-of-{machine.id}.pem'


def _environment(machine: Machine) -> str:
    return f'"$folder"/daemon-{machine.id}.env'


def _find_process(machine: Machine) -> str:
    """Return lines that set ``pid`` to the process of a daemon; empty if it has ended."""
    return (
        f"pid=$(cat {_pid(machine)} 2>/dev/null)\n"
        'if [ -n "$pid" ]; then\n'
        # The number may be another process's by now.
        """    said=$(tr '\\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null ||"""
        """ ps -p "$pid" -o args= 2>/dev/null)\n"""
        f'    case "$said" in *" daemon --machine-id {machine.id} "*) ;; *) pid= ;; esac\n'
        "fi\n"
    )


def receive_copy(machine: Machine, name: str) -> str:
    """Return the script that receives a copy."""
    return f'{_BEGIN}{_find(machine)}exec "$dora" cluster receive {shlex.quote(name)}\n'


def list_copies(machine: Machine, remove: bool) -> str:
    """Return the script that prints the copies on a machine, or removes unused ones and prints those."""
    return f'{_BEGIN}{_find(machine)}exec "$dora" cluster local-copies{" --remove" if remove else ""}\n'


def unit_name(machine: Machine) -> str:
    return f"dora-daemon-{machine.id}.service"


def unit(cluster: Cluster, machine: Machine) -> str:
    """Return the unit of a daemon; ``@dora@``, ``@token_file@`` and ``@target@`` are set by the script."""
    words = ["daemon", *daemon_options(cluster, machine)]
    return f"""\
[Unit]
Description=dora daemon of machine {machine.id}
After=network-online.target
Wants=network-online.target

[Service]
ExecStart="@dora@" {_systemd_words(words)}
EnvironmentFile=@token_file@
Restart=on-failure
RestartSec=1
KillMode=mixed
TimeoutStopSec=30

[Install]
WantedBy=@target@
"""


def _write_unit(cluster: Cluster, machine: Machine) -> str:
    """Return a command that prints the unit, with the values of shell variables as systemd reads them."""
    pieces = re.split("@([a-z_]+)@", unit(cluster, machine))
    words = (
        f"""\"$(printf %s "${piece}" | sed 's/%/%%/g')\"""" if is_name else shlex.quote(piece)
        for piece, is_name in zip(pieces, itertools.cycle((False, True)))
    )
    return f"printf %s {''.join(words)}"


def _systemd_words(words: Sequence[str]) -> str:
    """Return words for ``ExecStart=``, see systemd.service(5), "Command lines"."""
    escaped = (
        word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
        for word in words
    )
    return " ".join(f'"{word}"' for word in escaped)


def prepare_install(machine: Machine) -> str:
    """Return the script that fails, and has ended nothing, where a daemon cannot become a service."""
    return (
        f"{_BEGIN}{_find(machine)}{_NEEDS_SYSTEMD}{_service(machine)}"
        # Without it, a service of a user ends with the last session.
        '[ "$(id -u)" = 0 ] || loginctl enable-linger || exit 1\n'
        f"{_SYSTEMD_RUNS}"
    )


def install(cluster: Cluster, machine: Machine) -> str:
    """Return the script that makes the daemon a service of systemd, and starts it."""
    name = unit_name(machine)
    environment = '"$token_file"'
    authority = f"cat >{_authority(machine)}\n" if _has_file(cluster) else ""
    if value := _tls_value(cluster, machine):
        authority += f'printf "{AUTHORITY_VARIABLE}=%s\\n" {value} >>{environment}\n'
    return (
        f"{_BEGIN}{_find(machine)}{_NEEDS_SYSTEMD}{_service(machine)}"
        "set -e\n"
        'target=default.target; [ "$(id -u)" != 0 ] || target=multi-user.target\n'
        "IFS= read -r token || :\n"
        f"token_file={_environment(machine)}\n"
        f'mkdir -p "$units"\n'
        f'printf "DORA_AUTH_TOKEN=%s\\n" "$token" >{environment}\n'
        f"{authority}"
        f'{_write_unit(cluster, machine)} >"$units"/{name}\n'
        f'chmod 644 "$units"/{name}\n'
        "$control daemon-reload\n"
        f"$control enable --quiet {name}\n"
        f"$control restart {name}\n"
    )


def uninstall(machine: Machine) -> str:
    """Return the script that takes the service away; prints "absent" where there is none."""
    name = unit_name(machine)
    return (
        f"{_BEGIN}{_NEEDS_SYSTEMD}{_service(machine)}"
        f'[ ! -e "$units"/{name} ] || {{\n{_SYSTEMD_RUNS}}}\n'
        '[ -n "$service" ] || { echo absent; exit 0; }\n'
        "set -e\n"
        f"$control disable --quiet --now {name}\n"
        f'rm -f "$units"/{name} {_environment(machine)} {_authority(machine)}\n'
        "$control daemon-reload\n"
    )


def install_wheel(machine: Machine, name: str) -> str:
    """Return the script that installs a wheel, its standard input, where ``dora`` is; prints the version.

    That is the Python which the first line of the command names.
    """
    return (
        f"{_BEGIN}{_find(machine)}"
        "python=$(sed -n '1s/^#! *//p' \"$dora\")\n"
        '[ -x "${python%% *}" ] || { echo "$dora does not say to which Python it belongs" >&2; exit 1; }\n'
        "wheels=$(mktemp -d) || exit 1\n"
        "trap 'rm -rf \"$wheels\"' EXIT\n"
        f'cat >"$wheels"/{shlex.quote(name)} || exit 1\n'
        'if "$python" -m pip --version >/dev/null 2>&1; then\n'
        '    set -- "$python" -m pip install --quiet --disable-pip-version-check; again=--force-reinstall\n'
        "elif command -v uv >/dev/null; then\n"
        '    set -- uv pip install --quiet --python "$python"; again=--reinstall\n'
        "else\n"
        '    echo "the Python of $dora has no pip, and there is no uv" >&2; exit 1\n'
        "fi\n"
        # First what it needs, then itself, which may have the version that was there before.
        f'"$@" "$wheels"/{shlex.quote(name)} >&2 || exit 1\n'
        f'"$@" "$again" --no-deps "$wheels"/{shlex.quote(name)} >&2 || exit 1\n'
        '"$dora" --version\n'
    )
