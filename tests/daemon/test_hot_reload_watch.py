"""Noticing that a file was saved, however an editor does it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import TIMEOUT

from dora.daemon.event_loop import Loop, Timer
from dora.daemon.reload import watch as module
from dora.daemon.reload.watch import FileWatch, HotReload, SaveNotifications
from dora.daemon.supervisor.events import CodeChanged
from dora.dataflow.model import Dataflow, NodeSpec, OperatorSpec, PythonEnvironment


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.py"
    path.write_text("one")
    return path


@pytest.fixture
def watch(file: Path) -> FileWatch:
    watch = FileWatch()
    watch.watch([str(file)])
    return watch


def save_in_place(file: Path, text: str) -> None:
    file.write_text(text)


def save_by_renaming(file: Path, text: str) -> None:
    fresh = file.with_suffix(".tmp")
    fresh.write_text(text)
    fresh.rename(file)


def save_with_a_backup(file: Path, text: str) -> None:
    file.rename(file.with_suffix(".bak"))
    file.write_text(text)


@pytest.mark.parametrize("save", [save_in_place, save_by_renaming, save_with_a_backup])
def test_a_save_is_reported_once_the_file_is_stable(file: Path, watch: FileWatch, save: object) -> None:
    assert watch.poll() == frozenset()
    save(file, "another text")  # type: ignore[operator]
    assert watch.poll() == frozenset()
    assert watch.has_unstable
    assert watch.poll() == {str(file)}
    assert watch.poll() == frozenset()
    assert not watch.has_unstable


def test_the_same_size_at_the_same_second(file: Path, watch: FileWatch) -> None:
    status = file.stat()
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    watch.poll()
    assert watch.poll() == {str(file)}


def test_a_file_that_is_still_being_written_is_not_reported(file: Path, watch: FileWatch) -> None:
    for length in range(1, 5):
        file.write_text("x" * 10 * length)
        assert watch.poll() == frozenset()
    assert watch.poll() == {str(file)}


def test_a_deleted_file_has_changed_when_it_exists_again(file: Path, watch: FileWatch) -> None:
    file.unlink()
    assert [watch.poll() for _ in range(3)] == [frozenset()] * 3
    file.write_text("two")
    watch.poll()
    assert watch.poll() == {str(file)}


def test_files_saved_together_are_reported_together(file: Path, watch: FileWatch) -> None:
    other = file.with_name("helper.py")
    other.write_text("1")
    watch.watch([str(file), str(other)])
    file.write_text("first of two")
    watch.poll()
    other.write_text("second of two")
    assert watch.poll() == frozenset()
    assert watch.poll() == {str(file), str(other)}


def test_a_change_before_a_file_is_watched_is_not_reported(file: Path, watch: FileWatch) -> None:
    file.write_text("changed")
    watch.watch([str(file)])  # again: it is compared with how it was
    watch.poll()
    assert watch.poll() == {str(file)}
    other = file.with_name("helper.py")
    other.write_text("1")
    watch.watch([str(file), str(other)])
    watch.poll()
    assert watch.poll() == frozenset()


def test_a_missing_file_that_appears_while_the_files_are_set_is_reported(file: Path) -> None:
    other = file.with_name("helper.py")
    watch = FileWatch()
    watch.watch([str(file), str(other)])
    other.write_text("1")
    watch.watch([str(file), str(other)])
    watch.poll()
    assert watch.poll() == {str(other)}


def test_a_file_that_is_gone_before_it_was_stable_holds_no_other_one_up(
    file: Path, watch: FileWatch
) -> None:
    other = file.with_name("helper.py")
    other.write_text("1")
    watch.watch([str(file), str(other)])
    file.write_text("half of it")
    other.write_text("all of it")
    watch.poll()
    file.unlink()
    assert watch.poll() == {str(other)}
    assert not watch.has_unstable


def test_a_file_that_is_no_longer_watched_holds_no_other_one_up(file: Path, watch: FileWatch) -> None:
    other = file.with_name("helper.py")
    other.write_text("1")
    watch.watch([str(file), str(other)])
    file.write_text("half of it")
    other.write_text("all of it")
    watch.poll()
    watch.watch([str(other)])
    assert watch.poll() == {str(other)}
    assert not watch.has_unstable


# ----------------------------------------------------------------------------- whose code it is


class Reloading:
    """A `HotReload` whose looks the test takes."""

    def __init__(self, directory: Path, *nodes: NodeSpec) -> None:
        self.changes: list[CodeChanged] = []
        self.notes: list[tuple[str, str | None, str]] = []
        self.loop = Loop()
        file = directory / "dataflow.yml"
        file.write_text("nodes: []")
        self.hot = HotReload(
            Dataflow(nodes, str(directory), file=str(file)),
            self.loop,
            self.changes.append,
            lambda *note: self.notes.append(note),
        )

    def poll(self) -> list[CodeChanged]:
        self.changes.clear()
        self.hot._poll()
        self.hot._poll()
        return self.changes


needs_notifications = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the kernel sends no notifications"
)


@needs_notifications
@pytest.mark.parametrize("is_link", [False, True], ids=["file", "link"])
@pytest.mark.parametrize("save", [save_in_place, save_by_renaming, save_with_a_backup])
def test_a_save_that_the_kernel_reports_does_not_wait_for_the_next_poll(
    save: Callable[[Path, str], None], is_link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "POLL_EVERY", 2 * TIMEOUT)
    code = tmp_path / ("code/a.py" if is_link else "a.py")
    code.parent.mkdir(exist_ok=True)
    code.write_text("")
    if is_link:
        (tmp_path / "a.py").symlink_to(code)
    reloading = Reloading(tmp_path, NodeSpec("a", path="a.py"))
    reloading.hot.start()
    deadline = time.monotonic() + TIMEOUT
    for number in range(2):
        save(code, f"x = {number}")
        reloading.changes.clear()
        while not reloading.changes and time.monotonic() < deadline:
            reloading.loop.run_once(deadline)
        assert reloading.changes == [CodeChanged("a")]
    reloading.hot.close()
    reloading.loop.close()


@needs_notifications
def test_each_save_that_the_kernel_reports_waits_anew_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("import b, c")
    for name in ("b", "c"):
        (tmp_path / f"{name}.py").write_text("")
    reloading = Reloading(tmp_path, NodeSpec("a", path="a.py"))
    timers: list[Timer] = []

    def call_later(seconds: float, callback: Callable[[], None]) -> Timer:
        timers.append(Timer(seconds, callback))
        return timers[-1]

    monkeypatch.setattr(reloading.loop, "call_later", call_later)
    for name in ("b", "c"):
        (tmp_path / f"{name}.py").write_text("x = 1")
        reloading.hot._on_saved()
    first, second = timers
    assert first.callback is None and second.callback is not None
    second.callback()
    assert reloading.changes == [CodeChanged("a")]
    reloading.hot.close()
    reloading.loop.close()


@needs_notifications
def test_the_kernel_reports_a_file_by_each_of_its_watched_names_until_it_is_no_longer_watched(
    file: Path,
) -> None:
    link = file.with_name("link.py")
    link.symlink_to(file)
    open_before = os.listdir("/dev/fd")
    notifications = SaveNotifications()
    notifications.watch([str(file), str(link)])
    file.write_text("two")
    assert notifications.saved() == {str(file), str(link)}
    notifications.watch([str(link)])
    file.write_text("three")
    assert notifications.saved() == {str(link)}
    notifications.close()
    assert os.listdir("/dev/fd") == open_before


def test_a_changed_module_reloads_the_programs_that_import_it(tmp_path: Path) -> None:
    for name, text in {"a": "import helper", "b": "", "op": "import helper", "helper": ""}.items():
        (tmp_path / f"{name}.py").write_text(text)
    reloading = Reloading(
        tmp_path,
        NodeSpec("a", path="a.py"),
        NodeSpec("b", path="b.py"),
        NodeSpec(
            "host",
            operators=(
                OperatorSpec("one", "op.py"),
                OperatorSpec("two", "b.py"),
                OperatorSpec("three", "op.py"),
            ),
        ),
        NodeSpec("arm", path="a.py", hot_reload="never"),
        NodeSpec("visitor", path="dynamic"),
        NodeSpec("shell", path="shell", args=("echo a.py",)),
    )
    assert reloading.hot.nodes == {"a", "b", "host"}
    helper = tmp_path / "helper.py"
    helper.write_text("new = 1")
    assert reloading.poll() == [
        CodeChanged("a"),
        CodeChanged("host", ("one", "three"), (str(helper),)),
    ]
    (tmp_path / "op.py").write_text("import helper # again")
    assert reloading.poll() == [CodeChanged("host", ("one", "three"))]
    reloading.loop.close()


def test_a_new_import_is_watched_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("")
    reloading = Reloading(tmp_path, NodeSpec("a", path="a.py"))
    (tmp_path / "fresh.py").write_text("")
    assert reloading.poll() == []
    (tmp_path / "a.py").write_text("import fresh")
    assert reloading.poll() == [CodeChanged("a")]
    (tmp_path / "fresh.py").write_text("x = 1")
    assert reloading.poll() == [CodeChanged("a")]
    reloading.loop.close()


def test_the_imports_of_code_that_cannot_be_read_stay_watched(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import helper")
    (tmp_path / "helper.py").write_text("")
    reloading = Reloading(tmp_path, NodeSpec("a", path="a.py"))
    for name, text in (("a.py", "import helper\nx = ("), ("helper.py", "x = 1")):
        (tmp_path / name).write_text(text)
        assert reloading.poll() == [CodeChanged("a")]
    reloading.loop.close()


def test_a_missing_module_is_reported_when_it_exists(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import late")
    reloading = Reloading(tmp_path, NodeSpec("a", path="a.py"))
    (tmp_path / "late.py").write_text("")
    assert reloading.poll() == [CodeChanged("a")]
    reloading.loop.close()


def test_bytecode_of_a_changed_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import helper")
    (tmp_path / "helper.py").write_text("")
    cached = tmp_path / "__pycache__" / "helper.cpython-311.pyc"
    cached.parent.mkdir()
    cached.write_bytes(b"")
    reloading = Reloading(tmp_path, NodeSpec("a", path="a.py"))
    (tmp_path / "helper.py").write_text("x = 1")
    reloading.poll()
    assert not cached.exists()
    reloading.loop.close()


def test_a_saved_dataflow_file_is_logged(tmp_path: Path) -> None:
    reloading = Reloading(tmp_path)
    (tmp_path / "dataflow.yml").write_text("nodes: [] # more")
    assert reloading.poll() == []
    ((level, node_id, text),) = reloading.notes
    assert (level, node_id) == ("info", None)
    assert "next `dora run`" in text
    reloading.loop.close()


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = 1\nfor", "SyntaxError: invalid syntax ("),
        ("x" + ".x" * 200_000, "RecursionError: "),
    ],
    ids=["syntax", "nesting"],
)
def test_code_of_a_node_that_cannot_exist_twice_is_compiled_first(
    tmp_path: Path, code: str, reason: str
) -> None:
    (tmp_path / "a.py").write_text("")
    reloading = Reloading(tmp_path, NodeSpec("a", path="a.py", hot_reload="replace"))
    (tmp_path / "a.py").write_text(code)
    assert reloading.poll() == []
    ((level, node_id, text),) = reloading.notes
    assert (level, node_id) == ("error", "a")
    assert f"the old code goes on: {reason}" in text and f"({tmp_path}/a.py" in text
    (tmp_path / "a.py").write_text("x = 1")
    assert reloading.poll() == [CodeChanged("a")]
    reloading.loop.close()


def test_code_with_an_error_is_not_started_by_saving_another_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import helper")
    (tmp_path / "helper.py").write_text("")
    reloading = Reloading(tmp_path, NodeSpec("a", path="a.py", hot_reload="replace"))
    for name, text in (("helper.py", "x = ("), ("a.py", "import helper\nx = 1")):
        (tmp_path / name).write_text(text)
        assert reloading.poll() == []
        assert f"({tmp_path}/helper.py" in reloading.notes[-1][2]
    assert len(reloading.notes) == 2
    (tmp_path / "helper.py").write_text("x = 2")
    assert reloading.poll() == [CodeChanged("a")]
    reloading.loop.close()


def test_code_for_an_interpreter_of_its_own_is_not_compiled_by_the_one_of_the_daemon(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.py").write_text("")
    node = NodeSpec("a", path="a.py", hot_reload="replace", python=PythonEnvironment())
    reloading = Reloading(tmp_path, node)
    (tmp_path / "a.py").write_text("words of a newer Python")
    assert reloading.poll() == [CodeChanged("a")]
    assert reloading.notes == []
    reloading.loop.close()
