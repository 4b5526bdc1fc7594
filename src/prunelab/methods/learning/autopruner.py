"""AutoPruner: a layer after each group computes a code from its activations that selects channels and becomes binary.

Luo, Wu: AutoPruner: An End-to-End Trainable Filter Pruning Method for Efficient Deep Model Inference, Pattern
Recognition 107 (2020), arXiv:1805.08941, equations 1 to 4; the schedule is that of the newest official code
(github.com/Roll920/AutoPruner, MobileNetv2), which prunes all layers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import warn_not_pruned
from prunelab.methods.learning.codes import CodeLayer
from prunelab.methods.learning.gates import Gates
from prunelab.methods.learning.method import LearningMethod, TrainingMode
from prunelab.methods.learning.targets import require_fraction, uniform_widths
from prunelab.methods.untouched import run_example
from prunelab.structure import GroupHookPoint, HookPoint, PruningPlan, channels_first, observe

Observer = Callable[[Tensor, int], None]
SETTLED, ENOUGH = 0.1, 0.9
"""Codes within 0.1 of 0 or 1 are settled; a layer is settled if 0.9 of its codes are."""
LAST = 0.8
"""The fraction of learning after which alpha rises faster if codes are unsettled: the last of the official five
epochs."""


class AutoPruner(LearningMethod):
    """Codes v = sigmoid(alpha z(A)) in (0, 1), one for each channel, multiply the channels while the network trains.

    A are the activations (N, channels, H, W) that the next layer reads. They are averaged over the batch and max-pooled
    2 x 2 (if H or W is above 7); a full-size convolution computes z (channels,) from them, see ``CodeLayer``. The
    objective is loss + strength x sum over groups of (||v||_1 / channels - keep)^2. alpha rises linearly from
    ``first_scale`` to ``last_scale``, until the codes are almost binary; in the last fifth of learning it rises eleven
    times as fast while in some layer less than 90 % of the codes are within 0.1 of 0 or 1. In evaluation a channel is
    multiplied by 1 if the mean of z over the last ``window`` batches is above 0 (v > 0.5), else by 0. This mean is its
    score.

    Differences from the official code: its version of 2018 (ResNet-50, VGG-16) prunes groups of layers in turn, and
    adapts lambda and alpha layer by layer; here both are those of the newer version. The newer version also scales
    channels before a depthwise convolution, so that a channel there is scaled twice; here once. The budget replaces the
    hand-set fraction (``keep``). Codes scale the weights that read a channel, which is the same as scaling the channel
    but also works for a stage: its code is computed where the stage is read first, and is used for all readers (the
    official code does not prune stages). With several processes a code is that of all images of a step; the official
    one has a code on each device. Maps are pooled further where a code layer would have more than ``largest_layer``
    weights. The mean of z decides; the code of 2018 uses a majority of signs over 20 batches, the newer one the last
    batch. At the end of learning, weights that read a channel whose code is 0 are set to zero. The number of channels
    differs from its target by about one; further channels that the budget requires are those of smallest z, whose
    removal reduces the accuracy until the recovery.

    Args:
        budget: how much to keep.
        keep: r, the target fraction of each group's channels; None: the equal fraction for all groups that meets the
            budget. The plan meets the budget in both cases.
        strength: lambda.
        first_scale, last_scale: alpha at the beginning and at the end.
        window: number of batches over which z is averaged for the score.
        largest_layer: limit on the weights of a code layer.
        settings: those of ``LearningMethod``. With ``allocation="global"`` (the default) channels whose codes are 0 are
            removed before all others, in any group; "uniform" keeps the target fraction in every group.

    Logs learning/kept: the fraction of channels that are used in evaluation; learning/settled: the fraction of codes
    within 0.1 of 0 or 1 in the last batch; learning/code_p10, _p50, _p90: percentiles of the codes; learning/scale:
    alpha.

    Raises:
        UserError: a setting out of range; level block.

    Example:
        >>> method = prunelab.AutoPruner(prunelab.Budget(flops=0.5))
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'AutoPruner'
    """

    origin: ClassVar[Origin] = Origin(
        "Luo and Wu, AutoPruner, Pattern Recognition 2020",
        "https://arxiv.org/abs/1805.08941",
        code="Roll920/AutoPruner",
        ours="training on CIFAR",
    )
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")
    eager: ClassVar[bool] = True
    decides_untrained: ClassVar[bool] = False
    training_mode: ClassVar[TrainingMode] = "network"

    def __init__(
        self,
        budget: Budget,
        keep: float | None = None,
        strength: float = 10.0,
        first_scale: float = 0.1,
        last_scale: float = 100.0,
        window: int = 20,
        largest_layer: int = 2**24,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        require_fraction("keep", keep)
        if strength < 0:
            raise UserError(f"strength={strength} would drive codes away from their target: use 0 or more.")
        if not 0 < first_scale <= last_scale:
            raise UserError(
                f"first_scale={first_scale}, last_scale={last_scale}: "
                "the scale of codes must be above 0 and must not fall."
            )
        if window < 1:
            raise UserError(f"window={window}: a score needs at least one batch.")
        self.keep = keep
        self.strength = strength
        self.first_scale, self.last_scale = first_scale, last_scale
        self.window = window
        self.largest_layer = largest_layer
        self._codes: dict[str, CodeLayer] = {}
        self._hooks = ExitStack()
        self._extra_steps = 0
        self._scores: dict[str, np.ndarray] = {}

    @property
    def about(self) -> About:
        return replace(super().about, reads="activations as it trains")

    def prepare(self, context: PruningContext) -> None:
        self._extra_steps, self._scores = 0, {}
        self._hooks = ExitStack()
        widths = uniform_widths(context, self.keep)
        gated = [group for group in context.groups if group.hook_points and group.having("consumer")]
        whole = [group.name for group in context.groups if group not in gated]
        warn_not_pruned(context, whole, "are not read by weights or cannot be observed")
        shapes = _map_shapes(context, {group.name: group.hook_points[0].hook_point for group in gated})
        torch.manual_seed(self.seed)
        self._codes = {
            group.name: CodeLayer(
                group.size,
                shapes[group.name],
                widths[group.name] / group.size,
                self.window,
                self.largest_layer,
            )
            for group in gated
        }
        gates = Gates(context.model, gated, self._codes)
        self._hooks.callback(lambda: gates.remove(self._binary()))
        observers: dict[HookPoint, list[Observer]] = {}
        for group in gated:
            found = group.hook_points[0]
            observers.setdefault(found.hook_point, []).append(
                self._observer(context, gates, group.name, found)
            )
        self._hooks.enter_context(
            observe(context.model, {hook_point: _all_of(each) for hook_point, each in observers.items()})
        )

    def before_step(self, context: PruningContext) -> None:
        unseen = [name for name, code in self._codes.items() if code.last is None]
        if unseen:
            raise UserError(
                f"AutoPruner received no activations of {', '.join(unseen)} in this step: training_step must call the "
                "network itself, not its forward method, and the network must be in training mode."
            )

    def after_step(self, context: PruningContext, rates: Any) -> None:
        if self.progress >= LAST and any(code.settled(SETTLED) <= ENOUGH for code in self._codes.values()):
            self._extra_steps += 10

    @property
    def scale(self) -> float:
        """The present alpha."""
        rise = self.last_scale - self.first_scale
        return self.first_scale + rise * (self.progress + self._extra_steps / max(1, self.steps))

    def watch(self, context: PruningContext) -> dict[str, float]:
        found = [code.last for code in self._codes.values() if code.last is not None]
        codes = torch.cat(found).float()  # the codes have the precision of training
        low, middle, high = torch.quantile(codes, codes.new_tensor([0.1, 0.5, 0.9])).tolist()
        settled = ((codes < SETTLED) | (codes > 1 - SETTLED)).float().mean()
        return {
            "kept": float(torch.cat(list(self._binary().values())).mean()),
            "settled": float(settled),
            "code_p10": low,
            "code_p50": middle,
            "code_p90": high,
            "scale": self.scale,
        }

    def finish(self, context: PruningContext) -> None:
        self._scores = {
            name: code.score().double().cpu().numpy() for name, code in self._codes.items() if code.seen
        }
        self._hooks.close()
        self._codes = {}

    def decide(self, context: PruningContext) -> PruningPlan:
        if not self._scores:
            raise UserError("AutoPruner decides by learned codes: it needs a learning fit first.")
        return keep_best(context, Scores(self._scores))

    def state_dict(self) -> dict[str, Any]:
        return {"extra_steps": self._extra_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._extra_steps = state_dict["extra_steps"]

    def _binary(self) -> dict[str, Tensor]:
        """For each group 1 for channels that are used and 0 for others; float (size,)."""
        return {name: code.binary() for name, code in self._codes.items()}

    def _observer(self, context: PruningContext, gates: Gates, name: str, found: GroupHookPoint) -> Observer:
        """Computes the code of a group from its activations during a forward pass."""
        positions = torch.from_numpy(found.positions)

        def observe_group(tensor: Tensor, dim: int) -> None:
            code = self._codes[name]
            if not context.model.training:
                gates.set(name, code.binary())
                return
            maps = channels_first(tensor, dim)[:, positions.to(tensor.device)].mean(dim=2)
            gates.set(name, code(maps, self.scale, self.strength * self.loss_scale))

        return observe_group


def _all_of(observers: list[Observer]) -> Observer:
    def each(tensor: Tensor, dim: int) -> None:
        for observer in observers:
            observer(tensor, dim)

    return each


def _map_shapes(context: PruningContext, hook_points: dict[str, HookPoint]) -> dict[str, tuple[int, int]]:
    """(H, W) of each observed tensor, from one pass of the example input; (positions, 1) if it is not a map."""
    seen: dict[HookPoint, tuple[int, int]] = {}

    def observer(hook_point: HookPoint) -> Observer:
        def note(tensor: Tensor, dim: int) -> None:
            spatial = channels_first(tensor, dim).shape[2:]
            seen[hook_point] = (
                (int(spatial[0]), int(spatial[1])) if len(spatial) == 2 else (spatial.numel(), 1)
            )

        return note

    with observe(context.model, {hook_point: observer(hook_point) for hook_point in hook_points.values()}):
        run_example(context)
    return {name: seen[hook_point] for name, hook_point in hook_points.items()}
