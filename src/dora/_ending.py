"""Make a process end as Python does, without emptying the modules of packages.

Early imports are exempt from garbage collection: in a forked process the packages of its template, in a
plainly started one those that it has imported together with dora.

The interpreter ends a process by emptying all modules and by collecting all garbage. In a forked process
that would write to nearly all memory that it shares with its template, and so copy it. `gc.unfreeze` at the
end would be the simple way. It takes 60 ms of processor time more for each forked node (24 nodes: 2.5 s
instead of 1.1 s for the whole run), and 15 ms more for one that was started plainly. To collect nothing
loses what files and logs still have in their buffers.

So these modules and objects are left alone. That is right only while none of them refers to an object of
the program whose end can be noticed, such as an open file in a handler of `logging`. `_End` finds out, and
leaves everything to the interpreter if one does.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import gc
import os
import sys
import weakref
from collections.abc import Set as AbstractSet
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType
from typing import Any, Final

_left_alone: list[str] = []  # names of modules
_kept: list[ModuleType] = []  # this list is never destroyed


# Packages beside Python's own whose end nobody notices, and modules that installers import.
_SILENT: Final = frozenset(
    (
        *("dora", "flatbuffers", "iceoryx2", "msgspec", "numpy", "pyarrow", "cython_runtime"),
        *("_distutils_hack", "_virtualenv"),
    )
)
_CONSTANTS: Final = frozenset((bool, int, float, str, NoneType))
_LIBRARY: Final = os.path.dirname(os.__file__) + os.sep


def exempt_imports() -> None:
    """Exempt from garbage collection what a plainly started process has imported.

    These modules are left alone at the end if the program has only imported packages that are known for
    it, and has nothing of its own yet. Otherwise the exemption ends with the program: 15 ms more.
    """
    main = vars(sys.modules["__main__"])
    if not _has_only_imports(main):
        gc.freeze()
        # Before the interpreter collects garbage at its end. After the first of these collections would
        # save 8 ms. But that one sorts what it finds, so that the next one flushes the buffer of a file
        # before it closes the file.
        atexit.register(gc.unfreeze)
        return
    remember_modules()
    # The program is going to define functions. Each forms a cycle with this namespace, and what hangs on
    # an exempt cycle is never finalized.
    namespace = ctypes.py_object(main)
    ctypes.pythonapi.PyObject_GC_UnTrack(namespace)
    end_as_plain()
    ctypes.pythonapi.PyObject_GC_Track(namespace)


def _has_only_imports(main: dict[str, Any]) -> bool:
    """Return whether ``__main__`` has only what it has imported, from packages that are known."""
    return all(
        _is_silent(name, module) for name, module in sys.modules.items() if name != "__main__"
    ) and all(name.startswith("__") or _is_imported(name, value) for name, value in main.items())


def _is_silent(name: str, module: ModuleType) -> bool:
    package = name.partition(".")[0]
    if not _is_of_python(package) and package != "sitecustomize":  # Debian's Python has one of its own
        return package in _SILENT or package.startswith("_cython_")
    file = getattr(module, "__file__", None)
    return file is None or file.startswith(_LIBRARY)  # else the program has a module of the same name


def _is_imported(name: str, value: object) -> bool:
    """Return whether a name stands for a module, or for what a module has under its name."""
    if isinstance(value, ModuleType) or type(value) in _CONSTANTS:
        return True
    home = getattr(value, "__module__", None)
    if home == "__main__" or home not in sys.modules:
        return False
    return vars(sys.modules[home]).get(getattr(value, "__name__", name)) is value


def remember_modules() -> None:
    """Remember the modules that are imported: this process, and those that it forks, leave them alone."""
    _left_alone[:] = sys.modules.keys() - {"__main__", "builtins", "sys"}


def end_as_plain() -> None:
    """Have this process end as a plain one does; called before the program has made anything.

    All objects are exempt from garbage collection from now on.
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
            _destroy(sys.modules.keys() - {"builtins", "sys", *_left_alone})
            noticed = any(_end_is_noticed(item) for item in _left())
        except Exception:  # noqa: BLE001 - the interpreter can do all of it
            noticed = True
        if noticed:
            gc.unfreeze()
        else:
            _kept.extend(sys.modules.pop(name) for name in _left_alone if name in sys.modules)


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
    """Return what the program has made and what is still there: a module that stays refers to it.

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
    # Decoders of msgspec consist of types that it does not export.
    if _is_of_python(module) or module == "msgspec._core" or _dealloc(kind) == _dealloc(object):
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
