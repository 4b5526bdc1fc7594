"""Change of the predictions when a channel is missing.

Luo, Wu: Neural Network Pruning with Residual-Connections and Limited-Data, CVPR 2020, arXiv:1911.08114, section
3.2. The softmax outputs are compared, as in the authors' code (Roll920/CURL). That code overwrites the score with every
batch of a larger proxy set; here the score is the mean over all images. The paper sorts the scores of all layers
together (``normalisation: none``), keeps 30 % of every layer (``min_keep``) and never prunes the last stage.

One forward pass computes masked copies of many images and channels; it starts at the layer that reads the group first
(``prefix.py``). An image on which a channel is already zero needs no copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prunelab.distributed.ranks import gather, on_all_ranks
from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.candidate_widths import Normalisation
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.finite_pass import finite_outputs
from prunelab.methods.importance.activations import calibration_batches
from prunelab.methods.importance.criterion import Criterion, Reads, warn_not_pruned
from prunelab.methods.importance.prefix import record_outputs, record_schedule
from prunelab.methods.untouched import untouched
from prunelab.structure import HookPoint, channels_first, observe

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.structure import ChannelGroup, ResidualBlock

_CACHED_VALUES = 1 << 27  # module outputs kept for a part of a batch: 512 MB in float32

Unit = Mapping[HookPoint, np.ndarray]
"""Channels that are masked together: their positions (channels, m) along the channel dimension of each hook point."""


@dataclass(frozen=True)
class CURL(Criterion):
    """s_j = mean over images of KL(q || p), p the softmax of the outputs, q that without channel j.

    A channel of a stage is masked everywhere at once: after every block that writes the stage. A block is masked by
    setting its branch to zero.

    Args:
        reduction: has no effect.
        proxy_images: number of calibration images that are used.
        copies: number of masked copies of images in one forward pass.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ImportanceMethod(prunelab.CURL(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    reads: ClassVar[Reads] = "activations"
    origin: ClassVar[Origin] = Origin(
        "Luo and Wu, CURL, CVPR 2020", "https://arxiv.org/abs/1911.08114", code="Roll920/CURL"
    )
    normalisation: ClassVar[Normalisation] = "none"

    proxy_images: int = 256
    copies: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("proxy_images", "copies"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: use 1 or more.")

    @property
    def about(self) -> About:
        return replace(super().about, cost="one forward pass for each channel, from that channel on")

    def score(self, context: PruningContext) -> Scores:
        groups = [group for group in context.groups if group.hook_points]
        blocks = [block for block in context.blocks if block.branch]
        warn_not_pruned(
            context,
            [group.name for group in context.groups if not group.hook_points],
            "can be observed nowhere",
        )
        units = [_group_unit(group) for group in groups] + [_block_unit(block) for block in blocks]
        calibration = context.images()
        proxy = replace(calibration, images=min(self.proxy_images, calibration.images))
        means = _mean_divergences(replace(context, calibration=proxy), units, self.copies)
        of_groups, of_blocks = means[: len(groups)], means[len(groups) :]
        return Scores(
            {group.name: mean for group, mean in zip(groups, of_groups, strict=True)},
            {block.name: float(mean[0]) for block, mean in zip(blocks, of_blocks, strict=True)},
        )


def _group_unit(group: ChannelGroup) -> Unit:
    positions: dict[HookPoint, list[np.ndarray]] = {}
    for found in group.hook_points:
        positions.setdefault(found.hook_point, []).append(found.positions)
    return {hook_point: np.concatenate(parts, axis=1) for hook_point, parts in positions.items()}


def _block_unit(block: ResidualBlock) -> Unit:
    """The whole branch counts as one channel."""
    assert block.branch is not None
    return {block.branch: np.arange(block.branch.width)[None]}


def _mean_divergences(context: PruningContext, units: Sequence[Unit], copies: int) -> list[np.ndarray]:
    """KL(masked || original) of each unit, (channels,), averaged over the images of all ranks."""
    found = gather(on_all_ranks(lambda: _summed_divergences(context, units, copies)))
    images = sum(count for _, count in found)
    if images == 0:
        raise UserError("The calibration loader holds no images to score with.")
    return [sum(sums[i] for sums, _ in found) / images for i in range(len(units))]


def _summed_divergences(
    context: PruningContext, units: Sequence[Unit], copies: int
) -> tuple[list[np.ndarray], int]:
    """The sums over the images of this rank, and the number of these images."""
    sums = [torch.zeros(_channels(unit), dtype=torch.float64, device=context.device) for unit in units]
    seen = 0
    masking = None
    with untouched(context.model, context.device, context.seed), torch.no_grad(), _precise(context):
        for images, _ in calibration_batches(context):
            images = images.to(_precision(context))
            masking = masking or _Masking(context, units, images, copies)
            for part in images.split(masking.images_at_once):
                masking.add_divergences(part, sums)
            seen += len(images)
    return [total.cpu().numpy() for total in sums], seen


def _precision(context: PruningContext) -> torch.dtype:
    """The precision of the forward passes: float64 on CPUs, where it takes about twice as long as float32.

    The divergence of a channel is a small difference of outputs: in float32 exact copies of a channel differ by up to
    1e-4 of the largest score, which makes their order depend on the machine.
    """
    given = next((each.dtype for each in context.model.parameters()), torch.float32)
    return torch.float64 if context.device.type == "cpu" and given == torch.float32 else given


@contextmanager
def _precise(context: PruningContext) -> Iterator[None]:
    """Context in which the network computes with ``_precision``; the conversion of float32 weights to float64 is
    exact."""
    tensors = [*context.model.parameters(), *context.model.buffers()]
    changed = [(each, each.data) for each in tensors if each.dtype == torch.float32]
    precision = _precision(context)
    try:
        for each, data in changed:
            each.data = data.to(precision)
        yield
    finally:
        for each, data in changed:
            each.data = data


class _Masking:
    """Runs masked copies of images through one network."""

    def __init__(self, context: PruningContext, units: Sequence[Unit], images: Tensor, copies: int) -> None:
        self._context, self._model, self._units, self._copies = context, context.model, units, copies
        self._taps = {hook_point for unit in units for hook_point in unit}
        schedule = record_schedule(self._model, images, self._taps)
        self._prefixes = [schedule.before(unit) for unit in units]
        self._read = {path for prefix in self._prefixes for path in prefix.read}
        values = sum(schedule.outputs[path].numel() for path in self._read)
        self.images_at_once = max(1, _CACHED_VALUES // max(values, 1))

    def add_divergences(self, images: Tensor, sums: Sequence[Tensor]) -> None:
        """Add the divergences of every unit, summed over these images, to ``sums``."""
        nonzero: dict[HookPoint, Tensor] = {}
        observers = {hook_point: _nonzero_channels(nonzero, hook_point) for hook_point in self._taps}
        with record_outputs(self._model, self._read) as outputs, observe(self._model, observers):
            original = _log_probabilities(finite_outputs(self._context, images))
        for unit, prefix, total in zip(self._units, self._prefixes, sums, strict=True):
            alive = torch.stack(
                [nonzero[hook_point][:, positions].any(dim=2) for hook_point, positions in unit.items()]
            )
            pairs = alive.any(dim=0).nonzero()  # (image, channel); all other copies would equal their image
            if not len(pairs):
                continue
            mask = _Mask(unit)
            with prefix.skipped(self._model, outputs) as choose, observe(self._model, mask.observers()):
                for rows, channels in zip(*(part.split(self._copies) for part in pairs.T), strict=True):
                    choose(rows)
                    mask.channels = channels
                    masked = _log_probabilities(self._model(images.index_select(0, rows)))
                    total.index_add_(0, channels, _divergence(masked, original.index_select(0, rows)))


class _Mask:
    """Sets channel ``channels[i]`` of a unit to zero in row i of every tapped tensor."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self.channels = torch.zeros(0, dtype=torch.int64)

    def observers(self) -> dict[HookPoint, Callable[[Tensor, int], None]]:
        return {
            hook_point: self._observer(torch.from_numpy(positions))
            for hook_point, positions in self._unit.items()
        }

    def _observer(self, positions: Tensor) -> Callable[[Tensor, int], None]:
        def zero(tensor: Tensor, dim: int) -> None:
            columns = positions.to(tensor.device)[self.channels]
            rows = torch.arange(len(columns), device=tensor.device)[:, None]
            channels_first(tensor, dim)[rows, columns] = 0  # in place: the network continues with this tensor

        return zero


def _nonzero_channels(found: dict[HookPoint, Tensor], hook_point: HookPoint) -> Callable[[Tensor, int], None]:
    """Records which (image, channel) of a hook point are not zero everywhere."""

    def note(tensor: Tensor, dim: int) -> None:
        nonzero = channels_first(tensor, dim) != 0
        found[hook_point] = nonzero.reshape(*nonzero.shape[:2], -1).any(dim=2)

    return note


def _log_probabilities(outputs: Any) -> Tensor:
    """log softmax (N, classes) of outputs, in float64."""
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        given = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UserError(
            f"CURL compares the class scores (N, classes) of a network, but this network returns {given}."
        )
    return functional.log_softmax(outputs.double(), dim=1)


def _divergence(masked: Tensor, original: Tensor) -> Tensor:
    """KL(masked || original) (N,) of log probabilities (N, classes)."""
    return (masked.exp() * (masked - original)).sum(dim=1)


def _channels(unit: Unit) -> int:
    return len(next(iter(unit.values())))
