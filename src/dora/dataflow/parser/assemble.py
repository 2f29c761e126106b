"""Assemble checked blocks to the model, and check each node as a whole and the nodes together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from dora.dataflow.model import (
    DEFAULT_OPERATOR_ID,
    HERE,
    Dataflow,
    Deploy,
    InputSpec,
    LogOptions,
    NodeOutput,
    NodeSpec,
    OperatorSpec,
    PreloadedPackage,
    Program,
    RestartOptions,
    Types,
)
from dora.dataflow.names import rotated_from
from dora.dataflow.parser.black_box import black_box_of
from dora.dataflow.parser.budgets import budgets_of
from dora.dataflow.parser.deploy import deploy_of, is_elsewhere
from dora.dataflow.parser.fields import NODE_BLOCK
from dora.dataflow.parser.input_rules import check_deadlines, rules_of_block
from dora.dataflow.parser.output_rules import OutputChecks, rules_of_outputs
from dora.dataflow.parser.preload import preload_of, warn_without_effect
from dora.dataflow.parser.program_sources import (
    download_of,
    downloaded_path,
    git_source,
    python_environment,
)
from dora.dataflow.parser.resolve_inputs import InputResolver, OfferedOutputs
from dora.dataflow.parser.ros2 import ros2_of
from dora.dataflow.parser.safe_state import with_safe_states
from dora.dataflow.parser.scheduling import warn_of_nice
from dora.dataflow.parser.sources import PATH_VARIABLES, expand_path
from dora.dataflow.parser.sync import SyncChecks, within
from dora.dataflow.parser.variables import refused_variable
from dora.dataflow.problems import ProblemReport, TextSpan, listed
from dora.dataflow.ros2 import BRIDGE_PATH
from dora.dataflow.types.contracts import Ports
from dora.dataflow.yaml.field_types import Reader, is_unset
from dora.dataflow.yaml.files import MANIFEST_FILE, is_file
from dora.dataflow.yaml.schema_block import CheckedBlock
from dora.errors import Problem
from dora.wire.input_rules import SyncGroup
from dora.wire.output_rules import OutputRules

_DEFAULT_LOG = LogOptions()

# The fields of which a node has one. Some are refused where they are read, and need no second error.
_KINDS = ("path", "operator", "operators", "ros2", "module")
_KINDS_WITHOUT_PATH = ("hub", "git")  # each has an error of its own

_ON_MODULE = {field.name for field in NODE_BLOCK.fields.values() if field.on_module}
_ON_RUNTIME = {field.name for field in NODE_BLOCK.fields.values() if field.on_runtime}


class _Draft:
    """A node that is not assembled yet."""

    def __init__(self, checked: CheckedBlock) -> None:
        self.checked = checked
        self.id: str = checked.get("id") or ""
        self.operators: list[tuple[str, CheckedBlock]] = []
        self.runtime = checked.has("operator") or checked.has("operators")
        self.single = checked.has("operator")
        self.module = checked.has("module")

    @property
    def has_one_alone(self) -> bool:
        """Whether there is one operator, to which nobody has given an id."""
        return self.single and not any(operator.get("id") for _, operator in self.operators)

    def prefix(self, operator_id: str) -> str:
        """Return what the inputs and outputs of an operator begin with in the node."""
        return "" if self.has_one_alone else f"{operator_id}/"

    def named(self, operator_id: str, article: str = "") -> str:
        """Return an operator for messages."""
        return "the operator" if self.has_one_alone else f"{article}operator `{operator_id}`"


class Assembler:
    """Builds the nodes of one dataflow."""

    def __init__(
        self,
        reader: Reader,
        offers: Mapping[str, OfferedOutputs] | None = None,
        in_module: bool = False,
        deploy: Deploy = HERE,
        preload: tuple[PreloadedPackage, ...] | None = (),
    ) -> None:
        """``offers``: the outputs of nodes that use modules, by id; ``in_module``: see `InputResolver`;
        ``deploy`` and ``preload``: the defaults of nodes that have none."""
        self.reader = reader
        self.report: ProblemReport = reader.report
        self.offers = offers or {}
        self.in_module = in_module
        self.deploy = deploy
        self.preload = preload
        self.programs: list[Program] = []
        self.ports: list[Ports] = []
        self.outputs = OutputChecks(self.report)
        self.resolver = InputResolver({}, self.report)
        self.syncs = SyncChecks(self.report)

    def nodes(self, blocks: tuple[CheckedBlock, ...]) -> tuple[NodeSpec, ...]:
        """Return the nodes, without those that use modules; meant to be used only if the report has no
        error."""
        drafts = [_Draft(block) for block in blocks]
        self._duplicates(drafts)
        for draft in drafts:
            self._kind(draft)
            self._operators(draft)
        offers: dict[str, OfferedOutputs] = {}
        for draft in drafts:
            offers.setdefault(draft.id, self._offer(draft))  # the first of a name counts
        self.resolver = InputResolver({**offers, **self.offers}, self.report, self.in_module, self.offers)
        for draft in drafts:
            if draft.module:
                self._inputs(draft.checked, f"node `{draft.id}`")
        nodes = tuple(
            self._runtime(draft) if draft.runtime else self._program(draft)
            for draft in drafts
            if not draft.module
        )
        self.outputs.finish()
        if not self.in_module:
            self.syncs.warn_of_strangers(nodes)
        return nodes

    # ---------------------------------------------------------------- what kind of node

    def _duplicates(self, drafts: list[_Draft]) -> None:
        first: dict[str, TextSpan] = {}
        for draft in drafts:
            if not draft.id:
                continue
            span = draft.checked.place("id")
            if draft.id in first and first[draft.id].origin is not span.origin:
                self.report.error(
                    span,
                    f"with its modules written out, the dataflow has two nodes called {draft.id}; "
                    f"the other one is {self.report.place(first[draft.id])}",
                    "give one of them another id",
                )
            elif draft.id in first:
                self.report.error(
                    span,
                    f"there are two nodes with the id `{draft.id}`; "
                    f"the first one is on line {first[draft.id].line + 1}",
                    "give every node an id of its own",
                )
            first.setdefault(draft.id, span)
        for node_id, span in first.items():
            if (other := rotated_from(node_id)) in first or other == "dora":
                fault = f"the log file of `{node_id}` has the name of a rotated log file of `{other}`"
                self.report.error(span, fault, "give one of them another id")

    def _kind(self, draft: _Draft) -> None:
        checked = draft.checked
        kinds = [name for name in _KINDS if checked.has(name)]
        if len(kinds) > 1:
            self.report.error(
                checked.keys[kinds[1]],
                f"{_named(draft)} has both {listed(kinds)}",
                "keep one of them: a node runs a program, or operators, or the nodes of a module",
            )
        elif not kinds and not any(
            checked.has(name) or name in checked.suggested for name in (*_KINDS, *_KINDS_WITHOUT_PATH)
        ):
            where: TextSpan = checked.keys.get("path") or checked.place("id")
            self.report.error(
                where,
                f"{_named(draft)} does not say what to run",
                "add `path:` with a program, or `operator:` with a Python operator",
            )
        elif draft.module:
            reason = "uses a module, so it cannot have the field `{}`"
            self._refuse_fields(draft, _ON_MODULE, reason, "write `{}` into the nodes of the module")
        if checked.has("params") and not draft.module:
            self.report.error(
                checked.keys["params"], f"{_named(draft)} has `params`, but uses no `module`", ""
            )
        if draft.runtime and "path" not in kinds:
            block = "`operator`" if draft.single else "the operator that it concerns"
            reason = "has operators, so it cannot have the field `{}` itself"
            self._refuse_fields(draft, _ON_RUNTIME, reason, f"move `{{}}` into {block}")

    def _refuse_fields(self, draft: _Draft, allowed: set[str], reason: str, hint: str) -> None:
        """Report the fields of a node that are not ``allowed``; ``{}`` in the texts is the field."""
        for name, key in draft.checked.keys.items():
            is_set = draft.checked.has(name) and not is_unset(draft.checked.nodes[name])
            if is_set and name not in allowed:
                self.report.error(key, f"{_named(draft)} {reason.format(name)}", hint.format(name))

    def _operators(self, draft: _Draft) -> None:
        checked = draft.checked
        if draft.single and checked.get("operator"):
            operator = checked.get("operator")
            draft.operators = [(operator.get("id") or DEFAULT_OPERATOR_ID, operator)]
        elif checked.get("operators"):
            known: set[str] = set()
            for operator in checked.get("operators"):
                operator_id = operator.get("id") or ""
                if not operator.has("id"):
                    self.report.error(
                        operator.span,
                        f"an operator of {_named(draft)} has no id",
                        "add `id:`; references to its outputs are `<node>/<operator id>/<output>`",
                    )
                elif operator_id and operator_id in known:
                    self.report.error(
                        operator.place("id"),
                        f"{_named(draft)} has two operators with the id `{operator_id}`",
                    )
                known.add(operator_id)
                draft.operators.append((operator_id, operator))
        for operator_id, operator in draft.operators:
            if not any(
                operator.has(name) or name in operator.suggested
                for name in ("python", "shared-library", "wasm")
            ):
                self.report.error(
                    operator.keys.get("python", operator.span),
                    f"{draft.named(operator_id, 'the ')} of {_named(draft)} does not say what to run",
                    "add `python:` with the file that holds `class Operator`",
                )

    def _offer(self, draft: _Draft) -> OfferedOutputs:
        if draft.module:
            return OfferedOutputs(None)
        if not draft.runtime:
            unknown = draft.checked.failed("outputs")
            return OfferedOutputs(None if unknown else tuple(draft.checked.get("outputs") or ()))
        names = tuple(operator_id for operator_id, _ in draft.operators)
        if not all(names) or any(operator.failed("outputs") for _, operator in draft.operators):
            return OfferedOutputs(None, names, draft.single)
        outputs = tuple(
            f"{draft.prefix(operator_id)}{output}"
            for operator_id, operator in draft.operators
            for output in operator.get("outputs") or ()
        )
        return OfferedOutputs(outputs if names else None, names, draft.single and len(names) == 1)

    # ---------------------------------------------------------------- nodes

    def _program(self, draft: _Draft) -> NodeSpec:
        checked = draft.checked
        download = download_of(checked, self.report, _named(draft))
        path = downloaded_path(download.url) if download else self._path(checked, "path")
        args = checked.get("args") or ()
        if path == "shell" and not checked.failed("args"):
            args = self._shell_command(draft, args)
            warn_without_effect(checked, self.report, _named(draft))
        if path == "dynamic":
            self._dynamic(draft)
        elif path and path != "shell":
            made = bool(checked.get("build")) or checked.has("git") or download is not None
            self._runs(draft, checked, "path", path, _named(draft), made)
        outputs = checked.get("outputs") or {}
        inputs = self._inputs(checked, f"node `{draft.id}`")
        log = self._log(checked, f"node `{draft.id}`")
        ros2 = ros2_of(checked, inputs, outputs, log, self.report, f"node `{draft.id}`")
        if ros2 is not None:
            path = BRIDGE_PATH
            self._runs(draft, checked, "ros2", path, _named(draft), False)
        syncs = self.syncs.of(draft.id, checked, inputs, f"node `{draft.id}`")
        self._carries(f"node `{draft.id}`", draft, checked, inputs, path=path or "")
        return NodeSpec(
            path=path or "",
            download=download,
            args=args,
            build=checked.get("build") or (),
            inputs=inputs,
            syncs=syncs,
            outputs=tuple(outputs),
            output_rules=rules_of_outputs(outputs),
            log=log,
            ros2=ros2,
            pattern=checked.get("pattern"),
            **self._common(draft),
        )

    def _runtime(self, draft: _Draft) -> NodeSpec:
        operators: list[OperatorSpec] = []
        inputs: list[InputSpec] = []
        syncs: list[SyncGroup] = []
        outputs: list[str] = []
        rules: dict[str, OutputRules] = {}
        build: list[str] = []
        for operator_id, checked in draft.operators:
            prefix = draft.prefix(operator_id)
            name = f"{draft.named(operator_id)} of node `{draft.id}`"
            python = checked.get("python")
            owner = f"{draft.named(operator_id, 'the ')} of the node `{draft.id}`"
            download = download_of(checked, self.report, owner, python) if python else None
            path = self._path(python, "source") if python else None
            if download is not None:
                path = downloaded_path(download.url, ".py")
            if python and path:
                made = bool(checked.get("build")) or download is not None
                self._runs(draft, python, "source", path, owner, made)
            own_inputs = self._inputs(checked, name)
            operator = OperatorSpec(
                id=operator_id,
                python=path or "",
                download=download,
                inputs=own_inputs,
                syncs=self.syncs.of(draft.id, checked, own_inputs, name, len(syncs)),
                outputs=tuple(checked.get("outputs") or ()),
                build=checked.get("build") or (),
                conda_env=python.get("conda_env") if python else None,
                pattern=checked.get("pattern"),
                name=checked.get("name"),
                description=checked.get("description"),
                alone=draft.has_one_alone,
            )
            self._carries(name, draft, checked, operator.inputs, prefix=prefix)
            operators.append(operator)
            inputs += (msgspec.structs.replace(i, id=f"{prefix}{i.id}") for i in operator.inputs)
            syncs += (within(prefix, group) for group in operator.syncs)
            outputs += (f"{prefix}{output}" for output in operator.outputs)
            rules |= rules_of_outputs(checked.get("outputs") or {}, prefix)
            build += operator.build
        self._one_environment(draft)
        return NodeSpec(
            path=None,
            build=tuple(build),
            inputs=tuple(inputs),
            syncs=tuple(syncs),
            outputs=tuple(outputs),
            output_rules=rules,
            operators=tuple(operators),
            log=self._runtime_log(draft),
            **self._common(draft),
        )

    def _common(self, draft: _Draft) -> dict[str, Any]:
        get = draft.checked.get
        span = draft.checked.span
        warn_of_nice(draft.checked, self.report, _named(draft))
        return {
            "id": draft.id,
            "env": get("env") or {},
            "name": get("name"),
            "description": get("description"),
            "restart": RestartOptions(
                policy=get("restart_policy"),
                max_restarts=get("max_restarts"),
                delay=float(get("restart_delay")),
                max_delay=get("max_restart_delay"),
                window=get("restart_window"),
            ),
            "parameters": get("parameters") or {},
            "deploy": deploy_of(draft.checked, self.deploy, self.report),
            "health_check_timeout": get("health_check_timeout"),
            "finish_grace": get("finish_grace_secs"),
            "startup_timeout": get("startup_timeout"),
            "hot_reload": get("hot_reload"),
            "cpu_affinity": get("cpu_affinity") or (),
            "nice": get("nice"),
            "scheduler": get("scheduler"),
            "lock_memory": bool(get("lock_memory")),
            "preload": preload_of(draft.checked, self.preload),
            "python": python_environment(draft.checked),
            "git": git_source(draft.checked, self.report, _named(draft)),
            "place": self.report.place(span),
            "module": span.origin.prefix[:-1] if span.origin else "",
        }

    def _inputs(self, checked: CheckedBlock, owner: str) -> tuple[InputSpec, ...]:
        inputs: list[InputSpec] = []
        for input_id, block in (checked.get("inputs") or {}).items():
            source = block.get("source")
            if source is None:
                continue
            name = f"the input `{input_id}` of {owner}"
            found = self.resolver.resolve(source, block.place("source"), name)
            if found is None:
                continue
            if isinstance(found, NodeOutput):
                self.outputs.add_input(input_id, name, found, block, checked)
            inputs.append(
                InputSpec(
                    id=input_id,
                    source=found,
                    **rules_of_block(block, found, name, self.report),
                )
            )
        return tuple(inputs)

    # ---------------------------------------------------------------- single fields

    def _path(self, checked: CheckedBlock, field: str) -> str | None:
        path: str | None = checked.get(field)
        if path is None:
            return None
        expanded, unset = expand_path(path, self.reader.environ)
        for name in unset:
            self.report.warn(
                checked.place(field),
                f"`${name}` in a path is left as it is",
                f"only {listed(PATH_VARIABLES)} are replaced there, when they are set",
                name,
            )
        return expanded

    def _carries(
        self,
        owner: str,
        draft: _Draft,
        checked: CheckedBlock,
        inputs: tuple[InputSpec, ...],
        *,
        prefix: str = "",
        path: str = "",
    ) -> None:
        outputs = tuple(checked.get("outputs") or ())
        self.ports.append(Ports(owner, draft.id, prefix, checked, inputs, outputs, path))
        self.outputs.add_outputs(checked, draft.id, prefix, owner)

    def _runs(
        self, draft: _Draft, checked: CheckedBlock, field: str, path: str, owner: str, built: bool
    ) -> None:
        place = self.report.problem(checked.place(field), owner)
        elsewhere = is_elsewhere(draft.checked, self.deploy)
        self.programs.append(Program(path, built, place, draft.id, elsewhere))

    def _shell_command(self, draft: _Draft, args: tuple[str, ...]) -> tuple[str, ...]:
        if not args:
            self.report.error(
                draft.checked.place("path"),
                f"{_named(draft)} has `path: shell`, but no command",
                'add the command line as `args: "..."`',
            )
            return ()
        written = draft.checked.nodes["args"]
        plain = written.plain()
        return (" ".join(args) if isinstance(plain, list) else getattr(written, "text", str(plain)),)

    def _dynamic(self, draft: _Draft) -> None:
        without_effect = (
            "args",
            "restart_policy",
            "startup_timeout",
            "hot_reload",
            "cpu_affinity",
            "nice",
            "scheduler",
            "lock_memory",
            "preload",
            "send_stdout_as",
            "send_logs_as",
        )
        for name in without_effect:
            if draft.checked.has(name) and draft.checked.get(name) not in ("never", None, (), False):
                self.report.warn(
                    draft.checked.keys[name],
                    f"`{name}` has no effect on {_named(draft)}, because its process is started by you",
                )

    def _sent_as(self, checked: CheckedBlock, name: str, owner: str) -> str | None:
        """Return the output that ``send_stdout_as`` or ``send_logs_as`` names; it has to be declared."""
        output: str | None = checked.get(name)
        outputs = checked.get("outputs") or ()
        if output is not None and output not in outputs and not checked.failed("outputs"):
            self.report.error(
                checked.place(name),
                f"`{name}: {output}` is not an output of {owner}",
                f"add it: `outputs: [{', '.join((*outputs, output))}]`",
            )
        return output

    def _log(self, checked: CheckedBlock, owner: str) -> LogOptions:
        return LogOptions(
            send_stdout_as=self._sent_as(checked, "send_stdout_as", owner),
            send_logs_as=self._sent_as(checked, "send_logs_as", owner),
            min_log_level=checked.get("min_log_level"),
            max_log_size=checked.get("max_log_size"),
            max_rotated_files=checked.get("max_rotated_files") or _DEFAULT_LOG.max_rotated_files,
        )

    def _runtime_log(self, draft: _Draft) -> LogOptions:
        """Merge the log options of the operators: they share one process, hence one stdout."""
        merged: dict[str, Any] = {}
        for name in LogOptions.__struct_fields__:
            for operator_id, checked in (("", draft.checked), *draft.operators):
                if not checked.has(name):
                    continue
                if name in merged:
                    self.report.error(
                        checked.keys[name],
                        f"`{name}` is set twice in {_named(draft)}, whose operators share one process",
                        f"keep one `{name}`",
                    )
                    continue
                value = checked.get(name)
                if name.startswith("send_") and operator_id:
                    self._sent_as(checked, name, f"{draft.named(operator_id)} of node `{draft.id}`")
                    value = f"{draft.prefix(operator_id)}{value}"
                if value is not None:
                    merged[name] = value
        return LogOptions(**merged)

    def _one_environment(self, draft: _Draft) -> None:
        """A process has one interpreter, so the operators of a runtime must agree on theirs."""
        first: str | None = None
        for index, (_, operator) in enumerate(draft.operators):
            python = operator.get("python")
            if python is None:
                continue
            found = python.get("conda_env")
            if index and found != first:
                self.report.error(
                    operator.place("python"),
                    f"the operators of {_named(draft)} ask for different conda environments, "
                    "but they share one process",
                    "give all of them the same `conda_env`, or make two nodes",
                )
                return
            first = found


def _named(draft: _Draft) -> str:
    return f"the node `{draft.id}`" if draft.id else "the node"


def assemble(
    root: CheckedBlock,
    reader: Reader,
    *,
    descriptor: dict[str, Any],
    file: str | None,
    working_dir: str,
    env_overrides: Mapping[str, str],
    strict_types: bool,
) -> Dataflow:
    """Return the dataflow of a checked document; only meaningful if the report has no error.

    ``strict_types``: types that do not fit together are errors, whatever the document has.
    """
    overrides = {name: value for name, value in env_overrides.items() if not refused_variable(name)}
    for name in sorted(env_overrides.keys() - overrides.keys()):
        message = refused_variable(name)
        reader.report.problems.append(Problem(message, reader.report.file, severity="warning"))
    assembler = Assembler(reader, deploy=deploy_of(root, HERE, reader.report), preload=preload_of(root, ()))
    nodes = assembler.nodes(root.get("nodes") or ())
    check_deadlines(assembler.ports, reader.report)
    types, type_warnings = _types(assembler.ports, root, reader, working_dir)
    if strict_types or root.get("strict_types"):
        reader.report.problems += (warning._replace(severity="error") for warning in type_warnings)
        reader.report.failed = reader.report.failed or bool(type_warnings)
    safe_states = assembler.outputs.safe_states
    paths = budgets_of(root.get("paths") or (), nodes, reader.report, safe_states)
    nodes = with_safe_states(nodes, safe_states, types, paths, reader.report)
    debug = root.get("debug")
    return Dataflow(
        nodes=nodes,
        working_dir=working_dir,
        file=file,
        env={**(root.get("env") or {}), **overrides},
        health_check_interval=root.get("health_check_interval"),
        exit_when_nodes_finish=root.get("exit_when_nodes_finish"),
        debug=bool(debug is not None and debug.get("enable_debug_inspection")),
        descriptor=descriptor,
        programs=tuple(assembler.programs),
        types=types,
        paths=paths,
        black_box=black_box_of(root.get("black_box"), nodes, reader.report),
        warnings=reader.report.sorted(),
        type_warnings=type_warnings,
    )


def _types(
    ports: list[Ports], root: CheckedBlock, reader: Reader, project: str
) -> tuple[Types, tuple[Problem, ...]]:
    """Return the types of the inputs and outputs, and what does not fit together."""
    rules = root.get("type_rules") or ()
    folders = {os.path.dirname(item.path) for item in ports if item.path}
    if not (
        rules
        or any(item.are_described for item in ports)
        or any(is_file(os.path.join(project, folder, MANIFEST_FILE)) for folder in folders)
    ):
        return Types(), ()
    from dora.dataflow.types.check import check_types  # only dataflows with types pay for it

    return check_types(ports, rules, reader, project, reader.report.folder)
