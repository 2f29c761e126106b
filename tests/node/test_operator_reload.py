"""What an operator keeps when it gets new code, and what happens if that cannot be used."""

from __future__ import annotations

import gc
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dora import DoraStatus, Event, Reload
from dora.node.operator import HostedOperator, OperatorError, Unimported, take_over
from dora.wire.node_config import OperatorConfig


class Hosted:
    """An operator from a file that the test rewrites."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.sent: list[Any] = []
        self.host = HostedOperator(OperatorConfig("op", str(file)))

    def write(self, text: str) -> None:
        self.file.write_text(textwrap.dedent(text))

    def load(self, text: str) -> None:
        self.write(text)
        self.host.load({"nodes": []}, {})

    def reload(self, text: str) -> DoraStatus:
        self.write(text)
        return self.host.reload(self.send)

    def ask(self) -> Any:
        """Return what the operator sends when it gets an event."""
        self.host.handle(Event(), self.send)
        return self.sent[-1]

    def send(self, output_id: str, data: Any, metadata: Any = None) -> None:  # noqa: ARG002
        self.sent.append(data)


@pytest.fixture
def hosted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosted]:
    # The daemon removes bytecode that is older than a save of the same second; nobody does here.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path, modules = list(sys.path), set(sys.modules)
    yield Hosted(tmp_path / "an_operator.py")
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


COUNTER = """
    from dora import DoraStatus

    class Operator:
        def __init__(self):
            self.seen = 0
            self.factor = 2
            self.names = []

        def on_event(self, event, send_output):
            self.seen += 1
            self.names.append(event.type)
            send_output("out", (self.seen, self.factor, self.names))
            return DoraStatus.CONTINUE
"""


def test_a_reload_keeps_state_and_applies_edited_values(hosted: Hosted) -> None:
    hosted.load(COUNTER)
    hosted.ask()
    assert hosted.reload(COUNTER.replace("factor = 2", "factor = 3; self.fresh = 1")) is DoraStatus.CONTINUE
    assert hosted.ask() == (3, 3, ["UNKNOWN", "RELOAD", "UNKNOWN"])
    assert hosted.host._operator.fresh == 1
    assert hosted.host._operator.dataflow_descriptor == {"nodes": []}


def test_on_reload_replaces_the_default_transfer_of_state(hosted: Hosted) -> None:
    hosted.load(COUNTER)
    hosted.ask()
    hosted.reload(COUNTER + "        def on_reload(self, old):\n            self.seen = 100 * old.seen\n")
    assert hosted.ask() == (102, 2, ["RELOAD", "UNKNOWN"])


def test_the_first_event_of_new_code_is_its_reload(hosted: Hosted) -> None:
    hosted.load(COUNTER)
    status = hosted.reload(
        """
        from dora import DoraStatus

        class Operator:
            def on_event(self, event, send_output):
                send_output("out", dict(event))
                return DoraStatus.STOP
        """
    )
    assert status is DoraStatus.STOP
    assert hosted.sent == [{"kind": "dora", "type": "RELOAD", "id": "op"}]


BROKEN = {
    "syntax": ("def (", SyntaxError),
    "import": ("import no_such_module", ModuleNotFoundError),
    "exit": ("raise SystemExit(3)", SystemExit),
    "no class": ("", OperatorError),
    "no on_event": ("class Operator: pass", OperatorError),
    "__init__": ("class Operator:\n    def __init__(self): raise ValueError", ValueError),
    "on_reload": (
        COUNTER + "        def on_reload(self, old):\n            old.no_such_name",
        AttributeError,
    ),
    "on_event": (COUNTER.replace("self.seen += 1", "raise ValueError"), ValueError),
    "no status": (COUNTER.replace("return DoraStatus.CONTINUE", "pass"), OperatorError),
}


@pytest.mark.parametrize("way", BROKEN)
def test_the_old_code_runs_on_if_the_new_code_fails(hosted: Hosted, way: str) -> None:
    hosted.load(COUNTER)
    module = sys.modules["an_operator"]
    text, error = BROKEN[way]
    with pytest.raises(error):
        hosted.reload(text)
    assert hosted.ask()[:2] == (1, 2)
    assert sys.modules["an_operator"] is module
    hosted.reload(COUNTER)
    assert sys.modules["an_operator"] is not module
    assert hosted.ask()[0] == 3


def test_a_deleted_file_leaves_the_old_code(hosted: Hosted) -> None:
    hosted.load(COUNTER)
    hosted.file.unlink()
    with pytest.raises(OperatorError, match="does not exist"):
        hosted.host.reload(hosted.send)
    assert hosted.ask()[0] == 1


def test_taking_over_between_unlike_objects() -> None:
    class Slots:
        __slots__ = ("x",)

    old = SimpleNamespace(same=1, tuple=(1, 2), mixed=(1, []), gone=3, changed=4)
    initial = dict(vars(old), changed=5)
    new = SimpleNamespace(same=10, tuple=(3, 4), mixed=(), changed=6)
    take_over(new, old, initial)
    assert vars(new) == {"same": 10, "tuple": (3, 4), "mixed": (1, []), "gone": 3, "changed": 4}
    take_over(Slots(), old, {})
    take_over(new, Slots(), {})


def test_the_reload_event_names_the_operators_to_load() -> None:
    event = Reload("op")
    assert (event.type, event["id"], event.id) == ("RELOAD", "op", "op")
    assert "id" not in Reload(operators=["op"])


# ----------------------------------------------------------------------------- imported modules


@pytest.fixture
def package(hosted: Hosted, tmp_path: Path) -> Path:
    folder = tmp_path / "a_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "part.py").write_text("value = 1")
    hosted.load(COUNTER)  # puts the folder on the path
    return folder


def test_a_module_is_imported_anew(package: Path) -> None:
    import a_package.part  # type: ignore[import-not-found]

    (package / "part.py").write_text("value = 22")
    Unimported([str(package / "part.py")])
    from a_package import part

    assert part.value == 22
    assert a_package.part is part


@pytest.mark.parametrize("text", ["value = 22", "value = ("])
def test_a_module_that_fails_to_import_again_is_restored(package: Path, text: str) -> None:
    from a_package import part as before  # type: ignore[import-not-found]

    (package / "part.py").write_text(text)
    modules = Unimported([str(package / "part.py")])
    try:
        import a_package.part  # noqa: F401
    except SyntaxError:
        modules.put_back(everything=False)
    else:
        modules.put_back(everything=True)
    from a_package import part

    assert part is before
    assert sys.modules["a_package.part"] is before


# ----------------------------------------------------------------------------- the end of the old code


def test_old_code_ends_at_a_reload_and_loses_nothing(hosted: Hosted, tmp_path: Path) -> None:
    text = f"""
        from dora import DoraStatus

        log = open({str(tmp_path / "log 1")!r}, "w")
        log.write("of the module")

        class Operator:
            def __init__(self):
                self.file = open({str(tmp_path / "file 1")!r}, "w")
                self.file.write("of the operator")

            def on_event(self, event, send_output):
                return DoraStatus.CONTINUE

            def on_reload(self, old):
                pass

            def __del__(self):
                self.file.write(", to its end")
    """
    hosted.load(text)
    hosted.reload(text.replace("log 1", "log 2").replace("file 1", "file 2"))
    assert (tmp_path / "file 1").read_text() == "of the operator, to its end"
    gc.collect()
    assert (tmp_path / "log 1").read_text() == "of the module"


def test_an_operator_ends_when_it_is_released(hosted: Hosted, tmp_path: Path) -> None:
    hosted.load(
        f"""
        from dora import DoraStatus

        class Operator:
            def __init__(self):
                self.file = open({str(tmp_path / "file")!r}, "w")
                self.file.write("of the operator")
                self.handlers = {{"INPUT": self.on_event}}  # a cycle

            def on_event(self, event, send_output):
                return DoraStatus.CONTINUE
        """
    )
    hosted.host.release()
    gc.collect()
    assert (tmp_path / "file").read_text() == "of the operator"


def test_two_operators_of_one_file_have_modules_that_stay(hosted: Hosted) -> None:
    other = HostedOperator(OperatorConfig("other", str(hosted.file)))
    hosted.load(COUNTER)
    other.load({"nodes": []}, {})
    modules = {name: module for name, module in sys.modules.items() if name.startswith("an_operator")}
    assert list(modules) == ["an_operator", "an_operator of other"]
    hosted.reload(COUNTER)
    other.reload(hosted.send)
    assert [sys.modules[name] is module for name, module in modules.items()] == [False, False]
    with pytest.raises(SyntaxError):
        hosted.write("class")
        other.reload(hosted.send)
    assert sys.modules["an_operator of other"].Operator is not sys.modules["an_operator"].Operator
