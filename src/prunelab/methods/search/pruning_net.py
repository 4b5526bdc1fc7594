"""PruningNet: small networks that generate the weights of a network's convolutions from the widths of its groups.

Liu et al.: MetaPruning, ICCV 2019, arXiv:1903.10258, section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.errors import UserError
from prunelab.methods.context import PruningContext
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.methods.search.judge import calibration_images
from prunelab.methods.search.supernet import Supernet
from prunelab.methods.search.widths import Widths
from prunelab.structure import ChannelGraph, PruningPlan

GENERATOR = "prunelab_generator"
"""The name of the ``Generator`` inside a convolution, which ignores it."""


class Generator(nn.Module):
    """The weight of one convolution: ``W(e) = scale (M relu(A e + a) + b)``, of full size.

    ``scale`` is a constant that gives W(1) the deviation ``sqrt(2 / fan-in)``. It changes nothing in front of a batch
    normalisation, and makes layers without one trainable.

    Args:
        shape: of the weight.
        inputs: the length of the encoding e.
        hidden: the number of hidden units.
    """

    scale: Tensor

    def __init__(self, shape: torch.Size, inputs: int, hidden: int) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.first, self.second = nn.Linear(inputs, hidden), nn.Linear(hidden, math.prod(shape))
        self.register_buffer("scale", torch.ones(()))
        with torch.no_grad():
            deviation = self(torch.ones(inputs)).std(unbiased=False)
            self.scale.copy_(math.sqrt(2 / math.prod(self.shape[1:])) / deviation.clamp(min=1e-6))

    def forward(self, encoding: Tensor) -> Tensor:
        weight: Tensor = self.second(functional.relu(self.first(encoding)))
        return self.scale * weight.view(self.shape)


class PruningNet:
    """The generators of all convolutions whose channels belong to a group of the context.

    While a network learns, generators are parts of its convolutions: optimizer, checkpoints and DDP treat them as any
    parameters. The weights of these convolutions, and scale and shift of batch normalisations (set to 1 and 0), are not
    trained. ``detach`` makes the network an ordinary one again; generators are then kept here.

    Args:
        context: the network and its groups.
        hidden: hidden units of a generator.

    Attributes:
        supernet: the network at any widths; each group keeps its first channels.
        encodings: for each generated weight the groups whose widths, as fractions of their sizes, are its encoding.

    Raises:
        UserError: no convolution has channels of the groups.
    """

    def __init__(self, context: PruningContext, hidden: int) -> None:
        self.context = context
        self.supernet = Supernet.first_channels(context)
        self.sizes = {group.name: group.size for group in context.graph.groups}
        self.encodings = encodings(context.model, context.graph, list(self.supernet.space.choices))
        if not self.encodings:
            raise UserError(
                f"{context.method} generates weights of convolutions, but no convolution of {context.name} has "
                "channels that may be pruned."
            )
        self.generators: dict[str, Generator] = {}
        self._frozen: list[nn.Parameter] = []
        parameters = dict(context.model.named_parameters())
        for name, groups in self.encodings.items():
            weight = parameters[name]
            generator = Generator(weight.shape, len(groups), hidden).to(weight.device)
            context.model.get_submodule(name.rpartition(".")[0]).add_module(GENERATOR, generator)
            self.generators[name] = generator
            self._freeze(weight)
        for module in context.model.modules():
            if isinstance(module, _BatchNorm) and module.affine:
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
                self._freeze(module.weight)
                self._freeze(module.bias)

    def _freeze(self, parameter: nn.Parameter) -> None:
        if parameter.requires_grad:
            parameter.requires_grad_(False)
            self._frozen.append(parameter)

    def weights(self, widths: Mapping[str, int]) -> dict[str, Tensor]:
        """The generated weights, of full size, for a network of these widths (groups not named: full)."""
        found = {}
        for name, groups in self.encodings.items():
            ratios = [widths.get(group, self.sizes[group]) / self.sizes[group] for group in groups]
            generator = self.generators[name]
            found[name] = generator(torch.tensor(ratios, device=generator.scale.device))
        return found

    @contextmanager
    def at(self, row: Widths) -> Iterator[nn.Module]:
        """Context in which the network has these widths (groups of the graph,) and weights generated for them."""
        weights = self.weights(dict(zip(self.sizes, row.tolist(), strict=True)))
        with self.supernet.sliced.at(row.tolist(), tensors=weights) as model:
            yield model

    @torch.no_grad()
    def cropped(self, plan: PruningPlan) -> dict[str, Tensor]:
        """The weights generated for the widths of ``plan``, at the positions that it keeps."""
        cuts = plan.cuts_by_tensor()
        found = {}
        for name, weight in self.weights({name: width for name, (_, width) in plan.widths.items()}).items():
            for cut in cuts.get(name, ()):
                weight = weight.index_select(cut.dim, torch.tensor(cut.indices, device=weight.device))
            found[name] = weight
        return found

    def settle(self) -> None:
        """Write the weights of the full widths into the network, and measure its BatchNorm statistics on the
        calibration images."""
        model = self.context.model
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, weight in self.weights({}).items():
                parameters[name].copy_(weight)
        flags = {module: module.training for module in model.modules()}
        device = next(model.parameters()).device
        adapt_batch_norm(model, [images.to(device) for images in calibration_images(self.context)])
        for module, training in flags.items():
            module.training = training

    def detach(self) -> None:
        """Make the network an ordinary one again."""
        for name in self.generators:
            self.context.model.get_submodule(name.rpartition(".")[0])._modules.pop(GENERATOR, None)
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        self._frozen = []

    def to(self, device: torch.device) -> None:
        """Move the detached generators."""
        for generator in self.generators.values():
            generator.to(device)


def encodings(model: nn.Module, graph: ChannelGraph, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """For each weight of a convolution the groups among ``names`` whose widths encode it, in forward order.

    A convolution in a residual block (the module that adds the shortcut) has the groups of all tensors of the block,
    for a bottleneck those of its input, its inner layers and its output; another one has the groups of its own weight.
    Convolutions without such a group are left out.
    """
    blocks = sorted({f"{each.module}." for each in graph.additions if each.module}, key=len, reverse=True)
    tensors = {
        group.name: {part.parameter for part in group.slices} for group in graph.groups if group.name in names
    }
    weights = {id(tensor): name for name, tensor in model.named_parameters()}
    found = {}
    for module in model.modules():
        weight = module._parameters.get("weight")
        if not isinstance(module, nn.Conv1d | nn.Conv2d) or weight is None:
            continue
        name = weights[id(weight)]
        if name in graph.unused_parameters or not any(name in own for own in tensors.values()):
            continue
        scope = next((block for block in blocks if name.startswith(block)), name)
        found[name] = tuple(
            group for group, own in tensors.items() if any(tensor.startswith(scope) for tensor in own)
        )
    return found
