"""Write dataflows in Python instead of YAML.

>>> from dora.builder import DataflowBuilder
>>> flow = DataflowBuilder()
>>> image = flow.add_node("camera", path="camera.py", restart_policy="always").add_output("image")
>>> _ = flow.add_node("detector", path="detector.py").add_input("image", image, queue_size=1)
>>> print(flow.to_yaml())
nodes:
- id: camera
  path: camera.py
  restart_policy: always
  outputs:
  - image
- id: detector
  path: detector.py
  inputs:
    image:
      source: camera/image
      queue_size: 1
<BLANKLINE>

The fields of nodes, operators and the dataflow have the same names as in YAML, and are written unchanged;
`DataflowBuilder.validate` checks them.
"""

from __future__ import annotations

import enum
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from dora._shared_folders import open_file
from dora.errors import DataflowError, DoraError, Problem
from dora.wire.input_rules import MissedTicks, QueuePolicy, SyncBy, SyncPolicy

if TYPE_CHECKING:
    from typing import Self, Unpack

    from dora.daemon.supervisor.result import DataflowResult
    from dora.dataflow.model import Dataflow, OnMiss
    from dora.wire.output_rules import Priority

__all__ = ["DataflowBuilder", "Node", "Operator", "Output"]

_POLICIES = get_args(QueuePolicy)
_Commands = str | list[str]
_Environment = Mapping[str, str | int | float | bool]


class CommonFields(TypedDict, total=False):
    """Fields that nodes and operators have in common."""

    inputs: Mapping[str, Any]
    sync: list[Mapping[str, Any]]
    outputs: list[str | Mapping[str, Any]]
    send_logs_as: str
    min_log_level: str
    max_log_size: str | int
    max_rotated_files: int
    input_types: Mapping[str, Any]
    output_types: Mapping[str, Any]
    output_metadata: Mapping[str, Any]
    pattern: str
    output_framing: Mapping[str, str]


class OperatorFields(CommonFields, total=False):
    """Fields of an operator in YAML that are not parameters of `Operator`."""

    wasm: str
    path_sha256: str


class NodeFields(CommonFields, total=False):
    """Fields of a node in YAML, without ``id``."""

    name: str
    description: str
    build: _Commands
    send_stdout_as: str
    path: str
    args: str | list[str]
    env: _Environment
    operator: Mapping[str, Any]
    operators: list[Mapping[str, Any]]
    restart_policy: Literal["never", "on-failure", "always"]
    max_restarts: int
    restart_delay: float
    max_restart_delay: float
    restart_window: float
    health_check_timeout: float
    finish_grace_secs: float
    startup_timeout: float
    hot_reload: Literal["overlap", "replace", "never"]
    cpu_affinity: list[int]
    nice: int
    scheduler: str
    lock_memory: bool
    preload: bool | list[str]
    shared_memory_pool_size: str | int
    python: Mapping[str, Any]
    git: str
    branch: str
    tag: str
    rev: str
    hub: str | Mapping[str, Any]
    path_sha256: str
    deploy: Mapping[str, Any]
    ros2: Mapping[str, Any]
    module: str
    params: Mapping[str, Any]
    parameters: Mapping[str, Any]


class DataflowFields(TypedDict, total=False):
    """Fields of a dataflow in YAML, without ``nodes``."""

    env: _Environment
    exit_when_nodes_finish: bool
    health_check_interval: float
    debug: Mapping[str, Any]
    deploy: Mapping[str, Any]
    preload: bool | list[str]
    strict_types: bool
    type_rules: list[Any]
    paths: list[Mapping[str, Any]]
    black_box: bool | Mapping[str, Any]


class Output:
    """An output of a node or an operator; ``str(output)`` is the source of inputs that it feeds."""

    def __init__(self, node: _Block, output_id: str) -> None:
        self.node = node
        self.output_id = output_id

    def __str__(self) -> str:
        return f"{self.node._reference()}/{self.output_id}"

    def __repr__(self) -> str:
        return f"<dora.builder.Output {self.output_id!r}>"


class _Block:
    """A mapping in YAML, with inputs and outputs. ``config`` has its fields, and may be changed."""

    def __init__(self, id: str, fields: Mapping[str, Any]) -> None:
        self.id = id
        self.config: dict[str, Any] = {"id": id, **fields}

    def add_output(
        self,
        output_id: str,
        *,
        latched: int | Mapping[str, Any] | None = None,
        priority: Priority | None = None,
        safe_state: Mapping[str, Any] | None = None,
        description: str | None = None,
    ) -> Output:
        """Declare an output and return it, as a source for inputs.

        ``latched``: how many of its newest messages a receiver gets that joins late, or
        ``{"depth": 1, "survive_restart": True}``. ``priority``: which messages go first between machines,
        by default a matter of their size. ``safe_state``: the value that receivers get while this
        node does not send, such as ``{"value": [0.0, 0.0], "when": ["failed"]}``. ``description``: a text
        for people, what the messages are.
        """
        outputs = self.config["outputs"] = list(self.config.get("outputs", ()))
        options = _given(latched=latched, priority=priority, safe_state=safe_state, description=description)
        names = [next(iter(entry)) if isinstance(entry, Mapping) else entry for entry in outputs]
        if output_id not in names:
            outputs.append({output_id: options} if options else output_id)
        elif options:
            index = names.index(output_id)
            known = outputs[index][output_id] if isinstance(outputs[index], Mapping) else None
            outputs[index] = {output_id: {**(known or {}), **options}}
        return Output(self, output_id)

    def add_input(
        self,
        input_id: str,
        source: str | Output,
        queue_size: int | None = None,
        queue_policy: QueuePolicy | None = None,
        *,
        input_timeout: float | None = None,
        phase: str | None = None,
        missed_ticks: MissedTicks | None = None,
        deadline: str | None = None,
        max_age: str | None = None,
        rate: str | None = None,
        every: int | None = None,
        keep: Sequence[str] | None = None,
        description: str | None = None,
    ) -> Self:
        """Add an input. ``source``: an `Output`, or text such as ``"dora/timer/millis/50"``.

        The options are as in YAML: ``deadline="50ms"``, ``rate="10hz"``, ``keep=["stop"]``.
        Raises ``ValueError`` for a ``queue_size`` below 1, an unknown ``queue_policy``, or a ``keep`` that
        is a text.
        """
        if queue_size is not None and queue_size < 1:
            raise ValueError(f"queue_size must be at least 1, not {queue_size}")
        if queue_policy is not None and queue_policy not in _POLICIES:
            raise ValueError(f"queue_policy must be one of {', '.join(_POLICIES)}, not {queue_policy!r}")
        if isinstance(keep, str):
            raise ValueError(f"keep must be a list of metadata keys, such as [{keep!r}], not {keep!r}")
        given = _given(
            queue_size=queue_size,
            queue_policy=queue_policy,
            input_timeout=input_timeout,
            phase=phase,
            missed_ticks=missed_ticks,
            deadline=deadline,
            max_age=max_age,
            rate=rate,
            every=every,
            keep=None if keep is None else list(keep),
            description=description,
        )
        inputs = self.config["inputs"] = dict(self.config.get("inputs", {}))
        # The name of an operator's output is known once the operator is part of a node.
        if isinstance(source, Output) and not (isinstance(source.node, Operator) and not source.node._node):
            source = str(source)
        inputs[input_id] = {"source": source, **given} if given else source
        return self

    def add_sync(
        self,
        *inputs: str,
        tolerance: str | None = None,
        by: SyncBy | None = None,
        policy: SyncPolicy | None = None,
        history: Mapping[str, tuple[int, int]] | None = None,
        timeout: str | None = None,
    ) -> Self:
        """Synchronise inputs, the leading one first; the options are as for ``sync`` in YAML."""
        group = _given(
            inputs=list(inputs),
            tolerance=tolerance,
            by=by,
            policy=policy,
            history=history and {name: list(frames) for name, frames in history.items()},
            timeout=timeout,
        )
        self.config["sync"] = [*self.config.get("sync", ()), group]
        return self

    def _reference(self) -> str:
        """Return the part of a source before the id of the output."""
        return self.id

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping of YAML, with plain values."""
        plain: dict[str, Any] = _plain(self.config)
        return plain


class Node(_Block):
    """A node, created by `DataflowBuilder.add_node`. Its methods return it, so that they can be chained."""

    def __init__(self, id: str, **fields: Unpack[NodeFields]) -> None:
        super().__init__(id, fields)

    def set(self, **fields: Unpack[NodeFields]) -> Node:
        """Set any fields that a node has in YAML."""
        self.config.update(fields)
        return self

    def path(self, path: str) -> Node:
        """Set the program: a Python file, an executable or a command, ``dynamic`` or ``shell``."""
        return self.set(path=path)

    def args(self, args: str | list[str]) -> Node:
        """Set the arguments of the program: a text, which is split like in a shell, or a list."""
        return self.set(args=args)

    def env(self, env: _Environment) -> Node:
        """Set environment variables."""
        return self.set(env=env)

    def build(self, build_command: _Commands) -> Node:
        """Set the commands that ``dora build`` runs."""
        return self.set(build=build_command)

    def git(
        self, url: str, branch: str | None = None, tag: str | None = None, rev: str | None = None
    ) -> Node:
        """Set the git repository that the node comes from."""
        self.config.update(_given(git=url, branch=branch, tag=tag, rev=rev))
        return self

    @property
    def operators(self) -> list[Operator]:
        """The operators that were added."""
        return [item for item in self.config.get("operators", ()) if isinstance(item, Operator)]

    def add_operator(self, operator: Operator) -> Node:
        """Add an operator, which makes the node a runtime."""
        operator._host(self)
        # A new list: the one that was given may be of several nodes.
        self.config["operators"] = [*self.config.get("operators", ()), operator]
        return self

    def __repr__(self) -> str:
        return f"<dora.builder.Node {self.id!r}>"


class Operator(_Block):
    """An operator; becomes part of a node with `Node.add_operator`."""

    def __init__(
        self,
        id: str,
        name: str | None = None,
        description: str | None = None,
        build: _Commands | None = None,
        python: str | Mapping[str, str] | None = None,
        shared_library: str | None = None,
        send_stdout_as: str | None = None,
        **fields: Unpack[OperatorFields],
    ) -> None:
        """``fields``: other fields of an operator in YAML."""
        given: dict[str, Any] = {
            "name": name,
            "description": description,
            "build": build,
            "python": python,
            "shared-library": shared_library,
            "send_stdout_as": send_stdout_as,
        }
        super().__init__(id, _given(**given) | {**fields})
        self._node: Node | None = None

    def _host(self, node: Node) -> None:
        if self._node is not None:
            raise DoraError(f"operator `{self.id}` is part of node `{self._node.id}` already")
        self._node = node

    def _reference(self) -> str:
        if self._node is None:
            raise DoraError(f"operator `{self.id}` is not part of a node yet; use Node.add_operator")
        return f"{self._node.id}/{self.id}"

    def __repr__(self) -> str:
        return f"<dora.builder.Operator {self.id!r}>"


class DataflowBuilder:
    """Builds a dataflow. ``nodes`` is the list of its nodes."""

    def __init__(
        self,
        name: str = "dora-dataflow",
        *,
        working_dir: str | os.PathLike[str] = ".",
        **fields: Unpack[DataflowFields],
    ) -> None:
        """``name`` is for messages and is not written. Paths are relative to ``working_dir`` when the
        builder runs the dataflow; in a written file, they are relative to its folder. ``fields``: fields
        of the dataflow in YAML other than its nodes."""
        self.name = name
        self.nodes: list[Node] = []
        self.working_dir = os.path.abspath(os.fspath(working_dir))
        self._fields: dict[str, Any] = dict(fields)

    def add_node(self, id: str, **fields: Unpack[NodeFields]) -> Node:
        """Add a node and return it. ``fields``: fields of a node in YAML."""
        node = Node(id, **fields)
        self.nodes.append(node)
        return node

    def add_path(
        self,
        source: Output | str,
        sink: str,
        budget: str,
        *,
        on_miss: OnMiss | None = None,
        after: int | None = None,
    ) -> DataflowBuilder:
        """Add a budget for the time from an output to the input ``sink``, "node/input"; return the builder.

        ``budget``: with its unit, "40ms". ``on_miss`` and ``after``: as in YAML.
        """
        path = {"from": str(source), "to": sink, "budget": budget, **_given(on_miss=on_miss, after=after)}
        self._fields["paths"] = [*self._fields.get("paths", ()), path]
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping of the dataflow in YAML."""
        return {**_plain(self._fields), "nodes": [node.to_dict() for node in self.nodes]}

    def to_yaml(self, path: str | os.PathLike[str] | None = None) -> str | None:
        """Return the YAML; with ``path``, write it there and return None."""
        text = _dump(self.to_dict())
        if path is None:
            return text
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with open(open_file(os.fspath(path), flags), "w", encoding="utf-8") as file:
            file.write(text)
        return None

    def check(self, *, env: Mapping[str, str] | None = None) -> Dataflow:
        """Return the checked model of the dataflow; raises `DataflowError` with all problems."""
        from dora.dataflow import parse

        return parse(
            _dump(self.to_dict()),
            shown_file=f"<{self.name}>",
            working_dir=self.working_dir,
            environ=os.environ,
            env_overrides=env or {},
        )

    def validate(self) -> tuple[Problem, ...]:
        """Check the dataflow, like ``dora validate``; return its warnings.

        Raises `DataflowError` with all problems at once.
        """
        from dora.daemon.build.build import missing

        dataflow = self.check()
        if problems := missing(dataflow):
            raise DataflowError(problems=tuple(problems))
        return dataflow.warnings

    def build(self, **options: Any) -> None:
        """Run the build commands; ``options`` and errors are as for `dora.build`."""
        from dora.api import build

        self.check()  # its problems name the builder, not a file that is gone when they are read
        with self._file() as path:
            build(path, **options)

    def run(self, **options: Any) -> DataflowResult:
        """Build and run the dataflow to its end; ``options``, result and errors are as for `dora.run`.

        The YAML is in a file in ``working_dir`` meanwhile.
        """
        from dora.api import run

        self.check(env=options.get("env"))
        with self._file() as path:
            return run(path, **options)

    @contextmanager
    def _file(self) -> Iterator[str]:
        try:
            name = re.sub(r"[^\w.-]+", "-", self.name)
            # Not among temporary files: paths in a dataflow are relative to the folder of its file.
            descriptor, path = tempfile.mkstemp(".yml", f".{name}-", self.working_dir)
        except OSError as error:
            raise DoraError(
                f"cannot write the dataflow into {self.working_dir}: {error.strerror}; "
                "give the builder another `working_dir`"
            ) from None
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(_dump(self.to_dict()))
            yield path
        finally:
            os.unlink(path)
            from dora.daemon.build.session_file import session_path_of

            # The session file of this one build: no other file will have its name.
            with suppress(OSError):
                os.unlink(session_path_of(self.working_dir, os.path.basename(path).removesuffix(".yml")))

    def __enter__(self) -> DataflowBuilder:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: a builder holds no resources."""


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def _plain(value: Any) -> Any:
    """Return a value as mappings, lists, text and numbers."""
    if isinstance(value, (Node, Operator)):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_plain(item) for item in value]
    if isinstance(value, (Output, os.PathLike)):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if hasattr(value, "tolist") and not isinstance(value, type):  # an array or a number of NumPy
        return _plain(value.tolist())
    return value


def _dump(document: dict[str, Any]) -> str:
    """Return YAML with the same meaning in every parser.

    PyYAML writes for parsers of YAML 1.1, in which ``1e3`` is text; in YAML 1.2 it is a number. So a text
    is quoted if any parser could read it as another type.
    """
    import yaml

    from dora.dataflow.yaml.tree import resolve

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    def represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        quoted = not text or resolve(text) != text
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)

    def represent_float(dumper: yaml.SafeDumper, number: float) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:float", _float_text(number))

    Dumper.add_representer(str, represent_text)
    Dumper.add_representer(float, represent_float)
    text: str = yaml.dump(
        document, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=100
    )
    return text


def _float_text(number: float) -> str:
    if number != number:
        return ".nan"
    if number in (float("inf"), float("-inf")):
        return ".inf" if number > 0 else "-.inf"
    return repr(number)
