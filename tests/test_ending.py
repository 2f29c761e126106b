"""A process leaves its end to the interpreter if it would be noticed that it does not."""

from __future__ import annotations

import functools
import gc
import io
import logging
import re
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from dora import _ending
from dora._ending import _end_is_noticed, _has_only_imports, _left


class Plain:
    pass


class Finalized(Plain):
    def __del__(self) -> None:
        pass


class Config(msgspec.Struct):
    pass


class Slots:
    __slots__ = ("one",)


key = Plain()
table = weakref.WeakKeyDictionary({key: 1})


def suspended() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "item",
    [
        {},
        [1],
        "text",
        3,
        None,
        Plain(),
        Plain,
        Slots(),
        suspended,
        threading.Lock(),
        threading.RLock(),
        weakref.ref(Plain),
        *weakref.getweakrefs(key),
        re.compile("x"),
        logging.NullHandler(),
        memoryview(b"x"),
        np.arange(3),
        np.float64(1),
        pa.array([1]),
        pa.table({"x": [1]}),
        pa.int64(),
        type("Derived", (np.ndarray,), {})(3),
        pytest.importorskip("zenoh").Priority.REAL_TIME,
        Config(),
    ],
    ids=lambda item: type(item).__name__,
)
def test_nobody_notices_the_end_of_what_only_holds_memory(item: object) -> None:
    assert not _end_is_noticed(item)


def test_objects_of_packages_in_rust_are_looked_at_without_iceoryx2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "iceoryx2._iceoryx2", raising=False)
    monkeypatch.setattr(_ending, "_noticed", {})
    assert not _end_is_noticed(pytest.importorskip("zenoh").Priority.REAL_TIME)


def test_nobody_notices_the_end_of_what_iceoryx2_has_made() -> None:
    assert not _end_is_noticed(pytest.importorskip("iceoryx2").FileName.new("x"))


def test_a_finalizer_a_callback_and_an_unknown_compiled_type_are_noticed(tmp_path: Path) -> None:
    generator = suspended()
    next(generator)
    kept = Plain()
    found: list[Any] = [
        Finalized(),
        type("Derived", (Finalized,), {})(),
        open(tmp_path / "file", "w"),  # noqa: SIM115
        io.StringIO(),
        generator,
        weakref.ref(kept, lambda _: None),
        weakref.ref(kept, functools.partial(print)),
        pa.OSFile(str(tmp_path / "arrow"), "w"),
        pa.ipc.new_stream(pa.BufferOutputStream(), pa.schema([])),
    ]
    for item in found:
        assert _end_is_noticed(item), item
    cv2 = pytest.importorskip("cv2")
    assert _end_is_noticed(cv2.VideoWriter())


def test_an_object_that_the_collector_does_not_know_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    cv2 = pytest.importorskip("cv2")
    video = cv2.VideoWriter()
    items = {"video": video}
    holder = Plain()
    holder.items = items  # type: ignore[attr-defined]
    assert not gc.is_tracked(video)
    # Since Python 3.14, the collector knows each dict.
    known = [item for item in (holder, items) if gc.is_tracked(item)]
    monkeypatch.setattr(_ending.gc, "get_objects", lambda: list(known))
    found = _left()
    monkeypatch.undo()
    assert any(item is video for item in found)


IMPORTS = """
from __future__ import annotations
import numpy as np, os.path, sys
from pathlib import Path
from os import getcwd as folder
from typing import TYPE_CHECKING, Any, Union
from pyarrow import array, uint8
"""


def result_of(text: str) -> dict[str, Any]:
    main: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, "main", "exec", dont_inherit=True), main)
    return main


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the packages of pytest."""
    for name, module in list(sys.modules.items()):
        if not _ending._is_silent(name, module):
            monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("silent")
def test_a_program_that_has_only_imported_known_packages_is_found() -> None:
    assert _has_only_imports(result_of(IMPORTS))


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize(
    "text",
    [
        "def function(): pass",
        "class Class: pass",
        "function = lambda: 1",
        "file = sys.stderr",
        "write = sys.stderr.write",
        "listed = [1]",
        "path = Path()",
        "objects = {}",
    ],
)
def test_a_program_that_has_anything_of_its_own_is_found(text: str) -> None:
    assert not _has_only_imports(result_of(IMPORTS + text))


@pytest.mark.usefixtures("silent")
def test_a_module_of_the_program_is_found_also_under_a_name_of_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    main = result_of(IMPORTS)
    module = type(sys)("queue")
    module.__file__ = str(tmp_path / "queue.py")
    monkeypatch.setitem(sys.modules, "queue", module)
    assert not _has_only_imports(main)
    monkeypatch.delitem(sys.modules, "queue")
    assert _has_only_imports(main)
    monkeypatch.setitem(sys.modules, "helper", type(sys)("helper"))
    assert not _has_only_imports(main)
