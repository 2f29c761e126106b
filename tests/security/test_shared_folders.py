"""Files that dora makes where other users may write: what those have put there before is not used."""

from __future__ import annotations

import ast
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from second_user import ATTACKER, needs_second_user

import dora as dora_package
from dora._shared_folders import check_folder_if_there, make_folder, open_file, write_file
from dora.errors import DoraError

APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT
FORCE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
SECRET = "of the user\n"

NODE = """
from dora import Node
with Node() as node:
    for event in node:
        node.send_output("x", b"x")
        break
"""


@pytest.fixture(params=["for all", "sticky", "of another user"])
def shared(request: pytest.FixtureRequest, open_folder: Path) -> Path:
    """A folder in which other users may make files."""
    folder = open_folder / "shared"
    folder.mkdir()
    if request.param == "of another user":
        if os.getuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(folder, ATTACKER, ATTACKER)
    else:
        folder.chmod(0o1777 if request.param == "sticky" else 0o777)
    return folder


@pytest.fixture
def precious(open_folder: Path) -> Iterator[Path]:
    """A file of this user's, which nobody has asked dora to change."""
    path = open_folder / "precious"
    path.write_text(SECRET)
    yield path
    assert path.read_text() == SECRET
    elsewhere = open_folder / "elsewhere"
    assert not elsewhere.exists() or os.listdir(elsewhere) == []


def planted_link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    os.chown(path, ATTACKER, ATTACKER, follow_symlinks=False)


def planted_file(path: Path, text: str = "of another user") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.chown(path, ATTACKER, ATTACKER)


@needs_second_user
@pytest.mark.parametrize("flags", [APPEND, FORCE, os.O_RDWR | os.O_CREAT])
def test_a_link_of_another_user_is_not_followed(flags: int, shared: Path, precious: Path) -> None:
    planted_link(shared / "log.txt", precious)
    with pytest.raises(OSError, match=r"symbolic link of another user \(user id \d+\)") as caught:
        open_file(str(shared / "log.txt"), flags)
    assert caught.value.filename == str(shared / "log.txt")
    planted_link(shared / "out", precious.parent)
    with pytest.raises(OSError, match="symbolic link of another user"):
        open_file("out/precious", flags, below=str(shared))
    with pytest.raises(OSError, match="symbolic link of another user"):
        make_folder("out/deeper", below=str(shared))


@needs_second_user
def test_a_file_of_another_user_is_written_only_if_the_folder_is_that_users(shared: Path) -> None:
    planted_file(shared / "log.txt")
    (shared / "log.txt").chmod(0o666)
    if os.stat(shared).st_uid == ATTACKER:  # it is that user's dataflow that is run
        for flags in (APPEND, FORCE):
            os.close(open_file(str(shared / "log.txt"), flags))
        assert (shared / "log.txt").stat().st_uid == ATTACKER
        return
    for flags in (APPEND, FORCE):
        with pytest.raises(OSError, match="it belongs to another user"):
            open_file(str(shared / "log.txt"), flags)
    assert (shared / "log.txt").read_text() == "of another user"


@needs_second_user
def test_a_folder_of_another_user_is_used_only_if_all_around_it_is_that_users(shared: Path) -> None:
    (shared / "out").mkdir()
    os.chown(shared / "out", ATTACKER, ATTACKER)
    if os.stat(shared).st_uid == ATTACKER:  # it is that user's dataflow that is run
        make_folder("out", below=str(shared))
        return
    for use in (make_folder, check_folder_if_there):
        with pytest.raises(OSError, match="this folder belongs to another user"):
            use("out", below=str(shared))
    with pytest.raises(OSError, match="this folder belongs to another user"):
        open_file("out/log.txt", APPEND, below=str(shared))
    assert os.listdir(shared / "out") == []


@needs_second_user
@pytest.mark.processes
def test_root_writes_over_the_files_of_a_user_in_the_folder_of_that_user(open_folder: Path) -> None:
    flow = open_folder / "robot.yml"
    flow.write_text(f"nodes:\n- {{id: one, path: one.py, outputs: [x], build: '{sys.executable} -V'}}\n")
    (open_folder / "one.py").write_text(NODE)
    lockfile = open_folder / "robot.dora-lock.yaml"
    lockfile.write_text("of the user")
    for path in (open_folder, flow, lockfile):
        os.chown(path, ATTACKER, ATTACKER)
    command = [sys.executable, "-m", "dora", "build", "robot.yml", "--write-lockfile"]
    done = subprocess.run(command, cwd=open_folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "of the user" not in lockfile.read_text()


def test_a_second_name_of_a_file_is_not_written(shared: Path, precious: Path) -> None:
    os.link(precious, shared / "log.txt")
    for flags in (APPEND, FORCE):
        with pytest.raises(OSError, match="it has a second name"):
            open_file(str(shared / "log.txt"), flags)


def test_a_pipe_is_no_file_and_does_not_block(shared: Path) -> None:
    os.mkfifo(shared / "log.txt")
    with pytest.raises(OSError):
        os.close(open_file(str(shared / "log.txt"), APPEND))
    with pytest.raises(OSError, match="it is not a regular file"):
        open_file(str(shared / "log.txt"), os.O_RDWR | os.O_CREAT)


def test_a_link_of_the_user_is_followed(shared: Path, open_folder: Path) -> None:
    disk = open_folder / "disk"
    disk.mkdir()
    (shared / "out").symlink_to(disk)
    (shared / "log.txt").symlink_to("../disk/log.txt")
    os.close(open_file("out/a/b.txt", APPEND, below=str(shared)))
    os.close(open_file(str(shared / "log.txt"), APPEND))
    write_file("out/c.txt", b"new", below=str(shared))
    assert sorted(os.listdir(disk)) == ["a", "c.txt", "log.txt"]
    (shared / "round").symlink_to("round")
    with pytest.raises(OSError):
        open_file(str(shared / "round"), APPEND)


@needs_second_user
def test_a_file_is_replaced_and_what_it_led_to_stays(shared: Path, precious: Path) -> None:
    planted_link(shared / "session.yaml", precious)
    write_file("session.yaml", b"new", below=str(shared))
    assert not (shared / "session.yaml").is_symlink()
    assert (shared / "session.yaml").read_bytes() == b"new"
    assert os.listdir(shared) == ["session.yaml"]


@needs_second_user
def test_what_is_read_may_be_of_the_owner_of_the_folder(shared: Path) -> None:
    planted_file(shared / "downloads" / "node.py")
    if os.stat(shared).st_uid == ATTACKER:
        os.close(open_file("downloads/node.py", os.O_RDONLY, below=str(shared)))
        return
    (shared / "downloads").chmod(0o777)
    with pytest.raises(OSError, match="it belongs to another user"):
        open_file("downloads/node.py", os.O_RDONLY, below=str(shared))


def test_nothing_is_asked_in_a_folder_of_the_user_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    os.link(tmp_path / "file", tmp_path / "second")
    (tmp_path / "link").symlink_to("second")
    with open(open_file(str(tmp_path / "link"), FORCE), "w") as file:
        file.write("b")
    assert (tmp_path / "file").read_text() == "b"
    os.close(open_file("/dev/null", FORCE))


def test_files_and_folders_are_made_as_the_umask_says(shared: Path) -> None:
    before = os.umask(0o027)
    try:
        os.close(open_file("out/log.txt", APPEND, below=str(shared)))
        write_file("out/session.yaml", b"", below=str(shared))
    finally:
        os.umask(before)
    modes = [
        stat.S_IMODE((shared / name).stat().st_mode) for name in ("out", "out/log.txt", "out/session.yaml")
    ]
    assert modes == [0o750, 0o640, 0o640]


def test_a_path_that_cannot_be_one_is_an_error_of_the_system(shared: Path) -> None:
    for path in ("a\0b", "x" * 5000):
        with pytest.raises(OSError):
            open_file(path, APPEND, below=str(shared))


# --------------------------------------------------------------------------- commands


def dora(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "dora", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert "internal error" not in done.stdout and "Traceback" not in done.stdout, done.stdout
    return done.returncode, done.stdout


@pytest.fixture
def project(open_folder: Path) -> Path:
    """A folder for all users, as ``/tmp`` is one, with a dataflow of this user's."""
    folder = open_folder / "project"
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / "node.py").write_text(NODE)
    node = {"id": "a", "path": "node.py", "inputs": {"tick": "dora/timer/millis/20"}, "outputs": ["x"]}
    (folder / "flow.yml").write_text(json.dumps({"nodes": [node]}))
    return folder


@needs_second_user
@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "command", "told"),
    [
        ("out/dora-coordinator.txt", ["up"], "it is a symbolic link of another user"),
        ("flow.dora-lock.yaml", ["build", "flow.yml", "--write-lockfile"], "is a symbolic link of another"),
        ("r.mcap", ["record", "flow.yml", "-o", "r.mcap", "--force"], "is a symbolic link of another user"),
        ("out/flow.dora-session.yaml", ["run", "flow.yml"], ""),
    ],
)
def test_no_command_follows_a_link_of_another_user(
    name: str, command: list[str], told: str, project: Path, precious: Path
) -> None:
    planted_link(project / name, precious)
    status, printed = dora(project, *command)
    assert told in printed
    assert status == (1 if told else 0), printed


@needs_second_user
@pytest.mark.processes
@pytest.mark.parametrize("plant", [planted_link, lambda path, _: planted_folder(path)])
def test_a_run_writes_no_logs_into_what_another_user_has_put_there(
    plant: Callable[[Path, Path], None], project: Path, precious: Path
) -> None:
    elsewhere = precious.parent / "elsewhere"
    elsewhere.mkdir()
    plant(project / "out", elsewhere)
    status, printed = dora(project, "run", "flow.yml", "--trace")
    assert status == 0
    assert "cannot write log files" in printed and "of another user" in printed.replace("to ", "of ")
    assert os.listdir(project / "out") == []


def planted_folder(path: Path) -> None:
    path.mkdir(parents=True)
    os.chown(path, ATTACKER, ATTACKER)


@needs_second_user
@pytest.mark.processes
def test_no_demo_is_run_that_another_user_has_put_there(project: Path) -> None:
    planted_folder(project / "dora-demo")
    planted_file(project / "dora-demo" / "node.py", "print('planted')\n")
    planted_file(project / "dora-demo" / "dataflow.yml", "nodes: [{id: a, path: node.py}]\n")
    status, printed = dora(project, "demo")
    assert status == 1 and "planted" not in printed
    assert "cannot run the demo in dora-demo: this folder belongs to another user" in printed


@needs_second_user
@pytest.mark.processes
@pytest.mark.parametrize("place", [".dora", ".dora/git", ".dora/git/robot-*"])
def test_no_code_is_run_that_another_user_has_put_in_place_of_a_clone(
    place: str, project: Path, open_folder: Path
) -> None:
    repository = open_folder / "robot"
    repository.mkdir()
    (repository / "node.py").write_text("print('of the repository')\n")
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", *who, *words], cwd=repository, check=True)
    node = {"id": "a", "git": str(repository), "path": "node.py"}
    (project / "flow.yml").write_text(json.dumps({"nodes": [node]}))
    status, printed = dora(project, "build", "flow.yml")
    assert status == 0, printed
    (script,) = (project / ".dora" / "git").glob("*/node.py")
    script.write_text("print('planted')\n")
    (planted,) = project.glob(place)
    for path in (planted, *planted.rglob("*")):
        os.chown(path, ATTACKER, ATTACKER)
    if "/" in place:
        planted.parent.chmod(0o777)  # otherwise nobody could have put it there
    status, printed = dora(project, "run", "flow.yml")
    assert status == 1
    assert "this folder belongs to another user" in printed and "planted" not in printed


@needs_second_user
@pytest.mark.parametrize("planted", ["dataflows", "dataflows/arm", "tls"])
def test_no_copy_and_no_authority_is_made_in_a_folder_of_another_user(
    planted: str, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora.cluster.authority import own_authority
    from dora.cluster.ssh.folder import locked

    data = open_folder / "data"
    data.mkdir()
    for folder in (data, data / "dataflows"):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)
    monkeypatch.setenv("DORA_DATA_DIR", str(data))
    (data / planted).mkdir(exist_ok=True)
    os.chown(data / planted, ATTACKER, ATTACKER)
    if planted == "tls":
        with pytest.raises(DoraError, match="this folder belongs to another user"):
            own_authority(6013)
    else:
        copy = locked(f"{data}/dataflows/arm")
        with pytest.raises(OSError, match="this folder belongs to another user"), copy:
            pass
    assert os.listdir(data / planted) == []


# --------------------------------------------------------------------------- the code

OPENED = {"open_file", "open_in", "open_own"}
MAKES = {"copyfile", "copytree", "makedirs", "mkdir", "mkfifo", "symlink", "write_bytes"}
ELSEWHERE = {
    "_shared_folders.py": "makes them",
    "cli/commands/demo.py": "in a folder that has been checked",
    "cli/commands/alone.py": "in the folder of the dataflow, for an editor",
    "cli/running.py": "the file that the user has named",
    "cli/commands/doctor.py": "in a temporary folder",
    "cli/commands/new.py": "in a folder that is new",
    "cluster/coordinator/store.py": "the folder of the user's data",
    "cluster/ssh": "the folder of the user's data",
    "cluster/authority.py": "the folder of the user's data, and of running dataflows",
    "daemon/black_box.py": "shared memory, in a folder that is new",
    "daemon/build/environments.py": "in folders that have been checked",
    "daemon/build/node_sources.py": "in folders that have been checked",
    "daemon/build/shadowing.py": "in a temporary folder",
    "daemon/run_directory.py": "the folder of a run",
    "dataflow/json_schema.py": "for those who change dora",
    "nodes/lerobot/dataset.py": "in a folder that has been checked",
    "node/saved_state.py": "the folder of a run",
    "recording/alone/write.py": "in the folder that the user has named",
    "recording/recorder/process.py": "a folder for recordings, each of which must be new",
    "recording/export_ros2.py": "in a temporary folder, beside the one that the user has named",
    "recording/bags/bag.py": "a temporary folder for files of a bag that were compressed",
    "recording/mcap/event_order.py": "a temporary folder of a replay",
    "recording/replay": "a temporary folder of a replay",
    "transport": "the folder of a run, shared memory, and the token, which has checks of its own",
}


def makes_a_file(call: ast.Call, module: str) -> bool:
    """Return whether a call makes a file or a folder by a path, unless `dora._shared_folders` does."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name == "write_text":
        return isinstance(call.func, ast.Attribute)
    if name != "open" or not call.args:
        return name in MAKES
    words = {node.attr for node in ast.walk(call) if isinstance(node, ast.Attribute)}
    if isinstance(call.func, ast.Attribute):
        return "O_CREAT" in words
    mode = call.args[1].value if len(call.args) > 1 and isinstance(call.args[1], ast.Constant) else "r"
    if not set(str(mode)) & set("wax+"):
        return False
    file = call.args[0]
    if isinstance(file, ast.Call):
        return getattr(file.func, "attr", getattr(file.func, "id", "")) not in OPENED
    return not (isinstance(file, ast.Name) and f"{file.id} = open_" in module)


@pytest.mark.lengthy
def test_every_file_is_made_where_it_is_checked() -> None:
    found = set()
    package = Path(dora_package.__file__).parent
    programs_for_users = package / "assets"  # in an installed package
    for path in sorted(package.rglob("*.py")):
        if path.is_relative_to(programs_for_users):
            continue
        text = path.read_text()
        calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
        if any(makes_a_file(call, text) for call in calls):
            found.add(str(path.relative_to(package)))
    left_out = {place for place in ELSEWHERE if any(name.startswith(place) for name in found)}
    assert left_out == set(ELSEWHERE), "these places make no files any more"
    assert [name for name in sorted(found) if not name.startswith(tuple(ELSEWHERE))] == []
