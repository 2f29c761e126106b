"""Several machines on one: each is a network namespace with an address of its own.

::

    with network("left", "right") as hosts:
        hosts["left"].run(["ping", "-c", "1", hosts["right"].address])

The hosts hang on a bridge (a switch) that this process reaches as well. Their network is their own, so are
/dev/shm and the folders that dora uses; processes and other files are those of this machine. Everything
goes with the ``with`` block, processes that were started in a host included; what a killed run left goes
with the next one.

A host's link can be cut and limited. Not every kernel has netem, so delay and loss (`Host.impair`) come
from a process: in a network with ``impaired=True`` each link runs through one, which holds frames back.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from waiting import alive

MAX_NETWORKS = 200
_ROOT = Path("/run/dora-hosts")  # of root's own, and short: sockets are below it
_WIRE = Path(__file__).with_name("wire.py")
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
_TIMEOUT = 60.0  # seconds that anything may take on a busy machine
_OBSERVER_TIMEOUT = 3 * _TIMEOUT  # observers have a lower priority than what keeps the machine busy


def missing() -> str:
    """Return why there can be no hosts here, "" if there can."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if lacking := [name for name in ("ip", "tc", "nsenter", "unshare") if not shutil.which(name)]:
        return f"missing: {', '.join(lacking)} (Debian: apt install iproute2 util-linux)"
    namespace = f"dora-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", namespace], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespaces here: {tried.stderr.strip()}"
    _ip("netns", "del", namespace)
    return ""


class Host:
    """One machine: a network namespace, its link to the switch, and folders of its own."""

    def __init__(self, name: str, namespace: str, port: str, address: str, folder: Path) -> None:
        self.name = name
        self.address = address
        self.folder = folder
        """Its own: runtime, data, configuration and home are below."""
        self._namespace = namespace
        self.port = port  # the switch's end of the link
        self._wire: subprocess.Popen[str] | None = None
        self._anchor: subprocess.Popen[str] | None = None  # a process of the host's from first to last

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return this process's environment without variables of dora, with the host's own folders."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DORA_")}
        return {
            **inherited,
            "HOME": str(self.folder),
            "DORA_RUNTIME_DIR": str(self.folder / "run"),
            "DORA_DATA_DIR": str(self.folder / "data"),
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            **(more or {}),
        }

    def popen(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command on this host; ``env`` is added to its environment. It is killed with the host."""
        return subprocess.Popen(self._inside(command, options), env=self.environment(env), **options)

    def run(
        self,
        command: Sequence[str | Path],
        *,
        status: int | None = 0,
        env: Mapping[str, str] | None = None,
        timeout: float = _OBSERVER_TIMEOUT,
        **options: Any,
    ) -> str:
        """Run a command on this host to its end, and return all that it printed.

        The exit status has to be ``status``; None: any will do.
        """
        done = subprocess.run(
            self._inside(command, options),
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            **options,
        )
        assert status is None or done.returncode == status, f"{command} on {self.name}: {done.stdout}"
        return done.stdout

    def _inside(self, command: Sequence[str | Path], options: Mapping[str, Any]) -> list[str | Path]:
        assert self._anchor is not None
        enter = ["nsenter", "--target", str(self._anchor.pid), "--mount", "--ipc", "--net", "--"]
        # Who enters the mounts of another process is in the root folder.
        here = ["sh", "-c", 'cd "$0" && exec "$@"', options.get("cwd") or os.getcwd()]
        return [*enter, *here, *command]

    def pids(self) -> list[int]:
        """Return the processes of this host."""
        found = subprocess.run(["ip", "netns", "pids", self._namespace], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    def kill_all(self) -> None:
        """Kill all processes of the host at once, and empty its shared memory: a loss of power."""
        anchor = self._anchor
        assert anchor is not None
        for pid in self.pids():
            if pid != anchor.pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        deadline = time.monotonic() + _TIMEOUT
        while any(alive(pid) for pid in self.pids() if pid != anchor.pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        self.run(["sh", "-c", "rm -rf /dev/shm/*"])
        shutil.rmtree(self.folder / "run", ignore_errors=True)

    def cut(self) -> None:
        """Pull the plug. Connections do not notice until they time out."""
        _ip("link", "set", self.port, "down")

    def restore(self) -> None:
        """Put the plug in again."""
        _ip("link", "set", self.port, "up")

    def add_address(self, address: str) -> None:
        """Give the host a further address in the network."""
        _ip("-n", self._namespace, "addr", "add", f"{address}/24", "dev", "eth0")

    def drop_address(self, address: str) -> None:
        """Take an address from the host. Connections from and to it do not notice until they time out."""
        # Otherwise the addresses that were added later would go with the first one.
        setting = "net.ipv4.conf.eth0.promote_secondaries=1"
        _check(["ip", "netns", "exec", self._namespace, "sysctl", "-q", "-w", setting])
        _ip("-n", self._namespace, "addr", "del", f"{address}/24", "dev", "eth0")

    def move(self, address: str) -> None:
        """Change the address of the host, as another access point or DHCP does."""
        self.add_address(address)
        self.drop_address(self.address)
        self.address = address

    def limit(self, rate: str) -> None:
        """Limit both directions of the link, for example to ``20mbit`` (see tc(8) for the units)."""
        shape = ("root", "tbf", "rate", rate, "burst", "64kb", "latency", "100ms")
        _check(["tc", "qdisc", "replace", "dev", self.port, *shape])
        _check(["ip", "netns", "exec", self._namespace, "tc", "qdisc", "replace", "dev", "eth0", *shape])

    def unlimit(self) -> None:
        """Take the limit away."""
        _check(["tc", "qdisc", "del", "dev", self.port, "root"])
        _check(["ip", "netns", "exec", self._namespace, "tc", "qdisc", "del", "dev", "eth0", "root"])

    def impair(
        self,
        *,
        delay: float = 0.0,
        loss: float = 0.0,
        jitter: float = 0.0,
        rate: float = 0.0,
        queue: int = 256 << 10,
        in_order: bool = False,
        behind_nat: bool = False,
    ) -> None:
        """Make the link slow or bad, in each direction; only in networks with ``impaired=True``.

        Every frame takes ``delay`` seconds, and the share ``loss`` of them is dropped. Up to ``jitter``
        seconds more make frames overtake each other by chance, unless they are kept ``in_order``. ``rate``
        is in bit/s, 0 for any; frames that wait for it are in a queue of ``queue`` bytes, and what does not
        fit is dropped. The frames on the way keep the delay they had. ``behind_nat``: the host can begin
        connections, and nobody one to it, as behind a router or a firewall.
        """
        assert self._wire is not None and self._wire.stdin is not None, "not in this network"
        self._wire.stdin.write(f"{delay} {loss} {jitter} {rate} {queue} {in_order:d} {behind_nat:d}\n")
        self._wire.stdin.flush()

    def listening(self) -> set[int]:
        """Return the TCP ports that others can try to connect to."""
        rows = [line.split() for line in self.run(["ss", "-ltnH"]).splitlines()]
        places = [row[3].rpartition(":") for row in rows]
        return {int(port) for address, _, port in places if address not in ("127.0.0.1", "[::1]")}

    def use_congestion_control(self, name: str) -> None:
        """Use this algorithm for all connections to other hosts: ``cubic``, ``bbr``."""
        network = f"{self.address.rpartition('.')[0]}.0/24"
        inside = ("-n", self._namespace)
        _ip(*inside, "route", "replace", network, "dev", "eth0", "src", self.address, "congctl", name)

    def plug_in(self, bridge: str, prefix: int, impaired: bool) -> None:
        """Make the namespace and its link to the bridge."""
        _ip("netns", "add", self._namespace)
        inner = f"{self.port}i"
        if impaired:
            taps = [_tap(inner), _tap(self.port)]
            descriptors = [tap.fileno() for tap in taps]
            command = [sys.executable, "-S", str(_WIRE), *map(str, descriptors)]
            self._wire = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=descriptors, text=True)
            for tap in taps:
                tap.close()  # the wire has them
        else:
            _ip("link", "add", self.port, "type", "veth", "peer", "name", inner)
        _ip("link", "set", inner, "netns", self._namespace, "name", "eth0")
        inside = ("-n", self._namespace)
        _ip(*inside, "addr", "add", f"{self.address}/{prefix}", "dev", "eth0")
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip("link", "set", self.port, "master", bridge, "up")
        script = "mount -t tmpfs tmpfs /dev/shm && echo ready && exec sleep infinity"
        unshare = ["unshare", "--mount", "--ipc", "--propagation", "private", "sh", "-c", script]
        self._anchor = subprocess.Popen(
            ["ip", "netns", "exec", self._namespace, *unshare], stdout=subprocess.PIPE, text=True
        )
        assert self._anchor.stdout is not None and self._anchor.stdout.readline() == "ready\n"

    def unplug(self) -> None:
        """End the host with all its processes."""
        if self._wire is not None:
            self._wire.kill()
            self._wire.communicate()
        _remove_namespace(self._namespace)
        if self._anchor is not None:
            self._anchor.communicate()


@contextmanager
def network(*names: str, impaired: bool = False) -> Iterator[dict[str, Host]]:
    """Make hosts of these names, each with an address in one network 10.213.x.0/24; see the module."""
    number, lock = _take_number()
    bridge = f"dora{number}"
    hosts: dict[str, Host] = {}
    try:
        _remove(number)
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"10.213.{number}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for index, name in enumerate(names, 1):
            folder = _ROOT / str(number) / name
            folder.mkdir(parents=True)
            address = f"10.213.{number}.{index}"
            hosts[name] = Host(name, f"dora{number}-{name}", f"{bridge}p{index}", address, folder)
            hosts[name].plug_in(bridge, 24, impaired)
        yield hosts
    finally:
        for host in hosts.values():
            host.unplug()
        _remove(number)
        lock.close()


def _take_number() -> tuple[int, IO[str]]:
    """Return the number of a network that nobody has, with the lock that says so."""
    _ROOT.mkdir(mode=0o700, exist_ok=True)
    for number in range(MAX_NETWORKS):
        lock = open(_ROOT / f"{number}.lock", "w")  # noqa: SIM115 - it is the caller's
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            continue
        return number, lock
    raise AssertionError(f"there are {MAX_NETWORKS} networks already")


def _remove(number: int) -> None:
    """Remove what there is of a network; its lock has to be held."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    for line in listed.splitlines():
        namespace = line.split()[0]
        if namespace.startswith(f"dora{number}-"):
            _remove_namespace(namespace)
    for interface in Path("/sys/class/net").glob(f"dora{number}*"):
        # By name, for the kernel is in no hurry to empty a namespace that is gone.
        if interface.name == f"dora{number}" or interface.name.startswith(f"dora{number}p"):
            subprocess.run(["ip", "link", "del", interface.name], capture_output=True)
    shutil.rmtree(_ROOT / str(number), ignore_errors=True)


def _remove_namespace(namespace: str) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while True:
        found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
        pids = [int(pid) for pid in found.stdout.split() if alive(int(pid))]
        if not pids or time.monotonic() > deadline:
            break
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.005)
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True)


def _tap(name: str) -> IO[bytes]:
    """Return a new network interface whose frames are read from and written to the file."""
    file = open("/dev/net/tun", "r+b", buffering=0)  # noqa: SIM115 - it is the caller's
    fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
    return file


def _ip(*arguments: str) -> None:
    _check(["ip", *arguments])


def _check(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"`{' '.join(command)}`: {done.stderr.strip()}"
