"""Layers of low rank: which layers become which sequences of smaller layers, as plain data; making a sequence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize, skip_init

from prunelab.structure.surgery.apply import named_modules

FORMS: Mapping[str, int] = {"channel": 1, "spatial": 1, "tucker": 2, "cp": 1}
"""The sequences that a layer can become, and the number of their ranks."""

PlainLayer = nn.Conv2d | nn.Linear
Size = tuple[int, int]


@dataclass(frozen=True)
class Factors:
    """The sequence that replaces a layer with I inputs, O outputs and a kernel of k x l.

    form and ranks:
        "channel", (r,): k x l to r channels, 1 x 1 to O channels; for a linear layer I to r, r to O.
        "spatial", (r,): k x 1 to r channels, 1 x l to O channels.
        "tucker", (a, b): 1 x 1 to a channels, k x l to b channels, 1 x 1 to O channels.
        "cp", (r,): 1 x 1 to r channels, k x 1 and 1 x l for each channel, 1 x 1 to O channels.
    """

    form: str
    ranks: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.form} {'x'.join(map(str, self.ranks))}"


@dataclass(frozen=True)
class Part:
    """One layer of the sequence. ``down``, ``along``: it has the height, or the width, of the kernel and its stride."""

    inputs: int
    outputs: int
    down: bool = False
    along: bool = False
    groups: int = 1

    def weights(self, kernel: Size) -> int:
        """The number of weights; ``kernel`` is that of the replaced layer."""
        taps = (kernel[0] if self.down else 1) * (kernel[1] if self.along else 1)
        return self.outputs * (self.inputs // self.groups) * taps


@dataclass(frozen=True)
class Factorisation:
    """The layers that are replaced, by their paths. A step of a ``PlanSteps``."""

    layers: Mapping[str, Factors]

    def to_list(self) -> list[list[Any]]:
        """Plain data for JSON: [path, form, ranks] of each layer."""
        return [[path, each.form, list(each.ranks)] for path, each in sorted(self.layers.items())]

    @staticmethod
    def from_list(raw: Any) -> Factorisation:
        """Parse ``to_list``. Raises ValueError for anything else."""
        if not isinstance(raw, list) or not raw:
            raise ValueError("a factorisation names no layer")
        layers: dict[str, Factors] = {}
        for entry in raw:
            if not isinstance(entry, list) or len(entry) != 3:
                raise ValueError(f"{entry!r} is not a layer, its form and its ranks")
            path, form, ranks = entry
            if not isinstance(path, str) or not path or path in layers:
                raise ValueError(f"{path!r} is not the path of a layer, or occurs twice")
            layers[path] = Factors(form, _checked_ranks(path, form, ranks))
        return Factorisation(layers)


def _checked_ranks(path: str, form: Any, ranks: Any) -> tuple[int, ...]:
    if not isinstance(form, str) or form not in FORMS:
        raise ValueError(f"layer {path} has the form {form!r}; it must be one of {', '.join(FORMS)}")
    if not isinstance(ranks, list) or len(ranks) != FORMS[form]:
        raise ValueError(f"layer {path}: {ranks!r} is not a list of {FORMS[form]} ranks")
    if any(isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 for rank in ranks):
        raise ValueError(f"layer {path}: the ranks {ranks!r} are not whole numbers of at least 1")
    return tuple(ranks)


def kernel_of(layer: PlainLayer) -> Size:
    """The kernel, (1, 1) of a linear layer."""
    return (1, 1) if isinstance(layer, nn.Linear) else (layer.kernel_size[0], layer.kernel_size[1])


def widths_of(layer: PlainLayer) -> Size:
    """Inputs and outputs."""
    return layer.weight.shape[1], layer.weight.shape[0]


def parts_of(layer: PlainLayer, factors: Factors) -> tuple[Part, ...]:
    """The layers of the sequence, first to last."""
    inputs, outputs = widths_of(layer)
    first, last = factors.ranks[0], factors.ranks[-1]
    if factors.form == "channel":
        return Part(inputs, first, down=True, along=True), Part(first, outputs)
    if factors.form == "spatial":
        return Part(inputs, first, down=True), Part(first, outputs, along=True)
    if factors.form == "tucker":
        return Part(inputs, first), Part(first, last, down=True, along=True), Part(last, outputs)
    return (
        Part(inputs, first),
        Part(first, first, down=True, groups=first),
        Part(first, first, along=True, groups=first),
        Part(first, outputs),
    )


def params_of(layer: PlainLayer, factors: Factors | None) -> int:
    """The parameters of the sequence, or of the layer itself (None)."""
    bias = 0 if layer.bias is None else layer.bias.numel()
    if factors is None:
        return layer.weight.numel() + bias
    return sum(part.weights(kernel_of(layer)) for part in parts_of(layer, factors)) + bias


def flops_of(layer: PlainLayer, factors: Factors | None, before: Size, after: Size) -> int:
    """The FLOPs (2 x MAC + bias) for one image; ``before``, ``after``: height and width of input and output.

    Those of a linear layer are (rows, 1).
    """
    positions = math.prod(after)
    bias = 0 if layer.bias is None else layer.bias.numel() * positions
    if factors is None:
        return 2 * positions * layer.weight.numel() + bias
    (height, width), total = before, 0
    for part in parts_of(layer, factors):
        height, width = (after[0] if part.down else height), (after[1] if part.along else width)
        total += 2 * height * width * part.weights(kernel_of(layer))
    return total + bias


def obstacle(layer: nn.Module) -> str | None:
    """Why a layer cannot be factorised, in words; None if it can."""
    if type(layer) not in (nn.Conv2d, nn.Linear):
        return f"it is a {type(layer).__name__}"
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return f"it has {layer.groups} groups"
    if parametrize.is_parametrized(layer) or layer._forward_hooks or layer._forward_pre_hooks:
        return "its weight is computed, or hooks read its input"
    return None


def shared_layers(model: nn.Module) -> set[str]:
    """The paths of all modules that have several paths, or a parameter that another module has too."""
    modules = named_modules(model)
    paths = Counter(id(module) for module in modules.values())
    owners = Counter(
        id(parameter)
        for module in {id(each): each for each in modules.values()}.values()
        for parameter in module._parameters.values()
        if parameter is not None
    )
    return {
        path
        for path, module in modules.items()
        if paths[id(module)] > 1
        or any(owners[id(each)] > 1 for each in module._parameters.values() if each is not None)
    }


def replace_layer(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put ``layer`` in the place of the module ``path``."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = layer


def sequence(layer: PlainLayer, factors: Factors) -> nn.Sequential:
    """The sequence of plain layers, with weights of zero and without a bias except in the last one."""
    parts = parts_of(layer, factors)
    made = nn.Sequential(*(_made(layer, part, is_last=part is parts[-1]) for part in parts))
    for parameter in made.parameters():
        nn.init.zeros_(parameter).requires_grad_(layer.weight.requires_grad)
    return made.train(layer.training)


def _made(layer: PlainLayer, part: Part, is_last: bool) -> nn.Module:
    bias = is_last and layer.bias is not None
    place: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    if isinstance(layer, nn.Linear):
        return skip_init(nn.Linear, part.inputs, part.outputs, bias, **place)
    padding = layer.padding
    return skip_init(
        nn.Conv2d,
        part.inputs,
        part.outputs,
        _only(part, layer.kernel_size, 1),
        stride=_only(part, layer.stride, 1),
        padding=padding if isinstance(padding, str) else _only(part, padding, 0),
        dilation=_only(part, layer.dilation, 1),
        groups=part.groups,
        bias=bias,
        padding_mode=layer.padding_mode if part.down or part.along else "zeros",
        **place,
    )


def _only(part: Part, pair: Sequence[int], otherwise: int) -> Size:
    """The entries of a layer's setting (height, width) that the part has."""
    return (pair[0] if part.down else otherwise), (pair[1] if part.along else otherwise)


def set_weights(made: nn.Sequential, weights: Sequence[torch.Tensor], bias: torch.Tensor | None) -> None:
    """Copy weights, (outputs, inputs / groups, ...) each, and the bias of the last layer into a sequence."""
    with torch.no_grad():
        for layer, weight in zip(made, weights, strict=True):
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            layer.weight.copy_(weight.reshape(layer.weight.shape))
        if bias is not None:
            assert isinstance(made[-1].bias, torch.Tensor)
            made[-1].bias.copy_(bias)
