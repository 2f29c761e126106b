"""The examples in the docstrings of the command line and of the logs are right."""

import doctest
from importlib import import_module

import pytest

MODULES = (
    "dora.daemon.build.environments",
    "dora.daemon.build.pip",
    "dora.cli.commands.build",
    "dora.cli.commands.param",
    "dora.daemon.report",
    "dora.cli.tables",
    "dora.daemon.logs.entry",
    "dora.daemon.logs.formats",
    "dora.daemon.logs.parse",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    outcome = doctest.testmod(import_module(name))
    assert outcome.attempted and not outcome.failed
