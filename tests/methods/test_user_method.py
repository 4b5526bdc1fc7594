"""A criterion of the user on the command line: one file, named by method.module or by a YAML file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.records import run_key
from prunelab.steps import Setup

MINE = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from prunelab.methods.importance.criterion import Criterion, Reads
from prunelab.methods.importance.weights import score_producers


@dataclass(frozen=True)
class Largest(Criterion):
    reads: ClassVar[Reads] = "weights"

    def score(self, context):
        return score_producers(context, lambda filters: np.abs(filters).max(axis=1), self.reduction)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the module; each test has its own, since Python imports a module once."""
    name = f"mine_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    return name


def words(mine: str) -> list[str]:
    return [
        "budget.flops=0.5",
        "method=l1",
        f"method.module={mine}",
        f"method.criterion._target_={mine}.Largest",
    ]


def test_a_criterion_in_the_working_directory_is_found(mine: str) -> None:
    assert Setup.of(configure(words(mine))).method.title == "Largest"


def test_the_module_counts_by_its_class_not_by_being_named(mine: str) -> None:
    config = configure(words(mine))
    config["method"] = {**config["method"], "module": None}
    assert run_key(configure(words(mine))) == run_key(config) != run_key(configure(["budget.flops=0.5"]))


def test_a_module_that_is_not_there_names_the_key() -> None:
    with pytest.raises(UserError, match=r"no Python module 'nowhere'.*method\.module=nets"):
        Setup.of(configure(["budget.flops=0.5", "method.module=nowhere"]))


def test_a_module_is_named_by_text() -> None:
    with pytest.raises(UserError, match=r"method\.module="):
        Setup.of(configure(["budget.flops=0.5", "method.module=[nets]"]))


def test_a_user_yaml_makes_it_a_choice(mine: str, tmp_path: Path) -> None:
    (tmp_path / "conf" / "method").mkdir(parents=True)
    (tmp_path / "conf" / "method" / "largest.yaml").write_text(
        "defaults: [/importance@_here_, _self_]\n"
        f"module: {mine}\ncriterion:\n  _target_: {mine}.Largest\n  reduction: mean\n"
    )
    command = ["--config-dir", "conf", "method=largest", "budget.flops=0.5", "--cfg", "job"]
    ended = subprocess.run(
        [sys.executable, "-m", "prunelab", *command], cwd=tmp_path, capture_output=True, text=True
    )
    assert f"{mine}.Largest" in ended.stdout, ended.stderr
