"""A hook of hatchling: the wheel brings along the metadata of distributions that dora takes the place of.

See `dora.daemon.build.shadowing`, which is loaded by its path, since dora is not installed where it is
built.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds ``dora_rs-<version>.dist-info``, where pip unpacks it beside our own."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        shadowing = self._load("daemon/build/shadowing.py")
        interface = self._load("_version.py").INTERFACE
        self._folder = TemporaryDirectory()
        included = build_data["force_include_editable" if version == "editable" else "force_include"]
        data = f"dora_dataflow-{self.metadata.version}.data/purelib"
        for stem, files in shadowing.stand_ins(interface):
            for name, text in files.items():
                path = Path(self._folder.name, f"{stem}-{name}")
                path.write_text(text)
                included[str(path)] = f"{data}/{stem}.dist-info/{name}"

    def _load(self, file: str) -> Any:
        spec = importlib.util.spec_from_file_location("loaded", Path(self.root, "src", "dora", file))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def finalize(self, *_: Any) -> None:
        self._folder.cleanup()
