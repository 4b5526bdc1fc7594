"""The examples in the docstrings of all public names have the shown output."""

from __future__ import annotations

import copy
import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import prunelab

FINDER = doctest.DocTestFinder(recurse=False)
NAMES = {"copy": copy, "prunelab": prunelab, "torch": torch, "nn": nn, "np": np}
"""Names that the examples may use without importing them."""


def examples(name: str) -> list[doctest.DocTest]:
    found: Any = getattr(prunelab, name)
    return [each for each in FINDER.find(found, name, globs=dict(NAMES)) if each.examples]


WITH_EXAMPLES = [name for name in prunelab.__all__ if examples(name)]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_give_what_they_show(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for each in examples(name):
        runner.run(each, out=report.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(report)


WITHOUT = {"UserError", "load_from_checkpoint"}
"""An error, and a function that needs a checkpoint; tests/methods call the latter."""


def test_every_public_class_and_function_has_an_example() -> None:
    public = {name for name in prunelab.__all__ if callable(getattr(prunelab, name))}
    assert public - set(WITH_EXAMPLES) <= WITHOUT
