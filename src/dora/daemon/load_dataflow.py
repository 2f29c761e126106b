"""Load a dataflow from a file or a URL, and check that it can run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

import msgspec

from dora.daemon.build.build import missing
from dora.daemon.options import FileRunOptions
from dora.dataflow import expanded, expanded_text, load, missing_files, parse
from dora.dataflow.model import Dataflow
from dora.errors import DataflowError, DoraError

MAX_FILE_SIZE: Final = 16 << 20  # bytes of a download: a URL may lead to a file of any size


def load_dataflow(
    path: str, env: Mapping[str, str] | None = None, *, strict_types: bool = False
) -> Dataflow:
    """Load a dataflow from a file or a URL; raises `DataflowError` with all problems.

    Paths of nodes in a dataflow from the web are relative to the current directory. With ``strict_types``,
    types that do not fit together are errors.
    """
    _check_installation()
    if is_url(path):
        return parse(
            _download(path),
            file=path,
            working_dir=os.getcwd(),
            environ=os.environ,
            env_overrides=env or {},
            strict_types=strict_types,
        )
    return load(path, env_overrides=env or {}, strict_types=strict_types)


def expand_dataflow(path: str) -> str:
    """Return the YAML of a dataflow from a file or a URL with modules and defaults written out.

    Raises as `load_dataflow` does.
    """
    return expanded_text(_download(path), path, os.getcwd()) if is_url(path) else expanded(path)


def load_for_run(path: str, options: FileRunOptions, *, here: bool = True) -> Dataflow:
    """Load a dataflow with what the options change of it, and check that the programs of its nodes exist.

    ``here``: it will run in this process, so no node may be for another machine. Otherwise commands are not
    looked up: the process that starts them may have another ``PATH``.
    """
    dataflow = load_dataflow(path, options.env)
    if options.exit_when_nodes_finish is not None:
        dataflow = msgspec.structs.replace(dataflow, exit_when_nodes_finish=options.exit_when_nodes_finish)
    if problems := missing(dataflow, uv=options.uv) if here else missing_files(dataflow):
        raise DataflowError(problems=tuple(problems))
    if here:
        _check_one_machine(dataflow)
    return dataflow


def _check_one_machine(dataflow: Dataflow) -> None:
    """Raise `DoraError` if a node has a `deploy`: without a coordinator there is only this machine."""
    for node in dataflow.nodes:
        if node.deploy.names_place:
            where = f" ({node.place})" if node.place else ""
            raise DoraError(
                f"node `{node.id}` has a `deploy`{where}, and only a coordinator knows machines; start it "
                "with `dora up` and `dora start`"
            )


def is_url(path: str) -> bool:
    """Return whether a path names a dataflow file on the web."""
    return path.lower().startswith(("http://", "https://"))


def _download(url: str) -> str:
    """Download the text of a dataflow file; raises `DataflowError` with the reason."""
    import io

    from dora.daemon.build.node_sources import FetchFailed, fetch

    data = io.BytesIO()
    try:
        fetch(url, data, MAX_FILE_SIZE)
    except FetchFailed as error:
        raise DataflowError(f"cannot download {url}: {error}") from None
    try:
        return data.getvalue().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataflowError(f"{url} is not a text in UTF-8: this is no dataflow file") from None


def _check_installation() -> None:
    """Raise `DoraError` if dora-rs was unpacked over this dora: nodes would import that."""
    import dora

    if not hasattr(dora, "__implementation__"):
        from dora.daemon.build.shadowing import mend

        raise DoraError(
            f"dora-rs {dora.__version__} is installed over this dora, so nodes would use that; mend it with"
            f"\n  {mend()}"
        )
