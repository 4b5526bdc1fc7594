"""Learning filter pruning criteria: the criterion of each layer is learned from a validation loss.

He, Ding, Liu, Zhu, Zhang, Yang: Learning Filter Pruning Criteria for Deep Convolutional Neural Networks Acceleration,
CVPR 2020, section 3. No official code was published; our choices where the paper is open are listed below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.calibration import Source
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import Criterion
from prunelab.methods.importance.fpgm import FPGM
from prunelab.methods.importance.l1 import L1Norm
from prunelab.methods.importance.l2 import L2Norm
from prunelab.methods.learning.gates import Gates
from prunelab.methods.learning.method import LearningMethod, TrainingMode
from prunelab.methods.learning.sampler import Sampler
from prunelab.methods.learning.targets import require_fraction, uniform_widths
from prunelab.methods.untouched import untouched
from prunelab.structure import PruningPlan


class LFPC(LearningMethod):
    """Each group chooses one of several criteria by logits a (criteria,), which minimise a validation loss.

    The mask m_k (channels,) of criterion k is 1 for the ``keep`` best channels by its scores and 0 for the others.
    While the network trains, each forward pass multiplies the channels of every group by sum_k p_k m_k, with p =
    softmax((log softmax(a) + g) / tau) and g ~ Gumbel(0, 1) drawn anew for each step. After each optimizer step, which
    trains only the weights, Adam updates a with the gradient of the loss on a batch of held-out images, for all groups
    at once. tau falls linearly from ``first_temperature`` to ``last_temperature``. In evaluation a group uses its best
    criterion. At the end each group is pruned by the scores of this criterion.

    Differences from the paper, and our choices where it is open: groups are pruned physically, so the producers of a
    stage share one decision (the paper masks each convolution separately); masks scale the weights that read the
    channel; they are updated once per epoch; the mixture is soft; optimizer and temperatures of the sampler are those
    of a similar search by authors of the same group (Dong and Yang: TAS, NeurIPS 2019). Held-out images are processed
    in evaluation mode.

    Args:
        budget: how much to keep.
        criteria: the criteria from which groups choose; they must read only weights.
        keep: the fraction of each group's channels that masks keep; None: the equal fraction for all groups that meets
            the budget. The plan meets the budget in both cases.
        sampler_lr, sampler_weight_decay: those of Adam, which updates the logits.
        first_temperature, last_temperature: tau at the beginning and at the end.
        allocation: see ``Allocation``; "uniform" as in the paper.
        settings: those of ``LearningMethod``. At most ``validation_images`` of the held-out images are used.

    Logs learning/held_out_loss: the mean of the sampler's loss over the epoch; learning/certainty: the probability of
    the chosen criterion, averaged over groups; learning/overlap: |A and B| / |A or B| of the channels that two criteria
    remove, averaged over pairs and groups (at 1 all criteria agree); learning/chosen_<criterion>: the fraction of
    groups that choose it; learning/temperature: tau.

    Raises:
        UserError: a setting out of range, a criterion that reads images, level block.

    Example:
        >>> method = prunelab.LFPC(prunelab.Budget(flops=0.5), epochs=2)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'LFPC'
    """

    origin: ClassVar[Origin] = Origin(
        "He et al., Learning Filter Pruning Criteria, CVPR 2020",
        "https://openaccess.thecvf.com/content_CVPR_2020/html/He_Learning_Filter_Pruning_Criteria_for_Deep_"
        "Convolutional_Neural_Networks_Acceleration_CVPR_2020_paper.html",
        ours="training, temperatures",
    )
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")
    eager: ClassVar[bool] = True
    decides_untrained: ClassVar[bool] = False
    training_mode: ClassVar[TrainingMode] = "network"

    def __init__(
        self,
        budget: Budget,
        criteria: Sequence[Criterion] | None = None,
        keep: float | None = None,
        sampler_lr: float = 1e-3,
        sampler_weight_decay: float = 1e-3,
        first_temperature: float = 5.0,
        last_temperature: float = 0.1,
        allocation: str = "uniform",
        **settings: Any,
    ) -> None:
        super().__init__(budget, allocation=allocation, **settings)
        self.criteria = tuple(criteria) if criteria is not None else (L1Norm(), L2Norm(), FPGM())
        _check_criteria(self.criteria)
        require_fraction("keep", keep)
        if sampler_lr <= 0 or sampler_weight_decay < 0:
            raise UserError(
                f"sampler_lr={sampler_lr}, sampler_weight_decay={sampler_weight_decay}: "
                "the rate of Adam must be above 0, its decay 0 or more."
            )
        if not 0 < last_temperature <= first_temperature:
            raise UserError(
                f"first_temperature={first_temperature}, last_temperature={last_temperature}: "
                "temperatures must be above 0 and fall."
            )
        self.keep = keep
        self.sampler_lr, self.sampler_weight_decay = sampler_lr, sampler_weight_decay
        self.first_temperature, self.last_temperature = first_temperature, last_temperature
        self._search: _Search | None = None
        self._chosen: dict[str, int] = {}

    @property
    def about(self) -> About:
        return replace(super().about, reads="weights as they train, held-out loss")

    @property
    def reads_validation(self) -> bool:
        return True

    @property
    def temperature(self) -> float:
        """The present tau."""
        return self.first_temperature + (self.last_temperature - self.first_temperature) * self.progress

    def prepare(self, context: PruningContext) -> None:
        context.held_out_images()  # raises UserError if there are none
        names = list(self.criteria[0].score(context).channels)
        sampler = Sampler(
            len(names), len(self.criteria), self.sampler_lr, self.sampler_weight_decay, self.seed
        )
        self._chosen = {}
        self._search = _Search(
            context, self.criteria, names, uniform_widths(context, self.keep), sampler, self._weights
        )

    def after_step(self, context: PruningContext, rates: Mapping[Tensor, float]) -> None:
        assert self._search is not None
        self._search.learn(self._search.sampler.draw(self.temperature, 2 * self.step + 1))

    def after_epoch(self, context: PruningContext) -> None:
        assert self._search is not None
        self._search.renew()

    def watch(self, context: PruningContext) -> dict[str, float]:
        assert self._search is not None
        best = self._search.sampler.best()
        figures = {
            "held_out_loss": self._search.mean_loss(),
            "certainty": float(self._search.sampler.probabilities().max(dim=1).values.mean()),
            "overlap": self._search.overlap(),
            "temperature": self.temperature,
        }
        for number, criterion in enumerate(self.criteria):
            name = f"chosen_{type(criterion).__name__.lower()}"
            figures[name] = figures.get(name, 0.0) + float((best == number).float().mean())
        return figures

    def finish(self, context: PruningContext) -> None:
        if self._search is not None:
            self._chosen = dict(zip(self._search.names, self._search.sampler.best().tolist(), strict=True))
            self._search.close()
            self._search = None

    def decide(self, context: PruningContext) -> PruningPlan:
        if not self._chosen:
            raise UserError("LFPC prunes by learned criteria: it needs a learning fit first.")
        scores = [criterion.score(context).channels for criterion in self.criteria]
        return keep_best(
            context, Scores({name: scores[number][name] for name, number in self._chosen.items()})
        )

    def state_dict(self) -> dict[str, Any]:
        return {} if self._search is None else self._search.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._search is not None and state_dict:
            self._search.sampler.load_state_dict(state_dict)

    def _weights(self, training: bool) -> Tensor:
        """The weight of each criterion in a forward pass: (groups, criteria)."""
        assert self._search is not None
        sampler = self._search.sampler
        if training:
            return sampler.draw(self.temperature, 2 * self.step).detach()
        return nn.functional.one_hot(sampler.best(), len(self.criteria)).float()


class _Search:
    """The network with its masks while criteria are chosen.

    ``weights(training)`` gives the weight of each criterion in a pass outside of the sampler.
    """

    def __init__(
        self,
        context: PruningContext,
        criteria: Sequence[Criterion],
        names: Sequence[str],
        widths: Mapping[str, int],
        sampler: Sampler,
        weights: Callable[[bool], Tensor],
    ) -> None:
        self.context, self.criteria, self.names, self.widths = context, criteria, names, widths
        self.sampler = sampler
        self._weights = weights
        self._own: Tensor | None = None
        self._masks: dict[str, Tensor] = {}
        self._losses: list[float] = []
        self._held_out: Iterator[Source] = iter(())
        self._gates = Gates(context.model, [group for group in context.groups if group.name in set(names)])
        self._handle = context.model.register_forward_pre_hook(lambda *_: self._set_gates())

    def learn(self, drawn: Tensor) -> None:
        """One step of the sampler with this draw (groups, criteria); weights are not changed."""
        model = self.context.model
        device = next(model.parameters()).device
        with untouched(model, device, self.context.seed):
            batch = self._next_batch(device)
            loss = None
            if batch is not None:
                self._own = drawn
                try:
                    images, targets, source = batch
                    loss = self.context.loss_of(model(images), targets, source)
                finally:
                    self._own = None
            self._losses.append(self.sampler.descend(loss))

    def renew(self) -> None:
        """At the end of an epoch, update the masks from the weights and restart the held-out images."""
        self._masks = {}
        self._held_out = iter(())

    def mean_loss(self) -> float:
        """The mean loss of the sampler since the last call."""
        losses, self._losses = self._losses, []
        return float(np.mean(losses)) if losses else float("nan")

    def overlap(self) -> float:
        """The similarity of criteria: |A and B| / |A or B| of the channels that two of them remove, averaged over
        pairs."""
        found = []
        for masks in self._current_masks().values():
            removed = 1 - masks
            for one, other in combinations(removed, 2):
                union = float(torch.maximum(one, other).sum())
                found.append(float((one * other).sum()) / union if union else 1.0)
        return float(np.mean(found)) if found else 1.0

    def close(self) -> None:
        """Make the network an ordinary one again."""
        self._handle.remove()
        self._gates.remove()

    def _set_gates(self) -> None:
        model = self.context.model
        device = next(model.parameters()).device
        weights = self._weights(model.training) if self._own is None else self._own
        masks = self._current_masks()
        for number, name in enumerate(self.names):
            first, *_ = found = masks[name]  # where all criteria agree, the gradient is exactly zero
            self._gates.set(name, (first + weights[number] @ (found - first)).to(device))

    def _current_masks(self) -> dict[str, Tensor]:
        """For each group the masks (criteria, size) of 0 and 1, from the weights at the end of the epoch."""
        if not self._masks:
            scores = [criterion.score(self.context) for criterion in self.criteria]
            for name in self.names:
                masks = torch.zeros(len(scores), len(scores[0].channels[name]))
                for mask, found in zip(masks, scores, strict=True):
                    mask[found.removal_order(name)[::-1][: self.widths[name]].copy()] = 1.0
                self._masks[name] = masks
        return self._masks

    def _next_batch(self, device: torch.device) -> Source | None:
        """The next held-out images of this rank, cyclically; None if it has none."""
        batch = next(self._held_out, None)
        if batch is None:
            self._held_out = self.context.held_out_images().with_source(device)
            batch = next(self._held_out, None)
        return batch


def _check_criteria(criteria: Sequence[Criterion]) -> None:
    if len(criteria) < 2:
        raise UserError("LFPC chooses between criteria: give at least two, such as L1Norm and FPGM.")
    for criterion in criteria:
        if criterion.reads != "weights":
            raise UserError(
                f"{type(criterion).__name__} reads {criterion.reads}; LFPC scores weights after each epoch: choose "
                "criteria that read weights, such as L1Norm, L2Norm or FPGM."
            )
