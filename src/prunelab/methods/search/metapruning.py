"""MetaPruning: a hypernetwork that generates weights for any widths is trained, then widths evolve.

Liu, Mu, Zhang, Guo, Yang, Cheng, Sun: MetaPruning: Meta Learning for Automatic Neural Network Channel Pruning,
ICCV 2019, arXiv:1903.10258. Compared with the official code (github.com/liuzechun/MetaPruning).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prunelab.distributed.ranks import gather
from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.feasibility import require_within_reach
from prunelab.methods.calibration import Batch
from prunelab.methods.context import PruningContext
from prunelab.methods.learning.method import Forward, LearningMethod, TrainingMode
from prunelab.methods.learning.scratch import draw_afresh
from prunelab.methods.search.evolution import RATIOS, Evolution, Schedule
from prunelab.methods.search.pruning_net import PruningNet
from prunelab.methods.search.widths import Widths
from prunelab.structure import PruningPlan


class MetaPruning(LearningMethod):
    """Trains a PruningNet, which generates the weights of a network from its widths, then searches the widths.

    - *PruningNet*: the weight of a convolution is ``W(e) = M relu(A e + a) + b``, of full size, where the encoding e
      consists of the widths of the groups of its block, as fractions of their sizes (see ``encodings``). A network of
      widths w uses the crop ``W[:w_out, :w_in]``. Batch normalisations have no scale and no shift.
    - *Training*: each step draws a width of every group from 31 fractions, 0.10, 0.13, ..., 1.00, and minimises the
      loss of this network. Gradients reach A, a, M, b and the layers that are not generated.
    - *Evolution*: a generation has ``population`` networks: ``mutants`` of the best ``parents`` so far (each gene, the
      index of a fraction, changes with probability ``mutation`` to a random other one), ``crossovers`` (each gene comes
      from one of two parents), and random ones, with genes of 12 to 23, up to the population. Only new networks with
      FLOPs from ``(1 - tolerance) T`` to T count, where T is the budget. They are judged by held-out accuracy with
      weights generated for them and BatchNorm statistics measured on the calibration images.

    The PruningNet does not depend on the budget: in a sweep over ``budget.flops`` all runs share its training, and each
    has an evolution of its own.

    The result is the network of highest accuracy. The paper trains it from scratch: recipe.weights=fresh. Without this
    setting it inherits a crop of the weights generated for the full widths.

    Differences from the official code. It has a separate batch normalisation for each width, whose statistics it resets
    for each network of the evolution; here the statistics of the batch are used in training, with the same results. It
    searches on the images of the test set if its folder val is not replaced. Its window is T +- 2.5 %; here the budget
    is the upper end. If random networks miss the window 10,000 times (the official code tries without end), one number
    is added to all genes. Widths are rounded, not truncated, and limited by min_keep and divisor; the encoding has the
    fractions of rounded widths. The inner layers of a bottleneck have a gene each; official: one gene. The official
    code keeps the full output of the last stage: exclude it (exclude=[layer4] for a ResNet). Outside of residual blocks
    a weight is encoded by the groups of its own channels. Weights are scaled to the deviation of common initial
    weights, which has no effect in front of a batch normalisation. Linear layers, biases, and scales of other
    normalisations are not generated but shared by all widths. Statistics are cumulative over calibration images without
    augmentation; official: momentum 0.1, 100,000 augmented images.

    A PruningNet has ``hidden + 1`` times the parameters of the convolutions: 3.1 GB for a ResNet-50, and as much for
    gradients and for momentum.

    Args:
        budget: how much to keep; T.
        hidden: units of the layer between encoding and weights; 64 for MobileNetV2 in the official code.
        population, generations, parents, mutants, crossovers, mutation, tolerance: see above.
        workers, save_every, evaluations: as for ``SearchMethod``.
        settings: those of ``LearningMethod``.

    Logs learning/narrow_loss and learning/wide_loss: the mean training loss over the half of the steps of an epoch with
    the cheaper, and with the more expensive networks.

    Raises:
        UserError: a setting out of range; level block.

    Example:
        >>> method = prunelab.MetaPruning(prunelab.Budget(flops=0.5), generations=5, epochs=2)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'MetaPruning'
    """

    origin: ClassVar[Origin] = Origin(
        "Liu et al., MetaPruning, ICCV 2019",
        "https://arxiv.org/abs/1903.10258",
        code="liuzechun/MetaPruning",
        ours="training on CIFAR",
    )
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")
    eager: ClassVar[bool] = True
    training_mode: ClassVar[TrainingMode] = "normalisation"
    decides_untrained: ClassVar[bool] = False
    any_budget: ClassVar[bool] = True

    def __init__(
        self,
        budget: Budget,
        hidden: int = 32,
        population: int = 50,
        generations: int = 20,
        parents: int = 10,
        mutants: int = 25,
        crossovers: int = 25,
        mutation: float = 0.1,
        tolerance: float = 0.05,
        workers: int = 1,
        save_every: int = 10,
        evaluations: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if hidden < 1:
            raise UserError(f"hidden={hidden}: at least 1 is needed.")
        self.hidden = hidden
        self.schedule = Schedule(population, generations, parents, mutants, crossovers, mutation, tolerance)
        self.workers, self.save_every, self.evaluations = workers, save_every, evaluations
        self._net: PruningNet | None = None
        self._draws = 0
        self._losses: list[tuple[Widths, Tensor]] = []

    @property
    def about(self) -> About:
        found, schedule = super().about, self.schedule
        cost = f"{found.cost}, then {schedule.generations * schedule.population} sub-networks run over held-out images"
        return replace(found, reads="generated weights, held-out accuracy", cost=cost)

    @property
    def reads_images(self) -> bool:
        return True

    @property
    def reads_validation(self) -> bool:
        return True

    def prepare(self, context: PruningContext) -> None:
        require_within_reach(context)
        context.held_out_images()  # raises UserError if there are none
        draw_afresh(context.model, self.seed)
        self._net, self._draws, self._losses = PruningNet(context, self.hidden), 0, []

    def training_loss(self, context: PruningContext, batch: Batch, forward: Forward) -> Tensor:
        net = self._begun()
        generator = np.random.default_rng((self.seed, self._draws))
        self._draws += 1
        space = net.supernet.space
        genes = generator.integers(len(RATIOS), size=(1, space.dimensions))
        images, targets = batch
        row = space.widths(1 - RATIOS[genes])[0]
        with net.at(row):
            loss = self.label_loss(context)(forward(images), targets)
        self._losses.append((row, loss.detach()))
        return loss

    def after_epoch(self, context: PruningContext) -> None:
        self._begun().settle()  # for the validation of the full network

    def watch(self, context: PruningContext) -> dict[str, float]:
        drawn, self._losses = self._losses, []
        costs = self._begun().supernet.space.costs(np.stack([row for row, _ in drawn]))
        losses = torch.stack([loss for _, loss in drawn])[np.argsort(costs, kind="stable").tolist()]
        half = max(1, len(losses) // 2)
        own = float(losses[:half].mean()), float(losses[-half:].mean())
        narrow, wide = np.mean(gather(own), axis=0)
        return {"narrow_loss": float(narrow), "wide_loss": float(wide)}

    def finish(self, context: PruningContext) -> None:
        if self._net is not None:
            self._net.detach()

    def decide(self, context: PruningContext) -> PruningPlan:
        if self._net is None:
            raise UserError(
                "MetaPruning judges by weights that it learned to generate: it needs a learning fit first."
            )
        self._net.to(context.device)
        search = Evolution(
            self.budget,
            self._net,
            self.schedule,
            workers=self.workers,
            save_every=self.save_every,
            evaluations=self.evaluations,
            levels=self.levels,
            seed=self.seed,
        )
        if context.folder is not None:  # runs with other budgets share it
            own = f"{context.budget.resource}-{context.budget.keep:g}"
            context = replace(context, folder=context.folder / own)
        return search.decide(context)

    def state_dict(self) -> dict[str, Any]:
        return {"draws": self._draws}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._draws = state_dict["draws"]

    def _begun(self) -> PruningNet:
        assert self._net is not None, "prepare comes first"
        return self._net
