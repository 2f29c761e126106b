"""Options of builds and runs, and the environment variables that change them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    Self,
    TypedDict,
    get_args,
    get_origin,
)

import msgspec

from dora._strict import STRICT_VARIABLE, is_on
from dora.dataflow.durations import parse_duration
from dora.errors import DoraError
from dora.transport.engines import ENGINES, best_engine
from dora.wire.node_config import EngineName, TraceConfig

if TYPE_CHECKING:
    from dora.daemon.supervisor.status import FormerPart
    from dora.dataflow.layout import Placement

ALLOW_SHELL = "DORA_ALLOW_SHELL_NODES"


class BuildOptions(msgspec.Struct, frozen=True):
    """Options of a build. ``update``: bring clones that follow a branch up to date."""

    uv: bool = False
    parallel: bool = False
    offline: bool = False
    update: bool = False


def option(
    help: str, *, flag: str = "", value: str = "", variable: str = "", may_be_off: bool = False
) -> msgspec.Meta:
    """Declare a field of the options of a run as an option for users.

    ``help`` is a sentence about it, perhaps with its default in brackets. ``flag`` is the name on the
    command line, if it is not the name of the field; ``value`` how the help writes the value, if the type
    does not tell; ``variable``, for a bool or a duration, the environment variable that sets it.
    ``may_be_off``: a duration is 0 for the word `off`.
    """
    extra = {"flag": flag, "value": value, "variable": variable, "may_be_off": may_be_off}
    return msgspec.Meta(description=help, extra=extra)


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of every run; a coordinator gets these.

    The command line, `dora.run`, the API and the manual are made of the fields that have an `option`, here
    and in the classes below. The class of a field says for which runs it is.
    """

    uv: Annotated[bool, option("Build and run nodes with uv.")] = False
    hot_reload: Annotated[bool, option("Reload nodes and operators when their Python files are saved.")] = (
        False
    )
    allow_shell_nodes: Annotated[bool, option("Allow nodes with `path: shell`.")] = False
    engine: Annotated[
        EngineName | None,
        option("Transport of messages between nodes [iceoryx2 where it is installed, else shm]."),
    ] = None
    strict: Annotated[
        bool,
        option(
            "Fail if a node sends to an undeclared output, if a link drops more than half of its messages, "
            "or if a node does not end at STOP.",
            variable=STRICT_VARIABLE,
        ),
    ] = False
    trace: Annotated[
        bool, option("Record which message led to which, for `dora trace`.", variable="DORA_TRACE")
    ] = False
    preload: Annotated[
        bool | None,
        option(
            "Start nodes as copies of a process that has imported NumPy, pyarrow and named packages [where "
            "it saves time]."
        ),
    ] = None
    black_box: Annotated[
        float | None,
        option(
            "Keep this much in memory, and save it when a node fails; `off` for nothing [30s].",
            variable="DORA_BLACK_BOX",
            may_be_off=True,
        ),
    ] = None

    @classmethod
    def of(cls, options: RunOptions, **others: Any) -> Self:
        """Return options of this class: those that it shares with the class of ``options``, and others."""
        shared: type[RunOptions] = next(kind for kind in cls.__mro__ if isinstance(options, kind))
        return cls(**{name: getattr(options, name) for name in shared.__struct_fields__}, **others)


class FileRunOptions(RunOptions, frozen=True, kw_only=True):
    """Options of the run of a dataflow file: some override what is in the file."""

    env: Annotated[
        Mapping[str, str],
        option("Environment variable for all nodes; the `env` of a node overrides it. Repeatable."),
    ] = {}
    exit_when_nodes_finish: Annotated[
        bool | None,
        option(
            "Whether a node finishes once all its inputs except timers are closed; overrides the file.",
            value="[=BOOL]",
        ),
    ] = None


class ForegroundRunOptions(FileRunOptions, frozen=True, kw_only=True):
    """Options of a run that is over when the command or function returns. Times are in seconds."""

    stop_after: Annotated[
        float | None, option("Stop this long after the build, like Ctrl-C (30, 10s, 1h30m).")
    ] = None
    grace: Annotated[
        float | None,
        option(
            "Time for a stopped node to end before SIGTERM; SIGKILL follows after half of it [10s].",
            flag="grace-duration",
        ),
    ] = None


class LocalRunOptions(ForegroundRunOptions, frozen=True, kw_only=True):
    """Options of a run in this process, with those that no user gives."""

    tap_queue: int = 0  # messages that a recorder's tap on an output holds; 0: no recorder is expected
    name: str = ""  # a name for commands, besides its UUID and the name of its file
    coordinator: str = ""  # address and port of the coordinator that started it
    trace_config: TraceConfig | None = None  # see `dora.observe.run`
    join: Callable[[], Placement] | None = None  # None: all nodes are on this machine
    log_directory: str = ""  # "": below the folder of the dataflow file
    run_id: str = ""  # as in `RunDirectory.create`
    state_directory: str = ""  # of nodes; "": with the files of the run, which do not outlive a reboot
    revision: int = 0  # the changes of the dataflow so far, if it runs on several machines
    former: FormerPart | None = None  # this machine has lost its part, and starts it again


class RunKeywords(TypedDict, total=False):
    """`ForegroundRunOptions` as keywords, for type checkers; None: the default.

    `dora.run` names ``uv`` and ``stop_after`` itself, because they can be given by position.
    """

    hot_reload: bool | None
    allow_shell_nodes: bool | None
    engine: EngineName | None
    strict: bool | None
    trace: bool | None
    preload: bool | None
    black_box: float | None
    env: Mapping[str, str] | None
    exit_when_nodes_finish: bool | None
    grace: float | None


class Option(NamedTuple):
    """A declared option of a run. ``type`` is without None; the others as in `option`."""

    name: str
    type: Any
    optional: bool  # it can be None
    default: Any
    help: str
    flag: str
    value: str
    variable: str
    may_be_off: bool

    @property
    def no_flag(self) -> str:
        """The flag for False, if None stands for something else; "" if there is none."""
        has_one = self.type is bool and self.optional and not self.value
        return f"--no-{self.flag.removeprefix('--')}" if has_one else ""


# Those that have a form in `click_option` of `dora.cli.run_options`, a check in `_checked` and words in the
# manual, beside choices.
_TYPES: Final = (bool, float, Mapping[str, str])


def options_of(kind: type[RunOptions]) -> tuple[Option, ...]:
    """Return the options that a class declares, and those that it inherits."""
    found = []
    for field in msgspec.structs.fields(kind):
        declared, meta = get_args(field.type)
        types = [item for item in get_args(declared) if item is not NoneType]
        optional = NoneType in get_args(declared)
        kind_of_value = types[0] if optional else declared
        if kind_of_value not in _TYPES and get_origin(kind_of_value) is not Literal:
            raise TypeError(f"{field.name}: commands and manual know no option of the type {kind_of_value}")
        extra = meta.extra | {"flag": "--" + (meta.extra["flag"] or field.name.replace("_", "-"))}
        default = {} if field.default is msgspec.NODEFAULT else field.default
        found.append(Option(field.name, kind_of_value, optional, default, meta.description, **extra))
    return tuple(found)


def options_from_keywords(given: Mapping[str, Any]) -> ForegroundRunOptions:
    """Return the options that `dora.run` is given; None and a missing one mean the default.

    Raises `DoraError` for a value that an option cannot have, `TypeError` for an unknown option.
    """
    options = {option.name: option for option in options_of(ForegroundRunOptions)}
    if unknown := given.keys() - options.keys():
        raise TypeError(
            f"run() got an unexpected keyword argument {min(unknown)!r}; it has {', '.join(options)}"
        )
    values = {name: _checked(options[name], value) for name, value in given.items() if value is not None}
    from_environment = {
        name: found
        for name, item in options.items()
        if item.variable and (found := _from_environment(item)) is not None
    }
    return ForegroundRunOptions(**(from_environment | values))


def _from_environment(option: Option) -> bool | float | None:
    if option.type is bool:
        return is_on(option.variable)
    text = os.environ.get(option.variable, "").strip()
    try:
        return seconds_or_off(text) if text else None
    except ValueError as error:
        raise DoraError(f"{option.variable} is `{text[:60]}`: {error}") from None


def seconds_or_off(text: str) -> float:
    """Return the seconds of a duration such as ``60s``, 0 for ``off``; raises ``ValueError``.

    >>> seconds_or_off("off"), seconds_or_off("1.5min")
    (0.0, 90.0)
    """
    if text.lower() == "off":
        return 0.0
    duration = parse_duration(text)
    if not duration:
        raise ValueError("it is no duration: write 60s, 2min, or off")
    return duration / 1e9


def _checked(option: Option, value: Any) -> Any:
    if option.type is float:
        if not (isinstance(value, (int, float)) and 0 <= value < float("inf")):
            raise DoraError(f"{option.name} is {value!r}; it has to be a number of seconds, at least 0")
    elif option.type == Mapping[str, str]:
        for variable, text in value.items():
            what = f"{option.name}: the value of `{variable}`"
            if not isinstance(text, str):
                raise DoraError(f"{what} is {text!r}; it has to be a string")
            if "\0" in text:
                raise DoraError(f"{what} has a NUL character, which cannot be passed on")
    return value


def shell_nodes_allowed(options: RunOptions) -> bool:
    return options.allow_shell_nodes or os.environ.get(ALLOW_SHELL) == "true"


def choose_engine(options: RunOptions) -> EngineName:
    """Return the transport engine for a run; raises `DoraError` for an unknown or missing one.

    Without one in the options it is iceoryx2 where this is installed, else shm.
    The environment variable ``DORA_ENGINE`` goes before both.
    """
    wanted: EngineName
    if forced := os.environ.get("DORA_ENGINE"):
        wanted = _engine("DORA_ENGINE", forced)
    elif options.engine is not None:
        wanted = _engine("engine", options.engine)
    else:
        wanted = best_engine()
    if why := ENGINES[wanted].fault():
        raise DoraError(f"the engine {wanted} {why}")
    return wanted


def _engine(name: str, text: str) -> EngineName:
    for engine in ENGINES:
        if text == engine:
            return engine
    *others, last = ENGINES
    raise DoraError(f"{name} is `{text}`; it can be {', '.join(others)} or {last}")


def finish_grace_from_environment() -> float | None:
    """Return ``DORA_FINISH_DRAIN_GRACE_SECS``, None for ``off``; raises `DoraError`."""
    from dora.daemon.supervisor.state import DEFAULT_FINISH_GRACE

    text = os.environ.get("DORA_FINISH_DRAIN_GRACE_SECS", "").strip()
    if not text:
        return DEFAULT_FINISH_GRACE
    if text.lower() == "off":
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds <= 1e9:
        raise DoraError(
            f"DORA_FINISH_DRAIN_GRACE_SECS is `{text}`; it has to be a number of seconds, or `off`"
        )
    return seconds


def check_spin_from_environment() -> None:
    """Raise `DoraError` for a ``DORA_SPIN_US`` with which no node could start."""
    text = os.environ.get("DORA_SPIN_US", "")
    try:
        fits = not text or -1e9 <= float(text) <= 1e9
    except ValueError:
        fits = False
    if not fits:
        raise DoraError(f"DORA_SPIN_US is `{text[:60]}`; it has to be a number of microseconds")
