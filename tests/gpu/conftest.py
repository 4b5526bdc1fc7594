"""Tests that need a CUDA GPU: ``make test-gpu``. Elsewhere they are skipped with one line.

With PRUNELAB_GPU_TESTS=cpu they run on the processor instead, as a rehearsal: it executes their code and proves nothing
about a GPU. tests/devices/test_rehearsal.py does so for some of them. PRUNELAB_GPU_TESTS=inductor also compiles the
networks, for the processor (``-k "compiled or CUDA"``).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.methods import PruningMethod, Scores
from prunelab.models import CifarResNet
from prunelab.steps.setup import made
from prunelab.structure import PruningPlan
from prunelab.training import Machine

HERE = Path(__file__).parent
EXAMPLE = torch.zeros(1, 1, 8, 8)
WISH = os.environ.get("PRUNELAB_GPU_TESTS")
REHEARSAL = WISH in ("cpu", "inductor")
RUNS = REHEARSAL or torch.cuda.is_available()
DEVICE = torch.device("cpu") if REHEARSAL else torch.device("cuda", 0)
collect_ignore_glob = (
    [] if RUNS else [file.name for file in HERE.glob("test_*.py") if file.name != "test_data.py"]
)
"""Without a GPU one file is collected: one line about the skipped tests is enough."""


@dataclass(frozen=True)
class Decided:
    """A plan, the scores behind it (None: the method has none), and the network that it was made for."""

    plan: PruningPlan
    scores: Scores | None
    network: nn.Module


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.gpu)
    if ours and not RUNS:
        ours[0].add_marker(pytest.mark.skip(reason="no CUDA GPU, which the tests in tests/gpu need"))
        items[:] = [item for item in items if item not in ours[1:]]
        config.hook.pytest_deselected(items=ours[1:])


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """Convolutions in float32, not in TF32, so that figures compare with those of the CPU; deterministic or not."""
    tf32, precision = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    yield
    torch.backends.cudnn.allow_tf32 = tf32
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU; in a rehearsal the processor."""
    return DEVICE


@pytest.fixture
def measures() -> None:
    """Skips a test in a rehearsal: its assertions are about times or memory of a GPU."""
    if REHEARSAL:
        pytest.skip("a rehearsal: times and memory of a processor are not those of a GPU")


@pytest.fixture(autouse=True)
def _processor_for_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a rehearsal: Trainers of ``accelerator="gpu"`` train on the processor, also in float16 with a scaler.

    Networks are traced as for a compilation, but compiled only if PRUNELAB_GPU_TESTS=inductor.
    """
    if not REHEARSAL:
        return
    if WISH != "inductor":
        compile_with = nn.Module.compile
        monkeypatch.setattr(nn.Module, "compile", lambda module, **_: compile_with(module, backend="eager"))
    own = Machine.trainer

    def trainer(self: Machine, **more: Any) -> pl.Trainer:
        here = replace(self, accelerator="cpu")
        if str(self.precision).startswith("16"):
            scaler = torch.amp.GradScaler("cpu")
            more["plugins"] = [*more.pop("plugins", ()), MixedPrecision("16-mixed", "cpu", scaler)]
            here = replace(here, precision=None)  # type: ignore[arg-type]  # the plugin's
        return own(here, **more)

    monkeypatch.setattr(Machine, "trainer", trainer)


def randomized(model: nn.Module) -> nn.Module:
    """``model`` with norms and running statistics that all differ, the same in every test; evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.5, 0.5, generator=generator)
    return model.eval()


@pytest.fixture
def small() -> nn.Module:
    """A ResNet-8 for images of 8x8 with random weights, on the CPU."""
    torch.manual_seed(0)
    return randomized(CifarResNet(1, in_chans=1))


@pytest.fixture(scope="session")
def batches() -> list[tuple[Tensor, Tensor]]:
    """Four batches of 32 random images of 8x8, with classes."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(32, 1, 8, 8, generator=generator), torch.randint(10, (32,), generator=generator))
        for _ in range(4)
    ]


@pytest.fixture
def decide(small: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Callable[..., Decided]:
    """(name of a method, device, more words) -> its decision for ``small`` there, after the refit."""

    def decided(name: str, device: torch.device, *words: str) -> Decided:
        config = configure(["data=digits", "budget.flops=0.5", f"method={name}", *words])
        method: PruningMethod = made(config["method"], "method")
        network = copy.deepcopy(small).to(device)
        context = method.context(network, EXAMPLE, batches, device, validation=batches)
        scores = None
        try:
            scores, plan = method.scored(context)
        except UserError:  # of methods without scores
            plan = method.decide(context)
        method.reconstruct(context, plan)
        return Decided(plan, scores, network)

    return decided
