"""A criterion that is added as described in CONTRIBUTING.md needs only the two files shown there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from . import pages

pytestmark = pytest.mark.slow

COPIED = ("src", "conf", "tests", "docs", "pyproject.toml", "README.md", "Makefile")
NEW = ("src/prunelab/methods/importance/spread.py", "conf/method/spread.yaml")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the files of "Add a criterion"."""
    folder = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        source = pages.ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    shown = {block.title: block.text for block in pages.blocks(pages.ROOT / "CONTRIBUTING.md") if block.title}
    assert set(shown) == set(NEW)
    for title, text in shown.items():
        assert not (folder / title).exists()
        (folder / title).write_text(text)
    return folder


def run(folder: Path, module: str, *arguments: str) -> str:
    """The output of ``python -m module`` in the copy; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "src")}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_new_files_have_the_style_of_the_project(copy: Path) -> None:
    run(copy, "ruff", "check", *[name for name in NEW if name.endswith(".py")])
    run(copy, "ruff", "format", "--check", *[name for name in NEW if name.endswith(".py")])


def test_the_generated_parts_are_refreshed_by_a_command(copy: Path) -> None:
    (target,) = re.findall(
        r"(?m)^refresh:.*\n\t\$\(BIN\)/prunelab-methods (.*)$", (copy / "Makefile").read_text()
    )
    run(copy, "prunelab.cli.methods", *target.split())
    assert (
        "| `spread` | [Authors, Title, Venue Year](https://example.org/paper) | weights |"
        in (copy / "docs/reference/methods.md").read_text()
    )


@pytest.mark.slow
def test_the_laws_of_methods_are_tested_with_it(copy: Path) -> None:
    """The tests find the YAML file automatically, and pass."""
    printed = run(
        copy,
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        "-k",
        "spread",
        "tests/methods/test_battery.py",
    )
    (passed,) = re.findall(r"(\d+) passed", printed)
    assert int(passed) >= 5
