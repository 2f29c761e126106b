"""The table of all fields of a dataflow file.

The parser, the JSON schema for editors and the tests of the reference manual read this one table.
An editor shows the description of a field: one or two sentences, units, an example.
"""

from __future__ import annotations

from typing import get_args

from msgspec import structs

from dora.dataflow.model import LOG_LEVELS, ReloadMode, RestartMode, Source
from dora.dataflow.parser.black_box import BLACK_BOX
from dora.dataflow.parser.budgets import PATHS
from dora.dataflow.parser.deploy import DEPLOY
from dora.dataflow.parser.input_rules import INPUT_RULE_FIELDS
from dora.dataflow.parser.output_rules import Outputs
from dora.dataflow.parser.preload import Preload
from dora.dataflow.parser.program_sources import CHECKSUM, PYTHON
from dora.dataflow.parser.ros2 import ROS2
from dora.dataflow.parser.scheduling import SCHEDULING
from dora.dataflow.parser.sources import SourceFault, parse_source
from dora.dataflow.parser.sync import SYNC, SYNC_BLOCK
from dora.dataflow.parser.variables import EnvironmentType, ParametersType, ParameterValuesType
from dora.dataflow.types.contracts import CONTRACTS, TYPE_RULES
from dora.dataflow.yaml.field_types import (
    DATA,
    NODE,
    OPERATOR,
    ChoiceType,
    CommandsType,
    FieldType,
    FlagType,
    ListType,
    MapType,
    Reader,
    Schema,
    TextType,
    UnsupportedType,
    WordsType,
    report_expected,
)
from dora.dataflow.yaml.number_types import ByteSizeType, IntegerType, SecondsType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock, ShortForm
from dora.dataflow.yaml.tree import ScalarNode, SequenceNode, YamlNode

# --------------------------------------------------------------------------- inputs


class SourceText(FieldType[Source]):
    """The source of an input, see `dora.dataflow.parser.sources`."""

    def read(self, value: YamlNode, reader: Reader) -> Source | None:
        if not isinstance(value, ScalarNode) or value.value is None:
            hint = "write `<node>/<output>`, for example `camera/image`"
            report_expected(value, reader, "the source of an input", hint)
            return None
        try:
            return parse_source(value.text)
        except SourceFault as fault:
            reader.report.error(value, fault.message, fault.hint, fault.part, last=fault.last)
            return None

    def schema(self) -> Schema:
        return {
            "type": "string",
            "pattern": "^[^/]+/.+$",
            "examples": ["camera/image", "dora/timer/50ms", "dora/timer/30hz"],
        }


INPUT = SchemaBlock(
    "an input",
    [
        Field(
            "source",
            SourceText(),
            "Where the messages come from: `node/output`, `node/operator/output`, `dora/timer/50ms`, "
            "`dora/timer/30hz` (also `millis/50`, `hz/30`), `dora/logs`, `dora/logs/warn/node`.",
            required=True,
        ),
        *INPUT_RULE_FIELDS,
    ],
    reference="input",
)


_INPUTS = Field(
    "inputs",
    MapType(
        ShortForm(INPUT, "source"),
        "inputs",
        "write `inputs: {image: camera/image}`: the name of each input, then its source",
        keeps_rest=True,
    ),
    "For each input the name that the program sees, and its source: `image: camera/image`.",
)
_OUTPUTS = Field(
    "outputs",
    Outputs(),
    "The names of the outputs that the program sends to; with options as `- map: {latched: 1}`.",
)

# --------------------------------------------------------------------------- shared by nodes and operators

_SEND_STDOUT_AS = Field(
    "send_stdout_as",
    DATA,
    "An output, listed in `outputs`, on which every line of stdout and stderr is published as well.",
)
_SEND_LOGS_AS = Field(
    "send_logs_as",
    DATA,
    "An output, listed in `outputs`, on which every log entry is published as well, as a JSON text.",
)
_LOG_FILE = [
    Field(
        "min_log_level",
        ChoiceType(LOG_LEVELS, ignore_case=True),
        "Entries less severe than this are dropped before they reach the log file or anyone else. "
        "From most to least severe: error, warn, info, debug, trace, stdout.",
    ),
    Field(
        "max_log_size",
        ByteSizeType(),
        'Size at which the log file is rotated: "50MB", or a number of bytes. Unset: never.',
    ),
    Field(
        "max_rotated_files",
        IntegerType(0, 100),
        "How many rotated log files are kept; 0 counts as 5.",
        default=5,
    ),
]
_NAME = Field("name", TextType(), "A name for people; shown in lists and graphs.")
_DESCRIPTION = Field("description", TextType(), "What it does; for people.")
BUILD = Field(
    "build",
    CommandsType(),
    "Commands that `dora build` and `dora run` execute first, one a line, without a shell: "
    "no pipes, `&&` or variables.",
)
_PATH_SHA256 = Field(
    "path_sha256",
    CHECKSUM,
    "The SHA-256 of the file that a URL as `path` or `python` leads to; another file is not run.",
)

# --------------------------------------------------------------------------- operators


PYTHON_SOURCE = SchemaBlock(
    "the operator's `python`",
    [
        Field(
            "source",
            TextType("the path of a Python file", may_be_empty=False),
            "The Python file with the class.",
            required=True,
        ),
        Field("conda_env", TextType("a name", may_be_empty=False), "The conda environment to run it in."),
    ],
    reference="python_source",
)


OPERATOR_BLOCK = SchemaBlock(
    "an operator",
    [
        Field(
            "id",
            OPERATOR,
            "The operator's id: letters, digits, `_`, `.`, `-`. Required in `operators`, else `op`.",
        ),
        Field(
            "python",
            ShortForm(PYTHON_SOURCE, "source"),
            "The Python file with `class Operator`, relative to the dataflow file, or its URL; "
            "or `{source: file.py, conda_env: name}`.",
        ),
        _PATH_SHA256,
        _INPUTS,
        SYNC,
        _OUTPUTS,
        BUILD,
        _NAME,
        _DESCRIPTION,
        _SEND_STDOUT_AS,
        _SEND_LOGS_AS,
        *_LOG_FILE,
        Field(
            "shared-library",
            UnsupportedType(
                "operators in shared libraries", "write the operator in Python, or make it a node"
            ),
            "Path of a native operator. Not supported by this version.",
        ),
        Field(
            "wasm",
            UnsupportedType("operators in WebAssembly", "write the operator in Python, or make it a node"),
            "Path of a WebAssembly operator. Not supported by this version.",
        ),
        *CONTRACTS,
    ],
    reference="operator",
    example="{id: detect, python: detect.py}",
)


class Operators(ListType[CheckedBlock]):
    """The operators of a runtime: at least one, each with an id."""

    def read(self, value: YamlNode, reader: Reader) -> tuple[CheckedBlock, ...] | None:
        if isinstance(value, SequenceNode) and not value.items:
            reader.report.error(value, "this list of operators is empty")
            return None
        return super().read(value, reader)

    def schema(self) -> Schema:
        items = {"allOf": [self.item.schema()], "required": ["id"]}
        return {"type": "array", "minItems": 1, "items": items}


# --------------------------------------------------------------------------- nodes

_COMMIT = TextType("a name", may_be_empty=False)

NODE_BLOCK = SchemaBlock(
    "a node",
    [
        Field(
            "id",
            NODE,
            "The node's id, unique in the dataflow: letters, digits, `_`, `.`, `-`.",
            required=True,
            on_runtime=True,
            on_module=True,
        ),
        Field(
            "path",
            TextType("a path", may_be_empty=False),
            "What to run: a Python file, an executable or the name of a command; "
            "`dynamic` for a process that you start yourself, `shell` to run `args` in a shell, or a URL.",
        ),
        Field(
            "args",
            WordsType(),
            "Arguments for the program: a text that is split as a shell does (quotes count, "
            "variables do not), or a list.",
        ),
        Field(
            "env",
            EnvironmentType(),
            "Environment variables. `$NAME`, `${NAME}` and `${NAME:-default}` in values are replaced "
            "from the environment of `dora`; a dollar sign is `$$`.",
            on_runtime=True,
            on_module=True,
        ),
        BUILD,
        structs.replace(_INPUTS, on_module=True),
        SYNC,
        _OUTPUTS,
        Field(
            "operator",
            OPERATOR_BLOCK,
            "One operator: a Python class that runs inside a runtime. Its id is `op` if it has none.",
            on_runtime=True,
        ),
        Field(
            "operators",
            Operators(
                OPERATOR_BLOCK,
                "operators",
                "begin each operator with `- id:`, or use `operator:` for a single one",
                keeps_rest=True,
            ),
            "Several operators that share one process, the runtime; messages between them are not copied.",
            on_runtime=True,
        ),
        structs.replace(_NAME, on_runtime=True, on_module=True),
        structs.replace(_DESCRIPTION, on_runtime=True, on_module=True),
        _SEND_STDOUT_AS,
        _SEND_LOGS_AS,
        *(structs.replace(field, on_runtime=True) for field in _LOG_FILE),
        Field(
            "restart_policy",
            ChoiceType(get_args(RestartMode)),
            "Whether the node is started again after it ended.",
            default="never",
            on_runtime=True,
        ),
        Field(
            "max_restarts",
            IntegerType(0, 2**32 - 1),
            "How often it is started again at most; 0: without limit.",
            default=0,
            on_runtime=True,
        ),
        Field(
            "restart_delay",
            SecondsType(),
            "Seconds before the first restart; doubled for every further one.",
            default=0,
            on_runtime=True,
        ),
        Field(
            "max_restart_delay",
            SecondsType(),
            "Upper limit of the doubled delay, in seconds.",
            on_runtime=True,
        ),
        Field(
            "restart_window",
            SecondsType(zero="unset"),
            "Seconds after which restarts no longer count towards `max_restarts`.",
            on_runtime=True,
        ),
        Field(
            "health_check_timeout",
            SecondsType(zero="unset"),
            "Seconds of silence towards the daemon after which the node counts as hung and is killed.",
            on_runtime=True,
        ),
        Field(
            "finish_grace_secs",
            SecondsType(),
            "Seconds that the node may go on after its inputs are closed, once the other nodes are done.",
            on_runtime=True,
        ),
        Field(
            "startup_timeout",
            SecondsType(zero="unset"),
            "Seconds within which the started program has to connect, else it is killed.",
            on_runtime=True,
        ),
        Field(
            "hot_reload",
            ChoiceType(get_args(ReloadMode)),
            "How the node gets new code with `dora run --hot-reload`: started beside the old code, started "
            "once that has ended (for devices that only one process can have), or not at all.",
            default="overlap",
            on_runtime=True,
        ),
        Field(
            "cpu_affinity",
            ListType(IntegerType(0, 4095), "core numbers"),
            "The cores that the process may use (Linux), for example `[0, 2]`.",
            on_runtime=True,
        ),
        *SCHEDULING,
        Field(
            "preload",
            Preload(),
            "Installed packages that a template process imports before the node starts, beside NumPy and "
            "pyarrow: `[torch]`. `false`: start a new Python. Instead of the dataflow's.",
            on_runtime=True,
            on_module=True,
        ),
        Field(
            "parameters",
            ParameterValuesType(),
            "Named values that the program reads as `node.parameters`, and that `dora param set` changes "
            "while it runs: `parameters: {gain: 0.5}`.",
            on_runtime=True,
        ),
        Field(
            "shared_memory_pool_size",
            ByteSizeType(),
            "Accepted for compatibility, without effect: shared memory grows on demand.",
        ),
        *CONTRACTS,
        Field(
            "python",
            PYTHON,
            "The Python and the packages that the node needs; uv makes an environment of its own for it.",
            on_runtime=True,
        ),
        Field(
            "git",
            TextType("a repository", may_be_empty=False),
            "The git repository that the node comes from, cloned by `dora build`. The clone is the folder "
            "that the node runs in, and that `path` and `build` refer to.",
        ),
        Field(
            "branch", _COMMIT, "The branch of `git` to use. Without `branch`, `tag` and `rev`: its default."
        ),
        Field("tag", _COMMIT, "The tag of `git` to use."),
        Field("rev", _COMMIT, "The commit of `git` to use."),
        Field(
            "hub",
            UnsupportedType(
                "packages of the node hub", "install the package with pip, and give its command as `path`"
            ),
            "A package of the node hub. Not supported by this version.",
        ),
        _PATH_SHA256,
        Field(
            "deploy",
            DEPLOY,
            "The machine to run the node on; instead of the dataflow's.",
            on_runtime=True,
            on_module=True,
        ),
        Field(
            "ros2",
            ROS2,
            "Instead of `path`: connect inputs and outputs with topics, a service or an action of ROS 2. "
            "Needs the extra `ros2`.",
        ),
        Field(
            "module",
            TextType("the path of a module", may_be_empty=False),
            "A module: a file with a part of the dataflow, relative to this file. Its ports are wired "
            "by `inputs`.",
            on_module=True,
        ),
        Field(
            "params",
            ParametersType(),
            "Texts for the module: `$PARAM_SPEED` in the `args` of its nodes, and an environment "
            "variable of each of them, is the parameter `speed`.",
            on_module=True,
        ),
    ],
    reference="node",
    example="{id: camera, path: camera.py}",
)


NODES = ListType(NODE_BLOCK, "nodes", "begin each node with `- id:`", keeps_rest=True)

# --------------------------------------------------------------------------- the dataflow

DEBUG = SchemaBlock(
    "`debug`",
    [
        Field(
            "enable_debug_inspection",
            FlagType(),
            "Of no effect: `dora topic` looks into every dataflow.",
            default=False,
        )
    ],
)

DATAFLOW = SchemaBlock(
    "a dataflow",
    [
        Field("nodes", NODES, "The nodes of the dataflow: its processes.", required=True),
        Field("env", EnvironmentType(), "Environment variables for every node; a node's own `env` wins."),
        Field(
            "exit_when_nodes_finish",
            FlagType(),
            "Count a node as finished when all its inputs except timers are closed, so that timers "
            "alone do not keep the dataflow alive.",
            default=False,
        ),
        Field(
            "health_check_interval",
            SecondsType(zero="refused"),
            "Seconds between two health checks of the nodes.",
            default=5.0,
        ),
        Field("debug", DEBUG, "Options of dora-rs for inspection."),
        Field(
            "deploy",
            DEPLOY,
            "The machine to run nodes on that have no `deploy` of their own.",
        ),
        Field(
            "preload",
            Preload(),
            "Installed packages to import before nodes start that have no `preload` of their own: "
            "`[torch]`. `false`: start a new Python for each node.",
        ),
        Field(
            "paths",
            PATHS,
            "How long data may take from an output to an input, and what happens if it takes longer: "
            "`- {from: camera/image, to: motor/command, budget: 40ms}`.",
        ),
        Field(
            "black_box",
            BLACK_BOX,
            "What a run keeps of its last seconds, to save when a node fails: `{duration: 60s}`. "
            "`false`: nothing.",
        ),
        Field("strict_types", FlagType(), "Make errors of types that do not fit together.", default=False),
        Field(
            "type_rules",
            TYPE_RULES,
            "Further conversions: an input of the type `to` may get messages of the type `from`.",
        ),
    ],
    notes=True,
)


def _know_each_other() -> None:
    blocks = (DATAFLOW, NODE_BLOCK, OPERATOR_BLOCK, INPUT, SYNC_BLOCK)
    for block in blocks:
        for other in blocks:
            if other is not block:
                for name in other.fields:
                    block.elsewhere.setdefault(name, other.noun)


_know_each_other()
