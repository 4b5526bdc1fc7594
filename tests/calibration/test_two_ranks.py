"""Two ranks that share the images calibrate and score like one process."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibrating_ranks", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    started = [subprocess.Popen([sys.executable, SCRIPT, folder, str(rank), "2"]) for rank in range(2)]
    assert [process.wait(timeout=600) for process in started] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.ddp
def test_two_ranks_have_the_weights_and_scores_of_one_process(
    ranks: list[dict[str, Tensor]], script: ModuleType
) -> None:
    alone = script.results()
    for found in ranks:
        assert found.keys() == alone.keys()
        off = [name for name, value in alone.items() if not torch.allclose(found[name], value, 1e-4, 1e-6)]
        assert not off
