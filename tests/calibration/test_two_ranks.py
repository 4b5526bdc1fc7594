"""Two ranks that share the images calibrate and score like one process."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.forks import Forks
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
def ranks(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> list[dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    started = [forks.start(folder, str(folder), str(rank), "2", program=SCRIPT) for rank in range(2)]
    assert [forks.wait(each) for each in started] == [0, 0], started[0].said() + started[1].said()
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
