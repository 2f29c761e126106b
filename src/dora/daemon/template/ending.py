"""Make a forked process end as a plain Python process does.

The interpreter ends a process by emptying all modules and by collecting all garbage. That would write to
nearly all memory that the process shares with its template, and so copy it. `gc.unfreeze` at the end would
be the simple way; it takes 60 ms of processor time more for each node (24 nodes: 2.5 s instead of 1.1 s for
the whole run). To collect nothing loses what files and logs still have in their buffers.

So modules and objects of the template are left alone. That is right only while none of them refers to an
object of the program whose end can be noticed, such as an open file in a handler of `logging`. `_End` finds
out, and leaves everything to the interpreter if one does.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import gc
import sys
import weakref
from collections.abc import Set as AbstractSet
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

_of_template: list[str] = []  # names of modules
_kept: list[ModuleType] = []  # this list is never destroyed


def remember_modules() -> None:
    """Remember, in the template, the modules that it has imported: its forks leave these alone."""
    _of_template[:] = sys.modules.keys() - {"__main__", "builtins", "sys"}


def end_as_plain() -> None:
    """Have this forked process end as a plain one does; called before the program begins.

    All objects are exempt from garbage collection from now on: the program has made none of them.
    """
    gc.freeze()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))
    atexit.register(_arrange_end)


def _arrange_end() -> None:
    # The interpreter drops this attribute, which it uses for its prompt, after the last function of
    # `atexit` and a garbage collection, and before it touches a module. A function in `gc.callbacks` would
    # not do: nothing is collected from within it, and it is not called after `gc.disable()`.
    sys.__interactivehook__ = _End()  # type: ignore[assignment]


class _End:
    """Destroys what the program has left. It acts when it is destroyed itself."""

    def __del__(self) -> None:
        sys.meta_path = sys.path_hooks = None  # type: ignore[assignment]  # as the interpreter does next
        try:
            _destroy(sys.modules.keys() - {"builtins", "sys", *_of_template})
            noticed = any(_end_is_noticed(item) for item in _left())
        except Exception:  # noqa: BLE001 - the interpreter can do all of it
            noticed = True
        if noticed:
            gc.unfreeze()
        else:
            _kept.extend(sys.modules.pop(name) for name in _of_template if name in sys.modules)


def _destroy(names: AbstractSet[str]) -> None:
    """Destroy modules as the interpreter does at its end (``finalize_modules`` of CPython)."""
    references = []
    for name in [name for name in sys.modules if name in names]:
        module: ModuleType | None = sys.modules[name]
        if isinstance(module, ModuleType):
            references.append(weakref.ref(module))
        sys.modules[name] = module = None  # type: ignore[assignment]  # an import in a finalizer fails
    gc.collect()
    for reference in reversed(references):
        left = reference()
        if left is not None and left is not builtins and left is not sys:  # which may have other names
            _empty(vars(left))
        del left
    gc.collect()


def _empty(namespace: dict[str, Any]) -> None:
    for private in (True, False):
        for name in list(namespace):
            if name != "__builtins__" and private == (name.startswith("_") and not name.startswith("__")):
                namespace[name] = None


# --------------------------------------------------------------------------- what is left

_POINTER: Final = ctypes.sizeof(ctypes.c_void_p)
_DEALLOC: Final = object.__basicsize__ + 4 * _POINTER  # where a type has its `tp_dealloc`
_IS_ON_THE_HEAP: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE
# Types of compiled packages whose objects only free memory when they end, and their subclasses.
_ONLY_MEMORY: Final = {
    "msgspec.msgpack": ("Decoder", "Encoder"),
    "numpy": ("ndarray", "generic", "dtype", "ufunc"),
    "pyarrow.lib": ("Array", "ChunkedArray", "Buffer", "DataType", "Field", "Scalar", "Schema", "_Tabular"),
}
_ICEORYX2_MODULE: Final = "iceoryx2._iceoryx2"  # dora keeps some of its objects to the end of the process


def _left() -> list[object]:
    """Return what the program has made and what is still there: something of the template refers to it.

    An object that the collector does not know is found if one that it knows refers to it.
    """
    found = gc.get_objects()  # without those that are exempt
    unknown: dict[int, object] = {}
    todo = list(found)
    while todo:
        for item in gc.get_referents(todo.pop()):
            if not gc.is_tracked(item) and id(item) not in unknown:
                unknown[id(item)] = item
                if type(item) in (dict, tuple):  # not known because it holds nothing that is
                    todo.append(item)
    return [item for item in (*found, *unknown.values()) if type(item) is not _End]


def _end_is_noticed(item: object) -> bool:
    """Return whether the end of an object may do more than free memory."""
    if isinstance(item, weakref.ref) and (callback := item.__callback__) is not None:
        # A function of Python's own removes an entry of a table.
        is_function = isinstance(callback, (FunctionType, BuiltinFunctionType))
        return not is_function or not _is_of_python(callback.__module__ or "abc")
    kind = type(item)
    # Constants of a compiled type live as long as it does, thus beyond the interpreter.
    return _type_is_noticed(kind) and not (_compiled(kind) is kind and _is_constant(item, kind))


def _is_constant(item: object, kind: type) -> bool:
    return any(value is item for value in vars(kind).values())


_noticed: dict[type, bool] = {}


def _type_is_noticed(kind: type) -> bool:
    if kind not in _noticed:
        _noticed[kind] = hasattr(kind, "__del__") or not _frees_only_memory(_compiled(kind))
    return _noticed[kind]


def _compiled(kind: type) -> type:
    """Return the nearest type that is no class of Python: it does what is done when an object goes."""
    while kind.__base__ is not None and _dealloc(kind) == _dealloc(_End):
        kind = kind.__base__
    return kind


def _dealloc(kind: type) -> int:
    return ctypes.c_void_p.from_address(id(kind) + _DEALLOC).value or 0


def _frees_only_memory(kind: type) -> bool:
    """Return whether a compiled type is known to do no more; ``__del__`` would show what it does else."""
    module = kind.__module__
    if module == "builtins" and kind.__flags__ & _IS_ON_THE_HEAP:  # of a package in Rust
        # The engine may be another one.
        iceoryx2 = sys.modules.get(_ICEORYX2_MODULE)
        return iceoryx2 is not None and vars(iceoryx2).get(kind.__name__) is kind
    if _is_of_python(module) or _dealloc(kind) == _dealloc(object):
        return True
    return any(
        kind is known or issubclass(kind, known)
        for module, names in _ONLY_MEMORY.items()
        if module in sys.modules
        for name in names
        if (known := getattr(sys.modules[module], name, None)) is not None
    )


def _is_of_python(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
