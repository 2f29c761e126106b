"""One ssh connection to a machine that several commands use, so that it is made and checked only once.

ssh calls it a control master. It ends when its standard input ends, which is a pipe from this process: a
process that was killed leaves no connection open, on neither side.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from contextlib import suppress
from typing import Final

import msgspec

from dora.cluster.ssh.file import Machine
from dora.cluster.ssh.ssh import COMMAND_TIMEOUT, MachineFault, PipedScript, login
from dora.daemon.processes.ending import end_by_stdin
from dora.daemon.run_directory import usable_root

_MARK: Final = "dora "  # begins each line of an answer: what a shell prints at its start is none
_READY: Final = f"{_MARK}ready"
_STAY: Final = f"\necho {_READY}\nexec cat >/dev/null 2>&1\n"
_END_TIMEOUT: Final = 5.0  # seconds; all commands that use the connection have ended before
_LOSS_TIMEOUT: Final = 2.0  # seconds: if the connection is lost, ssh may end after what runs over it
# Short: with the 17 characters that ssh adds for a moment, it has to fit behind the longest root.
_SOCKET: Final = "s{:x}"


class SshConnection:
    """A connection to a machine; ``with`` closes it.

    ``machine`` is the same machine for commands that use the connection. ``answer`` is what the script that
    was run first has printed in lines that begin with "dora ", without that.
    """

    def __init__(self, machine: Machine, script: str) -> None:
        """Connect, and run a script of POSIX sh to its end; raises `MachineFault`."""
        root = usable_root()
        _remove_old_sockets(root)
        self._socket = os.path.join(root, _SOCKET.format(os.getpid()))
        self.machine = msgspec.structs.replace(machine, connection=self._socket)
        options = ("-T", "-M", "-o", "ControlPersist=no")
        self._script = PipedScript(self.machine, script + _STAY, options=options, own_session=True)
        try:
            self.answer = self._read_answer()
        except BaseException:
            self.close()
            raise

    def _read_answer(self) -> list[str]:
        late = threading.Timer(COMMAND_TIMEOUT, self._script.process.kill)  # reading a pipe has no limit
        late.start()
        answer: list[str] = []
        try:
            for line in self._script.stdout:
                text = line.decode(errors="replace").rstrip("\r\n")
                if text == _READY:
                    return answer
                if text.startswith(_MARK):
                    answer.append(text.removeprefix(_MARK))
        finally:
            is_late = not late.is_alive()
            late.cancel()
        fault = self._script.fault()
        if is_late:
            why = f"it took longer than {COMMAND_TIMEOUT:.0f} s, and was given up"
            fault = MachineFault(self.machine, why)
        raise fault

    def fault(self) -> MachineFault:
        """Return the error for a run on the machine that has ended without an exit status."""
        try:
            self._script.process.wait(_LOSS_TIMEOUT)
        except subprocess.TimeoutExpired:
            return MachineFault(self.machine, "the dora there was killed, and the dataflow with it")
        return MachineFault(
            self.machine, "the connection is lost; what runs there is stopped within half a minute"
        )

    def forward(self, port: int, remote_port: int) -> None:
        """Lead a port of this machine's loopback to one of the other's; raises `MachineFault`."""
        self._forward("-L", f"127.0.0.1:{port}:127.0.0.1:{remote_port}")

    def forward_back(self, port: int) -> None:
        """Lead a port of the other machine's loopback to the same one of this machine's.

        Raises `MachineFault`, also if the port is taken there.
        """
        self._forward("-R", f"127.0.0.1:{port}:127.0.0.1:{port}")

    def _forward(self, direction: str, ports: str) -> None:
        _, *where = login(self.machine)
        command = ["ssh", "-S", self._socket, "-O", "forward", direction, ports, *where]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT)
        except subprocess.TimeoutExpired:
            why = f"ssh has not forwarded a port ({ports}) within {COMMAND_TIMEOUT:.0f} s"
            raise MachineFault(self.machine, why) from None
        if done.returncode:
            output = done.stderr.strip().splitlines()
            why = output[-1] if output else "it does not say why"
            raise MachineFault(self.machine, f"ssh does not forward a port ({ports}): {why}")

    def close(self) -> None:
        """End the connection, and with it all commands that still use it."""
        with self._script:
            end_by_stdin(self._script.process, _END_TIMEOUT)
        try:
            os.unlink(self._socket)  # ssh was killed
        except FileNotFoundError:
            pass  # ssh has removed it

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _remove_old_sockets(root: str) -> None:
    """Remove the sockets that were left when a process was killed together with its ssh."""
    for name in os.listdir(root):
        found = re.fullmatch("s([0-9a-f]{1,8})", name)
        if found is None:
            continue
        try:
            os.kill(int(found[1], 16), 0)
        except ProcessLookupError:
            with suppress(FileNotFoundError):  # another command has just removed it
                os.unlink(os.path.join(root, name))
        except OSError:
            continue  # another user's process has the number
