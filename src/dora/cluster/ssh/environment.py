"""A Python environment with this very dora on another machine: found in a folder there, or made.

It is in ``~/.cache/dora/environments``, by a name that follows from the files of this dora: a machine has
one for each version, and the newest few stay. It sees the packages of the Python that it is made from (the
driver of a camera). This machine sends a wheel of its dora, and one of pip, which many systems lack.
Everything else comes from the package index that pip or uv uses there.
"""

from __future__ import annotations

import glob
import os
import shlex
import tempfile
import threading
from typing import IO, Any, Final

import msgspec

from dora.cluster.ssh.file import Machine
from dora.cluster.ssh.ssh import CountedReads, MachineFault, PipedScript, reason
from dora.daemon.build.own_wheel import content_digest, write_wheel
from dora.daemon.processes.interpreter import WHEEL
from dora.daemon.work import Work, installer_progress
from dora.errors import DoraError

OLDEST: Final = (3, 11)
_SYSTEMS: Final = {"Linux": ("x86_64", "aarch64"), "Darwin": ("x86_64", "arm64")}
_CHUNK: Final = 1 << 16
_ROOM: Final = "about 600 MB"

# A shell without login finds less: uv installs itself to these.
_BEGIN: Final = """\
PATH="$HOME/.local/bin:$HOME/.cargo/bin:$PATH"
umask 077
folder="${XDG_CACHE_HOME:-$HOME/.cache}/dora/environments"
"""

# A Python of any version can say this of itself.
_ASK_PYTHON: Final = (
    "import sys; v = sys.version_info; "
    'print("dora python %d.%d.%d %d %s" % (v[0], v[1], v[2], sys.maxsize > 2**32, sys.executable))'
)


class MachineFacts(msgspec.Struct, frozen=True):
    """Facts that decide how dora is installed. ``pythons``: version, 64 bits or not, path."""

    system: str = ""
    processor: str = ""
    has_environment: bool = False
    folder: str = ""  # of all environments
    here: str = ""  # address of the user's machine, as the robot sees it
    there: str = ""  # address of the robot, as ssh reaches it
    pythons: tuple[tuple[str, bool, str], ...] = ()
    uv: str = ""


def name_of_environment() -> str:
    """Return the name of the environments with this dora, on all machines."""
    from dora._version import __version__

    return f"dora-{__version__}-{content_digest()[:12]}"


def look(name: str) -> str:
    """Return the script that prints what `found_in` reads; ``name`` names the environment."""
    names = " ".join(["python3", *(f"python3.{minor}" for minor in (13, 12, 11, 14)), "python"])
    return (
        f"{_BEGIN}"
        'echo "dora system $(uname -s) $(uname -m)"\n'
        'echo "dora connection $SSH_CONNECTION"\n'
        'echo "dora folder $folder"\n'
        f'python="$folder"/{name}/bin/python\n'
        # The Python that it was made with may be gone.
        "if \"$python\" -P -c 'import dora._version' 2>/dev/null; then\n"
        "    echo dora environment\n"
        "else\n"
        f"    for name in {names}; do\n"
        '        found=$(command -v "$name") || continue\n'
        f'        "$found" -c {shlex.quote(_ASK_PYTHON)} 2>/dev/null\n'
        "    done\n"
        '    found=$(command -v uv) && echo "dora uv $found"\n'
        "fi"
    )


def found_in(answer: list[str]) -> MachineFacts:
    """Return what the script of `look` has printed.

    >>> found = found_in(["system Linux aarch64", "connection 10.0.0.1 5000 10.0.0.2 22", "folder /a b"])
    >>> found.processor, found.here, found.there, found.folder
    ('aarch64', '10.0.0.1', '10.0.0.2', '/a b')
    """
    values: dict[str, Any] = {}
    pythons = []
    for line in answer:
        kind, _, rest = line.partition(" ")
        words = rest.split()
        if kind == "system" and len(words) == 2:
            values["system"], values["processor"] = words
        elif kind == "connection" and len(words) == 4:
            values["here"], values["there"] = words[0], words[2]
        elif kind == "python" and len(words) >= 3:
            pythons.append((words[0], words[1] == "1", rest.split(" ", 2)[2]))
        elif kind in ("folder", "uv"):
            values[kind] = rest
        elif kind == "environment":
            values["has_environment"] = True
    return MachineFacts(pythons=tuple(dict.fromkeys(pythons)), **values)


def installer(machine: Machine, found: MachineFacts) -> str:
    """Return lines that make the environment ``$new`` and install the wheels ``$dora`` and ``$pip`` in it.

    Raises `MachineFault` if there is nothing to make it with.
    """
    if found.processor not in _SYSTEMS.get(found.system, ()):
        raise MachineFault(
            machine,
            f"it is a {found.system} on {found.processor}, and the packages that dora needs are made for "
            "Linux on x86_64 and aarch64, and for macOS",
        )
    oldest = ".".join(map(str, OLDEST))
    fitting = [
        path
        for version, wide, path in found.pythons
        if wide and tuple(map(int, version.split(".")[:2])) >= OLDEST
    ]
    if found.uv:
        python = shlex.quote(fitting[0]) if fitting else f"'>={oldest}'"
        uv = shlex.quote(found.uv)
        return (
            f'run {uv} venv --quiet --python {python} --system-site-packages "$new"\n'
            f'run {uv} pip install --python "$new/bin/python" "$dora" "$pip"\n'
        )
    if fitting:
        return (
            f'run {shlex.quote(fitting[0])} -m venv --without-pip --system-site-packages "$new"\n'
            # Older ones than 24.1 know no `raw`.
            'case "$pip" in *pip-2[0-3].* | *pip-24.0*) ;; *) export PIP_PROGRESS_BAR=raw ;; esac\n'
            'set -- "$new/bin/python" "$pip/pip" install --disable-pip-version-check --no-compile\n'
            'run "$@" "$dora" "$pip"\n'
            # The same version may be among the packages of the system, with other files.
            '[ -x "$new/bin/dora" ] || run "$@" --force-reinstall --no-deps "$dora"\n'
        )
    versions = ", ".join(f"{version} ({path})" for version, _, path in found.pythons)
    have = f"it has only Python {versions}" if versions else "it has no Python"
    if any(not wide for _, wide, _ in found.pythons):
        have = f"its Python has 32 bits: {versions}"
    raise MachineFault(
        machine,
        f"{have}, and dora needs Python {oldest} or newer; install that there, or uv, which brings one "
        "(https://docs.astral.sh/uv)",
    )


def install(name: str, installing: str, wheels: dict[str, tuple[str, int]]) -> str:
    """Return the script that makes an environment; its input are the wheels, and nothing after them.

    ``wheels``: the variables of `installer`, each with the name of its file and the size. When its input
    ends before the script does, it ends as well and removes what it has made.
    """
    # One `head` takes everything: the ones of BusyBox and BSD read more of the input than they give out.
    received = f'head -c {sum(size for _, size in wheels.values())} >"$wheels"/all || exit 1\n'
    begin = 1
    for variable, (file, size) in wheels.items():
        received += f'{variable}="$wheels"/{shlex.quote(file)}; '
        received += f'tail -c +{begin} "$wheels"/all | head -c {size} >"${variable}" || exit 1\n'
        begin += size
    return (
        f"{_BEGIN}"
        # The process number tells whether one that is not complete is still being made.
        f'new="$folder"/{name}.$$ wheels="$folder"/{name}.$$.wheels has_job= watch=\n'
        'trap \'[ -z "$watch" ] || kill $watch 2>/dev/null; rm -rf "$new" "$wheels"\' EXIT\n'
        # SIGKILL: a process that has just been forked may still have this handler, and would take SIGTERM.
        "trap '[ -z \"$has_job\" ] || { kill -KILL $!; wait $!; } 2>/dev/null; exit 1' HUP INT TERM\n"
        "exec 2>&1\n"
        'mkdir -p "$folder" "$wheels" || exit 1\n'
        f"{received}"
        "exec 3<&0\n"
        "{ cat <&3; kill $$; } >/dev/null 2>&1 &\n"
        "watch=$!\n"
        # Set before the fork: the handler may run before any command that follows.
        'run() { has_job=1; "$@" </dev/null 3<&- & wait $! || exit 1; has_job=; }\n'
        f"{installing}"
        # Another command may have been quicker, and nodes may already run in its environment.
        f'"$new/bin/dora" cluster publish-environment "$new" "$folder"/{name} || exit 1\n'
        'new=""\n'
    )


def provide(machine: Machine, found: MachineFacts, work: Work) -> str:
    """Return the `dora` command of an environment with this dora on a machine, which is made if necessary.

    The bytes that are sent, and those that are downloaded there, are added to ``work``. Raises
    `MachineFault`, and `DoraError` if this dora cannot be sent.
    """
    name = name_of_environment()
    if not found.has_environment:
        _make(machine, name, installer(machine, found), work)
    return f"{found.folder}/{name}/bin/dora"


def _make(machine: Machine, name: str, installing: str, work: Work) -> None:
    with tempfile.TemporaryDirectory(prefix="dora-") as folder:
        own = os.path.join(folder, WHEEL)
        write_wheel(own, with_files=True)
        wheels = {"dora": own, "pip": _pip_wheel()}
        about = {name: (os.path.basename(path), os.path.getsize(path)) for name, path in wheels.items()}
        work.become(0, sum(size for _, size in about.values()))
        with PipedScript(machine, install(name, installing, about), own_session=True) as script:
            # In a thread: with both pipes full, the script and this process would wait for each other.
            sender = threading.Thread(
                target=_send, args=(script.stdin, list(wheels.values()), work), daemon=True
            )
            sender.start()
            lines = []
            read = installer_progress(work)
            for line in script.stdout:
                text = line.decode(errors="replace").rstrip()
                if not read(text):
                    lines.append(text)
            status, output = script.wait()
            sender.join()
        if status:
            raise MachineFault(machine, _why_not_installed(machine, status, lines, output))


def _send(stream: IO[bytes], paths: list[str], work: Work) -> None:
    try:
        for path in paths:
            with open(path, "rb") as file:
                counted = CountedReads(file, work)
                while data := counted.read(_CHUNK):
                    stream.write(data)
        stream.flush()  # it stays open: its end would end the script
    except (BrokenPipeError, ValueError):
        pass  # the script has ended
    work.become(0, 0)


def _pip_wheel() -> str:
    """Return a wheel of pip, as Python has one for new environments; raises `DoraError`."""
    try:
        import ensurepip

        folders = [os.path.join(folder, "_bundled") for folder in ensurepip.__path__]
    except ImportError:
        folders = []
    for folder in (*folders, "/usr/share/python-wheels"):  # where Debian has it
        if found := sorted(glob.glob(f"{glob.escape(folder)}/pip-*.whl")):
            return found[-1]
    raise DoraError("this Python has no pip that could be sent; install `ensurepip` (Debian: python3-venv)")


_FULL: Final = ("No space left on device", "Errno 28", "os error 28", "Disk quota exceeded")
_NO_INDEX: Final = (
    "Failed to establish a new connection",
    "Temporary failure in name resolution",
    "error sending request",
    "Failed to fetch",
    "from versions: none",
)


def _why_not_installed(machine: Machine, status: int, lines: list[str], errors: str) -> str:
    """Return why the environment could not be made, from what the installer has printed."""
    output = "\n".join(lines)
    if status == 255:
        return reason(machine, status, errors)
    if any(sign in output for sign in _FULL):
        return f"there is no room for dora on its disk; it needs {_ROOM} in ~/.cache/dora"
    if any(sign in output for sign in _NO_INDEX):
        return (
            "its installer does not reach a package index, from which come the packages that dora needs "
            f"(it says: {_last_error(lines)})"
        )
    return f"dora cannot be installed there: {_last_error(lines)}"


def _last_error(lines: list[str]) -> str:
    found = [line for line in lines if line.lower().lstrip().startswith(("error", "×", "╰"))]
    last = (found or lines or ["it says nothing"])[-1].strip()
    return last.split(":", 1)[1].strip() if last.lower().startswith("error:") else last
