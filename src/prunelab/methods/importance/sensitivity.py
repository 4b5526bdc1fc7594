"""Dependence of the loss on the channels that each layer reads, from one forward and backward pass without labels.

The loss is the divergence from the network's present outputs; its curvature (Gauss-Newton = Fisher) is sampled. For
every layer that reads a prunable group the pass returns the Fisher information of each channel and, for ``obs``, the
moments of its inputs and of the gradient of its outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from prunelab.distributed.ranks import gather, on_all_ranks, sum_over_ranks
from prunelab.errors import UserError
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.finite_pass import finite_outputs
from prunelab.methods.importance.activations import calibration_batches
from prunelab.methods.importance.criterion import warn_not_pruned
from prunelab.methods.untouched import untouched
from prunelab.structure import ChannelGroup, HookPoint, observe
from prunelab.structure.layer_calls import Use, Watch, parameter_names

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.structure import ChannelGroup


IMAGES_AT_ONCE = 8
"""Number of images in one pass, whose activations and gradients are in memory."""


HELD_OUT = 4
"""One image in this many (the last) is held out from the fit of compensation."""


@dataclass
class Curvature:
    """Moments of the inputs of one layer and of the gradient of its outputs (sums, float64; G groups of a convolution).

    xx (2, G, D, D) and x (2, G, D): moments of its inputs at random positions, rows (2,) their number; first for three
    quarters of the images, then for the others (``HELD_OUT``). gg (G, O, O): moment of the gradient with respect to its
    outputs, summed over the positions of each image, for all images.
    """

    xx: Tensor
    x: Tensor
    gg: Tensor
    rows: Tensor

    @staticmethod
    def zeros(weight: Tensor, groups: int, device: torch.device) -> Curvature:
        """Sums that are zero, for a layer with this weight."""
        features, outputs = weight[0].numel(), len(weight) // groups
        shapes = ((2, groups, features, features), (2, groups, features), (groups, outputs, outputs), (2,))
        return Curvature(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def tensors(self) -> tuple[Tensor, ...]:
        """All sums."""
        return self.xx, self.x, self.gg, self.rows


@dataclass(frozen=True)
class Sensitivity:
    """Fisher information of channels and blocks, and the curvature of the requested layers."""

    scores: Scores
    layers: Mapping[str, Curvature] = field(default_factory=dict)


def measure_sensitivity(
    context: PruningContext, draws: int = 1, layers: Collection[str] = (), positions: int = 32
) -> Sensitivity:
    """Run the calibration images forward and backward once.

    ``layers``: names of weights whose ``Curvature`` is measured, at this number of ``positions`` of each image.

    Raises:
        UserError: there are no calibration images, or the network does not return class scores.
    """
    work = _Pass(context, draws, frozenset(layers), positions)
    images = on_all_ranks(work.run)
    seen = sum(gather(images))
    if seen == 0:
        raise UserError("The calibration loader holds no images to score with.")
    work.reduce()
    called = set().union(*gather(work.called))
    read = {group.name for group in context.groups if _is_read(group, called)}
    unread = [group.name for group in context.groups if group.name not in read]
    warn_not_pruned(context, unread, "are not read by convolutions and linear layers alone")
    count = 2 * seen * draws
    channels = {n: (found / count).cpu().numpy() for n, found in work.channels.items() if n in read}
    blocks = {name: float(found) / count for name, found in work.blocks.items()}
    return Sensitivity(Scores(channels, blocks), work.curvature)


class _Pass:
    """Accumulates over the calibration images of this rank."""

    def __init__(self, context: PruningContext, draws: int, layers: frozenset[str], positions: int) -> None:
        self._context, self._draws, self._layers, self._positions = context, draws, layers, positions
        self._names = parameter_names(context.model)
        self._readers = _readers(context)
        none = torch.zeros((), dtype=torch.float64, device=context.device)
        self.channels = {
            group.name: none.new_zeros(group.size)
            for group in context.groups
            if any(part.parameter in self._readers for part in group.having("consumer"))
        }
        self.blocks = {block.name: none.clone() for block in context.blocks if block.branch}
        self._hooks = {b.branch: b.name for b in context.blocks if b.branch}
        self.curvature: dict[str, Curvature] = {}
        for name in sorted(layers):
            weight = context.model.get_parameter(name)
            self.curvature[name] = Curvature.zeros(weight, self._groups(name), context.device)
        self.called: set[str] = set()
        self._change: dict[str, Tensor] = {}
        self._branch: dict[str, Tensor] = {}

    def _groups(self, name: str) -> int:
        module = self._context.model.get_submodule(name.rpartition(".")[0])
        return int(getattr(module, "groups", 1))

    def run(self) -> int:
        """Process all images of this rank; returns their number."""
        context, seen = self._context, 0
        observers: dict[HookPoint, Any] = {point: self._observer(name) for point, name in self._hooks.items()}
        with (
            untouched(context.model, context.device, context.seed),
            observe(context.model, observers),
            torch.enable_grad(),
        ):
            for images, _ in calibration_batches(context):
                # The same random numbers for every batch, so that they do not depend on the distribution of batches to
                # ranks.
                generator = torch.Generator().manual_seed(context.seed)
                for part in images.split(IMAGES_AT_ONCE):
                    self._look(part, generator)
                seen += len(images)
        return seen

    def _look(self, images: Tensor, generator: torch.Generator) -> None:
        """One forward pass and ``draws`` backward passes."""
        with Watch(self._names, self._entered, self._left):
            outputs = finite_outputs(self._context, images.detach().requires_grad_())
        _require_class_scores(outputs)
        for draw in range(self._draws):
            direction = random_direction(outputs.detach(), generator)
            self._backward((outputs * direction).sum(), keep=draw + 1 < self._draws)

    def _backward(self, loss: Tensor, keep: bool) -> None:
        self._change.clear()
        self._branch.clear()
        loss.backward(retain_graph=keep)
        for name, change in self._change.items():
            self.channels[name] += change.square().sum(dim=0)
        for name, change in self._branch.items():
            self.blocks[name] += change.square().sum()

    def _entered(self, name: str, use: Use) -> Tensor | None:
        if name not in self._readers:
            return None
        self.called.add(name)
        if name in self._layers:
            inputs = use.inputs(use.chosen(self._positions, self._context.seed)).detach().double()
            inputs = inputs.reshape(len(inputs), len(use.images), -1, inputs.shape[2])
            sums = self.curvature[name]
            held_out = torch.arange(len(use.images)) % HELD_OUT == HELD_OUT - 1
            for part, chosen in enumerate((~held_out, held_out)):
                own = inputs[:, chosen].flatten(1, 2)
                sums.xx[part] += own.mT @ own
                sums.x[part] += own.sum(dim=1)
                sums.rows[part] += own.shape[1]
        given = use.given
        alias = given.view_as(given)  # its gradient is that through this layer alone
        if alias.requires_grad:
            activation = given.detach().clone() if given._version else given.detach()
            alias.register_hook(lambda gradient: self._note(name, use, activation, gradient))
        return alias

    def _note(self, name: str, use: Use, activation: Tensor, gradient: Tensor) -> None:
        product = (activation * gradient).detach()
        if use.linear:
            flat = product.reshape(len(product), -1, product.shape[-1]).sum(dim=1)
        else:
            flat = product.flatten(2).sum(dim=2)
        by_input = flat.double().reshape(len(flat), use.groups, -1).sum(dim=1)
        for group, index in self._readers[name]:
            change = by_input[:, index].sum(dim=2)
            self._change[group] = self._change.get(group, 0) + change

    def _left(self, name: str, out: Tensor) -> None:
        if name in self._layers and out.requires_grad:
            out.register_hook(lambda gradient: self._note_gradient(name, gradient))

    def _note_gradient(self, name: str, gradient: Tensor) -> None:
        linear = self._context.model.get_parameter(name).dim() == 2
        summed = (
            gradient.reshape(len(gradient), -1, gradient.shape[-1]).sum(1)
            if linear
            else gradient.flatten(2).sum(2)
        )
        groups = len(self.curvature[name].gg)
        rows = summed.double().reshape(len(summed), groups, -1).movedim(1, 0)
        self.curvature[name].gg += rows.mT @ rows

    def _observer(self, block: str) -> Any:
        def note(tensor: Tensor, dim: int) -> None:
            activation = tensor.detach().clone()

            def hook(gradient: Tensor) -> None:
                change = (activation * gradient).flatten(1).sum(dim=1).double()
                self._branch[block] = self._branch.get(block, 0) + change

            if tensor.requires_grad:
                tensor.register_hook(hook)

        return note

    def reduce(self) -> None:
        """Replace the sums of this rank by those of all ranks."""
        for name in self.channels:
            sum_over_ranks(self.channels[name])
        for name in self.blocks:
            sum_over_ranks(self.blocks[name])
        for found in self.curvature.values():
            for tensor in found.tensors():
                sum_over_ranks(tensor)


def require_draws(draws: int) -> None:
    """Raises UserError for less than one random direction."""
    if draws < 1:
        raise UserError(f"draws={draws}: at least one random direction for each image is needed.")


def random_direction(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Random vectors v (N, classes) with the second moment E[v v^T] = diag(p) - p p^T, p the softmax of the outputs.

    That is the Hessian of the cross entropy with respect to the outputs, and the second moment of its gradient if
    classes are drawn from p. Gaussian vectors have a much smaller variance than drawn classes: for p near (1, 0, ...)
    nearly every drawn class has a gradient near 0.
    """
    likely = outputs.double().softmax(dim=1)
    noise = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs.device)
    root = likely.sqrt()
    return (root * noise - likely * (root * noise).sum(dim=1, keepdim=True)).to(outputs)


def _is_read(group: ChannelGroup, called: Collection[str]) -> bool:
    """Whether the group has readers, all of them layers that were called with a weight of their own."""
    parts = group.having("consumer")
    return bool(parts) and all(part.dim == 1 and part.parameter in called for part in parts)


def _readers(context: PruningContext) -> dict[str, list[tuple[str, Tensor]]]:
    """For each layer that reads prunable groups: the groups, and the inputs (channels, m) that belong to each
    channel."""
    found: dict[str, list[tuple[str, Tensor]]] = {}
    for group in context.groups:
        for part in group.having("consumer"):
            if part.dim == 1:
                index = torch.from_numpy(part.index).to(context.device)
                found.setdefault(part.parameter, []).append((group.name, index))
    return found


def _require_class_scores(outputs: Any) -> None:
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        given = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UserError(
            f"Fisher information needs class scores (N, classes), but the network returns {given}."
        )
