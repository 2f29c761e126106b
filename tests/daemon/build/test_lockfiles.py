"""Locks: the commits of nodes from repositories, written down and built again."""

import shutil
import subprocess
import sys

import pytest
import yaml

from dora.daemon.build.lockfile import fingerprint, read_lock, write_lock
from dora.daemon.build.session_file import GitCommit
from dora.dataflow import parse

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository, as a function that commits a node and returns the commit."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "gitconfig").write_text("[user]\nname = a\nemail = a@example.org\n")
    folder = tmp_path / "robot.git"
    folder.mkdir()

    def git(*words):
        done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(text):
        (folder / "node.py").write_text(f"import dora\nprint({text!r}, flush=True)\ndora.Node()\n")
        git("add", ".")
        git("commit", "-qm", text)
        return git("rev-parse", "HEAD")

    git("init", "-q")
    return commit


@pytest.fixture
def dora(tmp_path):
    """A function that runs a command of dora on the dataflow, and returns all that it printed."""
    folder = tmp_path / "flow"
    folder.mkdir()
    text = f"nodes:\n  - id: n\n    path: node.py\n    git: {tmp_path}/robot.git\n"
    (folder / "arm.yml").write_text(text)

    def run(command, *options, status=0):
        done = subprocess.run(
            [sys.executable, "-m", "dora", command, "arm.yml", *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    run.folder = folder
    run.lock = folder / "arm.dora-lock.yaml"
    return run


def test_locked_commits_are_built_and_run_wherever_the_branch_is(repository, dora):
    first = repository("one")
    dora("build", "--write-lockfile")
    assert yaml.safe_load(dora.lock.read_text())["git_sources"]["n"]["commit_hash"] == first
    second = repository("two")
    dora("build")
    assert "two" in dora("run")
    assert "one" in dora("run", "--locked")
    dora("build", "--locked")
    session = yaml.safe_load((dora.folder / "out" / "arm.dora-session.yaml").read_text())
    assert session["git_sources"]["n"]["commit_hash"] == first
    assert "two" in dora("run", "--write-lockfile", "--lockfile", "other.yaml")
    other = yaml.safe_load((dora.folder / "other.yaml").read_text())
    assert other["git_sources"]["n"]["commit_hash"] == second
    assert "two" in dora("run", "--locked", "--lockfile", "other.yaml")
    assert "one" in dora("run", "--locked")
    dora("build", "--locked", "--offline")


def test_the_file_is_that_of_dora_rs(repository, dora):
    commit = repository("one")
    dora("build", "--write-lockfile")
    lines = dora.lock.read_text().splitlines()
    assert lines[0] == "version: 2"
    assert lines[2:] == [
        "git_sources:",
        "  n:",
        f"    repo: {dora.folder.parent}/robot.git",
        f"    commit_hash: {commit}",
    ]


@pytest.mark.parametrize(
    ("version", "digits"),
    [
        ("", "a4aa62c8d647222c"),
        ("branch: main", "5fab24203f9126c0"),
        ("tag: v1", "6617de6170093a34"),
        ("rev: 79f96e2", "52a5fe3367667e64"),
    ],
)
def test_the_fingerprint_is_that_of_dora_rs(version, digits):
    text = "nodes:\n" + "".join(
        f"  - id: {name}\n    path: a.py\n    git: https://example.org/a.git\n    {version}\n"
        for name in ("two", "three")
    )
    assert fingerprint(parse(text, working_dir="/", environ={})) == digits


def test_a_lock_of_another_dataflow_file_is_refused(repository, dora):
    repository("one")
    dora("build", "--write-lockfile")
    file = dora.folder / "arm.yml"
    for change in ("    branch: other\n", "  - id: m\n    path: node.py\n    git: ../robot.git\n"):
        text = file.read_text()
        file.write_text(text + change)
        assert "names other repositories, branches, tags or commits than" in dora(
            "run", "--locked", status=1
        )
        file.write_text(text)
    dora("run", "--locked")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no lockfile"),
        ("version: 1\n", "has version 1, and not 2"),
        ("version: 2\ngit_sources: 3\n", "is not understood: Expected `object`, got `int`"),
        ("version: 2\ngit_sources: {n: {repo: a, commit_hash: --help}}\n", "is not understood: "),
        ("version: [", "is not understood: "),
        ("version: 2\n", "names other repositories"),
    ],
)
def test_a_lock_that_cannot_be_used(dora, content, says):
    if content is not None:
        dora.lock.write_text(content)
    told = dora("build", "--locked", status=1)
    assert told.startswith("error: ") and says in told
    assert told.endswith("write it anew with `dora build --write-lockfile`\n")
    assert not (dora.folder / ".dora").exists()


def test_a_lock_that_cannot_be_written(repository, dora):
    repository("one")
    told = dora("build", "--write-lockfile", "--lockfile", "missing/lock.yaml", status=1)
    assert f"error: the lockfile {dora.folder}/missing/lock.yaml cannot be written: No such file" in told


def test_a_clone_at_another_commit_than_the_locked_one_is_not_used(repository, dora):
    repository("one")
    dora("build", "--write-lockfile")
    dora("build", "--locked")
    session = yaml.safe_load((dora.folder / "out" / "arm.dora-session.yaml").read_text())
    clone = session["local_build"]["node_working_dirs"]["n"]
    subprocess.run(["git", "commit", "-q", "--allow-empty", "-m", "mine"], cwd=clone, check=True)
    told = dora("run", "--locked", status=1)
    assert f"the clone {clone} of node `n` is at commit" in told and "remove the folder" in told


def test_a_clone_with_changed_files_is_not_used_for_a_lock(repository, dora):
    repository("one")
    dora("build", "--write-lockfile")
    dora("build", "--locked")
    session = yaml.safe_load((dora.folder / "out" / "arm.dora-session.yaml").read_text())
    clone = session["local_build"]["node_working_dirs"]["n"]
    with open(f"{clone}/made-by-a-build-command", "w"):
        pass
    dora("build", "--locked")
    with open(f"{clone}/node.py", "a") as file:
        file.write("print('changed')\n")
    for command in ("build", "run"):
        assert f"the clone {clone} of node `n` has changed files" in dora(command, "--locked", status=1)


def test_a_password_in_an_address_is_kept_in_no_file(repository, dora, tmp_path):
    repository("one")
    address = "http://me:TOKEN@example.org/robot.git"
    with open(tmp_path / "gitconfig", "a") as file:
        file.write(f'[url "file://{tmp_path}/robot.git"]\ninsteadOf = {address}\n')
    text = (dora.folder / "arm.yml").read_text().replace(f"{tmp_path}/robot.git", address)
    (dora.folder / "arm.yml").write_text(text)
    told = dora("build", "--write-lockfile") + dora("build", "--locked")
    written = dora.lock.read_text() + (dora.folder / "out" / "arm.dora-session.yaml").read_text()
    assert "TOKEN" not in told + written
    assert written.count("repo: http://example.org/robot.git") == 2


@pytest.mark.parametrize("written_with", ["TOKEN", "another", None])
def test_a_lock_holds_for_another_password(tmp_path, written_with):
    def load(password):
        address = f"https://me:{password}@example.org/a.git"
        text = f"nodes: [{{id: n, path: a.py, git: '{address}'}}]"
        return parse(text, working_dir="/", environ={}), address

    path = str(tmp_path / "lock.yaml")
    if written_with is None:  # as by dora-rs
        dataflow, address = load("TOKEN")
        sources = {"n": {"repo": address, "commit_hash": "1" * 40}}
        lock = {
            "version": 2,
            "descriptor_fingerprint": fingerprint(dataflow, with_passwords=True),
            "git_sources": sources,
        }
        (tmp_path / "lock.yaml").write_text(yaml.safe_dump(lock))
    else:
        dataflow, address = load(written_with)
        write_lock(dataflow, {"n": GitCommit(dataflow.node("n").git.repository, "1" * 40)}, path)
    assert read_lock(load("TOKEN")[0], path) == {"n": "1" * 40}
