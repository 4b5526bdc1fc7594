"""The names of ``import prunelab``: every public name, without an import of torch before the first use."""

from __future__ import annotations

import subprocess
import sys

import pytest

import prunelab
import prunelab.methods
import prunelab.structure


def test_every_public_name_can_be_imported() -> None:
    for name in prunelab.__all__:
        assert getattr(prunelab, name) is not None
    assert set(prunelab.methods.__all__) <= set(prunelab.__all__)
    assert {"UserError", "__version__", "analyze", "apply", "check", "load", "save"} <= set(prunelab.__all__)
    assert set(prunelab.__all__) <= set(dir(prunelab))


def test_importing_prunelab_imports_neither_torch_nor_lightning() -> None:
    code = (
        "import sys, prunelab; prunelab.__version__; prunelab.UserError; "
        "print({'torch', 'numpy', 'pytorch_lightning'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("module", ["prunelab", "prunelab.cli.run"])
def test_modules_run_as_commands(module: str) -> None:
    ended = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, f"prunelab {prunelab.__version__}\n")


@pytest.mark.parametrize("module", ["report", "again", "methods", "profile.command"])
def test_every_console_script_is_a_module_that_runs(module: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", f"prunelab.cli.{module}", "--help"], capture_output=True, text=True
    )
    assert ended.returncode == 0 and "usage" in ended.stdout.lower()
