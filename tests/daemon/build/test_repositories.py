"""Nodes from git repositories, with real repositories in folders."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

import dora.dataflow
from dora.daemon.build.build import build_dataflow
from dora.daemon.build.node_sources import commit_of
from dora.daemon.options import BuildOptions
from dora.errors import BuildError

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


@pytest.fixture(autouse=True)
def git_without_the_users_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (tmp_path / "gitconfig").write_text(
        "[user]\nname = a\nemail = a@example.org\n[init]\ndefaultBranch = main\n"
    )


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "robot.git"
    folder.mkdir()

    class Repository:
        path = str(folder)

        def git(self, *words):
            done = subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True)
            return done.stdout.strip()

        def commit(self, text):
            (folder / "node.py").write_text(f"print({text!r})\n")
            self.git("add", ".")
            self.git("commit", "-qm", text)
            return self.git("rev-parse", "HEAD")

    made = Repository()
    made.git("init", "-q")
    return made


@pytest.fixture
def flow(tmp_path, repository):
    (tmp_path / "flow").mkdir()

    def load(*fields, git=repository.path):
        text = "\n    ".join([f"git: {git}", "path: node.py", "build: python node.py", *fields])
        file = tmp_path / "flow" / "dataflow.yml"
        file.write_text(f"nodes:\n  - id: n\n    {text}\n")
        return dora.dataflow.load(file)

    return load


def build(dataflow, **options):
    """Build, and return what the node's file printed."""
    entries = []
    build_dataflow(dataflow, entries.append, BuildOptions(**{"update": True, **options}))
    return [entry.message for entry in entries if entry.level == "stdout"]


def test_how_far_a_clone_is_can_be_seen(flow, repository):
    repository.commit("one")
    seen, works = [], []
    build_dataflow(
        flow(git=f"file://{repository.path}"),
        lambda _: works.append(seen[0].work_of("n")),
        on_build=seen.append,
    )
    assert seen[0].steps == seen[0].done == 2, "the clone and the command"
    assert works[0].done == works[0].total > 0, "the objects of the clone"


def test_a_branch_is_followed_by_builds_and_left_alone_by_runs(flow, repository):
    repository.commit("one")
    dataflow = flow()
    assert build(dataflow) == ["one"]
    repository.commit("two")
    assert build(dataflow, update=False) == ["one"]
    assert build(dataflow, offline=True) == ["one"]
    assert build(dataflow) == ["two"]
    repository.git("checkout", "-qb", "other")
    repository.commit("three")
    assert build(flow("branch: other")) == ["three"]
    notes = Path(dataflow.directory_of(dataflow.nodes[0]), ".git").glob("dora-*")
    assert [note.name for note in notes] == ["dora-commit"], "with the other, changes would be taken back"


def test_tags_that_have_moved_and_branches_that_are_gone_are_no_fault_of_an_update(flow, repository):
    repository.commit("one")
    repository.git("branch", "-m", "main")
    repository.git("branch", "other")
    repository.git("tag", "newest")
    assert build(flow()) == build(flow("branch: other")) == ["one"]
    repository.commit("two")
    repository.git("tag", "--force", "newest")
    repository.git("branch", "-D", "other")
    repository.git("branch", "other/part")
    assert build(flow()) == ["two"]
    with pytest.raises(BuildError, match="origin/other"):
        build(flow("branch: other"))


def test_clones_of_tags_and_commits_do_not_move(flow, repository):
    first = repository.commit("one")
    repository.git("tag", "v1")
    repository.commit("two")
    assert build(flow("tag: v1")) == build(flow(f"rev: {first}")) == ["one"]
    assert build(flow("tag: v1")) == ["one"]


def test_the_clone_is_where_the_node_runs(flow, repository, tmp_path):
    repository.commit("one")
    dataflow = flow()
    folder = dataflow.directory_of(dataflow.nodes[0])
    assert folder.startswith(f"{tmp_path}/flow/.dora/git/robot-")
    build(dataflow)
    assert os.path.isfile(f"{folder}/node.py")
    name = os.path.basename(folder)
    assert sorted(os.listdir(os.path.dirname(folder))) == [f".{name}.lock", name]
    assert dora.dataflow.missing_files(dataflow) == []


def test_work_of_the_user_is_never_overwritten(flow, repository):
    repository.commit("one")
    dataflow = flow()
    build(dataflow)
    folder = dataflow.directory_of(dataflow.nodes[0])
    with open(f"{folder}/node.py", "w") as file:
        file.write("print('mine')\n")
    with pytest.raises(BuildError, match="has changes of yours; push them and remove the folder"):
        build(dataflow)
    assert build(dataflow, update=False) == ["mine"]
    subprocess.run(["git", "commit", "-qam", "mine"], cwd=folder, check=True)
    with pytest.raises(BuildError, match="has changes of yours"):
        build(dataflow)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (["branch: gone"], "origin/gone"),
        (["tag: gone"], "refs/tags/gone"),
        (["rev: abcdef0"], "abcdef0"),
    ],
)
def test_a_missing_branch_tag_or_commit_is_reported(fields, says, flow, repository):
    repository.commit("one")
    with pytest.raises(BuildError) as caught:
        build(flow(*fields))
    first, *output = str(caught.value).splitlines()
    assert first.startswith(str(flow(*fields).nodes[0].place))
    assert first.endswith("of node `n` cannot be used: git checkout failed")
    assert says in "".join(output)
    assert not os.path.exists(flow(*fields).directory_of(flow(*fields).nodes[0]))


def test_a_repository_that_is_not_there(flow, tmp_path):
    with pytest.raises(BuildError, match=r"the repository .*/gone of node `n` cannot be used: git clone"):
        build(flow(git=f"{tmp_path}/gone"))
    with pytest.raises(BuildError, match=r"is not cloned yet, and --offline forbids"):
        build(flow(), offline=True)


def test_a_missing_git_is_reported(flow, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(BuildError, match="needs the program `git`, which is not installed"):
        build(flow())


def test_a_folder_at_the_place_of_a_clone_stays(flow, repository):
    repository.commit("one")
    dataflow = flow()
    folder = Path(dataflow.directory_of(dataflow.nodes[0]))
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("text")
    with pytest.raises(BuildError, match="exists and is no clone; move it elsewhere"):
        build(dataflow)
    assert (folder / "thesis.txt").read_text() == "text"
    (folder / "thesis.txt").unlink()
    assert build(dataflow) == ["one"]


def test_a_build_in_a_hook_of_git_leaves_the_users_repository_alone(
    flow, repository, tmp_path, monkeypatch
):
    commit = repository.commit("one")
    dataflow = flow()
    mine = tmp_path / "flow"

    def git(*words):
        done = subprocess.run(["git", *words], cwd=mine, check=True, capture_output=True, text=True)
        return done.stdout

    git("init", "-q")
    git("add", "dataflow.yml")
    git("commit", "-qm", "mine")
    before = git("rev-parse", "HEAD"), git("ls-files", "--stage"), git("remote")
    for name, value in {"GIT_DIR": ".git", "GIT_INDEX_FILE": ".git/index", "GIT_WORK_TREE": "."}.items():
        monkeypatch.setenv(name, str(mine / value))  # as git does for a hook
    with monkeypatch.context() as without_hook:
        without_hook.delenv("GIT_WORK_TREE")
        assert build(dataflow) == build(dataflow) == ["one"]
    folder = dataflow.directory_of(dataflow.nodes[0])
    Path(folder, ".git", "HEAD").write_text("ref: refs/heads/main\n")  # as a checkout of the user leaves it
    assert commit_of(folder) == commit
    assert (git("rev-parse", "HEAD"), git("ls-files", "--stage"), git("remote")) == before


def test_a_clone_that_is_broken_does_not_stand_for_the_repository_around_it(flow, repository, tmp_path):
    repository.commit("one")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "flow", check=True)
    dataflow = flow()
    build(dataflow)
    Path(dataflow.directory_of(dataflow.nodes[0]), ".git", "HEAD").write_text("")
    with pytest.raises(BuildError, match="not a git repository"):
        build(dataflow)


def test_a_failed_update_leaves_the_commit_before(flow, repository):
    repository.commit("one")
    dataflow = flow()
    assert build(dataflow) == ["one"]
    (Path(repository.path) / ".gitmodules").write_text(
        '[submodule "sub"]\npath = sub\nurl = http://127.0.0.1:1/none.git\n'
    )
    (Path(repository.path) / "sub").mkdir()
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    repository.commit("two")
    with pytest.raises(BuildError, match="git submodule failed"):
        build(dataflow)
    assert not os.path.exists(f"{dataflow.directory_of(dataflow.nodes[0])}/.gitmodules")
    assert build(dataflow, update=False) == ["one"]
    repository.git("rm", "-q", "--cached", "sub")
    repository.git("rm", "-qf", ".gitmodules")
    repository.commit("three")
    assert build(dataflow) == ["three"]


@pytest.mark.parametrize("updates", [False, True])
def test_an_update_that_was_cut_off_is_taken_back(flow, repository, updates):
    repository.commit("one")
    dataflow = flow()
    build(dataflow)
    (Path(repository.path) / "more.py").touch()
    commit = repository.commit("two")
    folder = Path(dataflow.directory_of(dataflow.nodes[0]))
    subprocess.run(["git", "fetch", "-q"], cwd=folder, check=True)
    (folder / ".git" / "dora-update").write_text(commit)
    (folder / ".git" / "index.lock").touch()
    (folder / "node.py").unlink()
    (folder / "more.py").touch()
    assert build(dataflow, update=updates) == (["two"] if updates else ["one"])
    assert (folder / "more.py").exists() == updates
    assert not (folder / ".git" / "dora-update").exists()


def test_an_update_that_was_cut_off_leaves_no_file_of_its_submodules(
    flow, repository, tmp_path, monkeypatch
):
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "file")
    first = repository.commit("one")
    dataflow = flow()
    build(dataflow)
    shutil.copytree(repository.path, tmp_path / "arm.git")
    repository.git("submodule", "add", "--quiet", str(tmp_path / "arm.git"), "arm")
    second = repository.commit("two")
    assert build(dataflow) == ["two"]
    folder = Path(dataflow.directory_of(dataflow.nodes[0]))
    assert (folder / "arm" / "node.py").exists()
    (folder / ".git" / "dora-update").write_text(second)
    (folder / ".git" / "dora-commit").write_text(first)
    assert build(dataflow, update=False) == ["one"]
    assert not (folder / "arm").exists()
    assert build(dataflow) == ["two"], "a file that stays would be a change of the user"


def test_two_builds_at_the_same_time_share_a_clone(flow, repository):
    repository.commit("one")
    dataflow = flow()
    second, faults = [], []

    def build_again():
        try:
            build(dataflow)
        except BuildError as error:
            faults.append(str(error))

    def log(entry):
        if entry.message.startswith("cloning"):
            second.append(threading.Thread(target=build_again))
            second[0].start()

    build_dataflow(dataflow, log, BuildOptions())
    second[0].join()
    assert faults == []


def test_the_password_of_a_repository_is_not_shown(flow):
    with pytest.raises(BuildError) as caught:
        build(flow(git="http://me:TOKEN@127.0.0.1:1/robot.git"))
    assert "http://127.0.0.1:1/robot.git" in str(caught.value)
    assert "TOKEN" not in str(caught.value)
