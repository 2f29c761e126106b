"""Environments for ``dora run --on``: what a machine has, what is installed with it, what is removed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import TIMEOUT, wait_until

from dora.cluster.ssh import environment as environments
from dora.cluster.ssh.environment import MachineFacts, found_in, install, installer
from dora.cluster.ssh.file import Machine, parse_machine
from dora.cluster.ssh.kept_environments import held, publish, remove_old
from dora.cluster.ssh.ssh import MachineFault
from dora.cluster.ssh.use_lock import in_use, is_in_use
from dora.daemon.work import Work
from dora.errors import DoraError

ROBOT = Machine(id="robot", host="robot")
GONE = 1 << 30  # no process has this number


def test_an_answer_tells_what_a_machine_has() -> None:
    found = found_in(
        [
            "system Linux aarch64",
            "connection fd00::1 50000 fd00::2 22",
            "folder /home/a b/.cache/dora/environments",
            "python 3.10.12 1 /usr/bin/python3",
            "python 3.12.3 1 /opt/with space/python3.12",
            "python 3.12.3 1 /opt/with space/python3.12",
            "uv /home/a b/.local/bin/uv",
        ]
    )
    assert found == MachineFacts(
        system="Linux",
        processor="aarch64",
        folder="/home/a b/.cache/dora/environments",
        here="fd00::1",
        there="fd00::2",
        pythons=(
            ("3.10.12", True, "/usr/bin/python3"),
            ("3.12.3", True, "/opt/with space/python3.12"),
        ),
        uv="/home/a b/.local/bin/uv",
    )


def linux(*pythons: tuple[str, bool, str], uv: str = "") -> MachineFacts:
    return MachineFacts(system="Linux", processor="aarch64", pythons=pythons, uv=uv)


def test_the_first_python_that_is_new_enough_is_taken() -> None:
    lines = installer(ROBOT, linux(("3.10.12", True, "/old"), ("3.12.3", True, "/a b/python")))
    assert "run '/a b/python' -m venv" in lines


def test_uv_is_preferred_and_brings_a_python_if_there_is_none() -> None:
    assert "uv venv --quiet --python /new " in installer(ROBOT, linux(("3.13.0", True, "/new"), uv="uv"))
    assert "uv venv --quiet --python '>=3.11' " in installer(ROBOT, linux(("3.9.2", True, "/old"), uv="uv"))


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (linux(), "it has no Python, and dora needs Python 3.11 or newer"),
        (linux(("3.9.2", True, "/old")), r"it has only Python 3.9.2 \(/old\), and"),
        (linux(("3.13.0", False, "/p")), r"its Python has 32 bits: 3.13.0 \(/p\), and"),
        (MachineFacts(system="Linux", processor="armv7l", uv="uv"), "it is a Linux on armv7l, and"),
        (MachineFacts(system="FreeBSD", processor="x86_64"), "it is a FreeBSD on x86_64, and"),
    ],
)
def test_a_machine_that_cannot_have_dora(found: MachineFacts, told: str) -> None:
    with pytest.raises(MachineFault, match=told):
        installer(ROBOT, found)


@pytest.mark.parametrize(
    ("text", "machine"),
    [
        ("robot", Machine(id="robot", host="robot")),
        ("ros@robot.local", Machine(id="ros@robot.local", host="robot.local", user="ros")),
        ("ssh://ros@robot:2222", Machine(id="ssh://ros@robot:2222", host="robot", user="ros", port=2222)),
        ("ssh://[fd00::2]:22", Machine(id="ssh://[fd00::2]:22", host="fd00::2", port=22)),
        ("fd00::2", Machine(id="fd00::2", host="fd00::2")),
    ],
)
def test_a_machine_is_written_as_for_ssh(text: str, machine: Machine) -> None:
    assert parse_machine(text) == machine


@pytest.mark.parametrize(
    "text", ["", "@robot", "-oProxyCommand=x", "a b", "ros@", "ssh://robot:99999", "a;b"]
)
def test_a_text_that_is_no_machine_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no machine for ssh"):
        parse_machine(text)


def environment(folder: Path, name: str, process: int = GONE) -> Path:
    made = folder / f"{name}.{process}"
    made.mkdir()
    (made / ".dora-lock").touch()
    return made


def test_old_environments_go_and_those_in_use_stay(tmp_path: Path) -> None:
    made = {name: environment(tmp_path, name) for name in ("first", "second", "third", "fourth")}
    for age, name in enumerate(made):
        (tmp_path / name).symlink_to(made[name].name)
        os.utime(tmp_path / name, (age, age), follow_symlinks=False)
    with (made["first"] / ".dora-lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        remove_old(str(tmp_path))
        assert {path.name.split(".")[0] for path in tmp_path.iterdir()} == {"first", "third", "fourth"}
        assert (tmp_path / "first").is_symlink(), "the next command finds it"
    remove_old(str(tmp_path))
    assert {path.name.split(".")[0] for path in tmp_path.iterdir()} == {"third", "fourth"}


def test_an_environment_in_which_a_command_runs_is_in_use_and_the_one_used_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = environment(tmp_path, "dora")
    (tmp_path / "dora").symlink_to(made.name)
    os.utime(tmp_path / "dora", (0, 0), follow_symlinks=False)
    lock = str(made / ".dora-lock")
    monkeypatch.setattr(sys, "prefix", str(made))
    with held():
        assert is_in_use(lock)
        assert time.time() - (tmp_path / "dora").lstat().st_mtime < 3600
    assert not is_in_use(lock)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "other"))
    with held():  # an environment that a user has made
        assert sorted(path.name for path in tmp_path.iterdir()) == ["dora", made.name]


def test_what_a_killed_installation_left_goes_and_what_is_being_made_stays(tmp_path: Path) -> None:
    killed = [tmp_path / f"dora.{GONE}", tmp_path / f"dora.{GONE}.wheels"]
    living = [tmp_path / f"dora.{os.getpid()}", tmp_path / f"dora.{os.getpid()}.wheels"]
    for path in (*killed, *living):
        path.mkdir()
    remove_old(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted(living)


def test_an_environment_that_was_replaced_stays_while_it_is_in_use(tmp_path: Path) -> None:
    before = environment(tmp_path, "dora")
    publish(str(before), str(tmp_path / "dora"))
    after = environment(tmp_path, "dora", GONE + 1)
    with in_use(str(before / ".dora-lock")):
        publish(str(after), str(tmp_path / "dora"))
        assert before.exists()
    remove_old(str(tmp_path))
    assert not before.exists() and after.exists()


def test_the_last_environment_of_a_dora_replaces_the_one_before(tmp_path: Path) -> None:
    before, after = environment(tmp_path, "dora"), environment(tmp_path, "dora", GONE + 1)
    publish(str(before), str(tmp_path / "dora"))
    publish(str(after), str(tmp_path / "dora"))
    assert (tmp_path / "dora").resolve() == after and not before.exists()
    with pytest.raises(DoraError, match=r"cannot write .*/nowhere/dora"):
        publish(str(tmp_path / "nowhere" / "dora.1"), str(tmp_path / "nowhere" / "dora"))


READS_AHEAD = """#!{python}
import sys
size = int(sys.argv[2])
file = open(sys.argv[3], "rb") if sys.argv[3:] else sys.stdin.buffer
sys.stdout.buffer.write(file.read(size))
"""


@pytest.mark.processes
def test_wheels_arrive_where_head_reads_more_than_it_gives_out(tmp_path: Path) -> None:
    """As in BusyBox, BSD and macOS."""
    (tmp_path / "bin").mkdir()
    head = tmp_path / "bin" / "head"
    head.write_text(READS_AHEAD.format(python=sys.executable))
    head.chmod(0o755)
    wheels = {"dora": b"d" * 5000, "pip": b"p" * 3000}
    about = {name: (f"{name}.whl", len(data)) for name, data in wheels.items()}
    installing = f'cp "$dora" "$pip" {tmp_path}\nexit 1\n'
    environment = {"HOME": str(tmp_path), "PATH": f"{head.parent}:{os.environ['PATH']}"}
    script = subprocess.Popen(
        ["sh", "-c", install("name", installing, about)], stdin=subprocess.PIPE, env=environment
    )
    assert script.stdin is not None
    script.stdin.write(b"".join(wheels.values()))
    script.stdin.flush()  # and it stays open, as when ssh leads it
    assert script.wait(TIMEOUT) == 1
    script.stdin.close()
    assert {name: (tmp_path / f"{name}.whl").read_bytes() for name in wheels} == wheels


WHEELS = {"dora": b"d" * 200_000, "pip": b"p" * 3000}
INSTALLS = """
mkdir -p "$new/bin"
printf '#!/bin/sh\\nln -s "$3" "$4"\\n' >"$new/bin/dora"
chmod +x "$new/bin/dora"
cat "$dora" "$pip" >"$new/wheels"
run sleep 0.1
"""


def write_own_wheel(path: str, **_: bool) -> None:
    Path(path).write_bytes(WHEELS["dora"])


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return a function that makes an environment with these lines, and returns its folder."""
    (tmp_path / "ssh").write_text('#!/bin/sh\nfor script; do :; done\nexec sh -c "$script"\n')
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "pip.whl").write_bytes(WHEELS["pip"])
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(environments, "write_wheel", write_own_wheel)
    monkeypatch.setattr(environments, "_pip_wheel", lambda: str(tmp_path / "pip.whl"))
    folder = tmp_path / "cache" / "dora" / "environments"

    def make(installing: str) -> Path:
        environments._make(ROBOT, "dora-1", installing, Work())
        return folder / "dora-1"

    return make


@pytest.mark.processes
def test_an_environment_is_made_with_the_wheels_and_stays(made: Callable[[str], Path]) -> None:
    link = made(INSTALLS)
    assert (link / "wheels").read_bytes() == b"".join(WHEELS.values())
    assert {*link.parent.iterdir()} == {link, link.resolve()}


@pytest.mark.processes
@pytest.mark.parametrize(
    ("installing", "told"),
    [
        ("echo 'error: it is odd'; exit 1\n", "robot: dora cannot be installed there: it is odd"),
        ("echo 'No space left on device' >&2; exit 1\n", "robot: there is no room for dora on its disk"),
        ("exit 255\n", "robot: the command ended with exit status 255"),
    ],
)
def test_an_installation_that_fails_says_why_and_leaves_nothing(
    made: Callable[[str], Path], tmp_path: Path, installing: str, told: str
) -> None:
    with pytest.raises(MachineFault, match=told):
        made(f'mkdir "$new"\n{installing}')
    assert list((tmp_path / "cache" / "dora" / "environments").iterdir()) == []


@pytest.mark.processes
def test_an_installation_ends_with_its_input_and_leaves_nothing(tmp_path: Path) -> None:
    about = {name: (f"{name}.whl", len(data)) for name, data in WHEELS.items()}
    # SIGTERM has no effect, as for a moment after a fork.
    job = f"trap '' TERM; touch {tmp_path}/begun; exec sleep 60"
    script = subprocess.Popen(
        ["sh", "-c", install("dora-1", f'run sh -c "{job}"\n', about)],
        stdin=subprocess.PIPE,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )
    assert script.stdin is not None
    script.stdin.write(b"".join(WHEELS.values()))
    script.stdin.flush()
    wait_until((tmp_path / "begun").exists, "the installation")
    script.stdin.close()
    assert script.wait(TIMEOUT) == 1
    assert list((tmp_path / "dora" / "environments").iterdir()) == []
