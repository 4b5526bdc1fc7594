"""Compiled networks are analysed and pruned as they were written; the errors for other wrappers name the argument to
pass."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunelab
from prunelab.errors import UserError
from prunelab.structure import candidate, observe

IMAGES = torch.linspace(-1, 1, 2 * 3 * 12 * 12).reshape(2, 3, 12, 12).sin()


def plain() -> nn.Sequential:
    inner = nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU())
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), inner, nn.Conv2d(6, 2, 3)).eval()


def wrapped() -> nn.Module:
    return torch.compile(plain(), backend="eager")


def wrapped_and_run() -> nn.Module:
    model = wrapped()
    model(IMAGES)
    return model


def wrapped_inside() -> nn.Module:
    model = plain()
    model[2] = torch.compile(model[2], backend="eager")
    return model


def compiled_in_place() -> nn.Module:
    model = plain()
    model.compile(backend="eager")
    model[2].compile(backend="eager")
    return model


class Decorated(nn.Sequential):
    @torch.compile(backend="eager")
    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


def compiled_function() -> nn.Module:
    return Decorated(*plain()).eval()


@pytest.mark.parametrize(
    "make", [wrapped, wrapped_and_run, wrapped_inside, compiled_in_place, compiled_function]
)
def test_a_compiled_network_is_pruned_as_it_was_written(
    make: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        graph = prunelab.analyze(model, IMAGES)
        plan = graph.plan({"0": [0, 3, 5], "2.0": [1, 2]})
        small = candidate(model, plan)
        before = copy.deepcopy(model)
        assert prunelab.apply(model, plan) is model
        assert prunelab.check(before, model, plan, IMAGES) < 1e-9
        assert prunelab.check(before, small, plan, IMAGES) < 1e-9
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert [group.name for group in graph.groups] == ["0", "2.0"]
    out = model(IMAGES)  # compiled again
    torch.testing.assert_close(out, small(IMAGES))
    out.sum().backward()
    assert {name: p.shape for name, p in small.named_parameters()} == {
        name.replace("_orig_mod.", ""): p.shape for name, p in model.named_parameters()
    }


@pytest.mark.parametrize("make", [wrapped, wrapped_inside])
def test_a_compiled_network_is_saved_as_it_was_written(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model = make()
    prunelab.apply(model, prunelab.analyze(model, IMAGES).plan({"0": [0, 3, 5]}))
    folder = prunelab.save(model, tmp_path)
    for new in (plain(), make()):
        torch.testing.assert_close(prunelab.load(folder, model=new)(IMAGES), model(IMAGES))


def test_a_plan_for_a_compiled_network_is_one_for_the_network() -> None:
    model = plain()
    plan = prunelab.analyze(torch.compile(model, backend="eager"), IMAGES).plan({"0": [1, 2]})
    assert plan.digest() == prunelab.analyze(model, IMAGES).plan({"0": [1, 2]}).digest()


def test_compiled_parts_are_compiled_afterwards() -> None:
    model = plain()
    inner = model[2] = torch.compile(model[2], backend="eager")
    model[0].compile(backend="eager")
    compiled = model[0]._compiled_call_impl
    prunelab.apply(model, prunelab.analyze(model, IMAGES).plan({"0": [1, 2]}))
    assert model[2] is inner
    assert model[0]._compiled_call_impl is compiled is not None


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)) + x


def test_a_compiled_block_can_be_dropped() -> None:
    block = torch.compile(Block(), backend="eager")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), block, Block(), nn.Conv2d(4, 2, 3)).eval()
    before = copy.deepcopy(model)
    plan = prunelab.analyze(model, IMAGES).plan({}, ["1"])
    prunelab.apply(model, plan)
    assert model[1] is not block
    assert prunelab.check(before, model, plan, IMAGES) < 1e-9


def test_activations_of_a_compiled_network_are_observed() -> None:
    model = wrapped()
    graph = prunelab.analyze(model, IMAGES)
    seen: list[Tensor] = []
    (point,) = graph.group("0").hook_points
    with observe(model, {point.hook_point: lambda tensor, dim: seen.append(tensor)}):
        model(IMAGES)
    torch.testing.assert_close(seen[0], model._orig_mod[:2](IMAGES))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.DataParallel(plain()), "DataParallel.*'module'"),
        (lambda: nn.Sequential(nn.DataParallel(plain()), nn.ReLU()), "module '0'.*DataParallel"),
        (lambda: torch.jit.script(plain()), "TorchScript.*before"),
        (lambda: torch.jit.trace(plain(), IMAGES), "TorchScript.*before"),
        (lambda: nn.Sequential(torch.jit.script(plain()), nn.ReLU()), "module '0'.*TorchScript"),
        (lambda: torch.export.export(plain(), (IMAGES,)), r"ExportedProgram; pass program\.module\(\)"),
        (lambda: nn.Sequential, r"class.*Sequential\("),
        (lambda: "resnet18", "of type str"),
        (lambda: plain().state_dict(), "of type OrderedDict"),
    ],
    ids=[
        "parallel",
        "parallel inside",
        "script",
        "trace",
        "script inside",
        "exported",
        "class",
        "name",
        "weights",
    ],
)
@pytest.mark.parametrize("function", ["analyze", "apply", "check", "candidate", "context", "save"])
def test_the_message_about_a_wrapper_names_what_to_pass(
    make: Callable[[], Any], words: str, function: str, tmp_path: Path
) -> None:
    method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(flops=0.5))
    plan = prunelab.analyze(plain(), IMAGES).plan({"0": [1, 2]})
    call: dict[str, Callable[[Any], Any]] = {
        "analyze": lambda model: prunelab.analyze(model, IMAGES),
        "apply": lambda model: prunelab.apply(model, plan),
        "check": lambda model: prunelab.check(model, plain(), plan, IMAGES),
        "candidate": lambda model: candidate(model, plan),
        "context": lambda model: method.context(model, IMAGES),
        "save": lambda model: prunelab.save(model, tmp_path),
    }
    with pytest.raises(UserError, match=words):
        call[function](make())
