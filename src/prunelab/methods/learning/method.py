"""LearningMethod: a pruning method that shapes the full network while it trains, and decides afterwards."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from prunelab.distributed.ranks import from_rank_zero, on_all_ranks
from prunelab.errors import UserError
from prunelab.methods.about import About, require_covered
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Normalisation
from prunelab.methods.context import PruningContext
from prunelab.methods.lightning_adapter import find_network, refuse_spawn
from prunelab.methods.method import PruningMethod
from prunelab.methods.untouched import kept_randomness

if TYPE_CHECKING:
    from prunelab.training import Training


class LearningMethod(PruningMethod):
    """Learns during a ``Trainer.fit`` of the full network, then prunes in ``setup`` of the next one::

        method = Slimming(Budget(flops=0.5), plan_file="plan.json")
        pl.Trainer(max_epochs=160, callbacks=[method]).fit(module, datamodule)  # learns
        pl.Trainer(max_epochs=160, callbacks=[method]).fit(module, datamodule)  # prunes, then trains on

    A fit that is resumed from a checkpoint in the middle of learning goes on as if it had not been interrupted.
    With a ``plan_file`` a restarted program knows that learning is over.

    A subclass says what it does in the hooks from ``prepare`` to ``finish``, and in ``decide``. The structure of
    the network never changes in them. What has to outlive an interruption and is not in the network belongs into
    Lightning's ``state_dict`` and ``load_state_dict``: tensors and plain values.

    Args:
        budget: how much to keep in the end.
        training: how prunelab's own runs train while the method learns; a Trainer of yours has its own settings.
        epochs: how long that is, if not ``training.epochs``; milestones and warm-up move in proportion.
        normalisation: see ``Allocation``; None: what suits the method.
        settings: those of ``PruningMethod``.

    Attributes:
        learning: the network that learns, its structure and its budget; None outside of a learning fit.
        step: how many optimizer steps were taken before the one that is under way.
        loss_scale: what the loss is multiplied by before gradients are computed from it, for methods that add to them
            in the backward pass: 1, but for gradient accumulation and float16.

    Raises:
        UserError: a level for which the method is not defined.
    """

    suited_normalisation: ClassVar[Normalisation] = "mean"
    """How ``global`` allocation makes layers comparable, unless the user chooses otherwise."""

    eager: ClassVar[bool] = False
    """Whether the method reaches into forward passes: then the network is not compiled while it learns."""

    learning: PruningContext | None
    step: int
    loss_scale: float

    def __init__(
        self,
        budget: Budget,
        training: Training | None = None,
        epochs: int | None = None,
        normalisation: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(budget, normalisation=normalisation or self.suited_normalisation, **settings)
        require_covered(type(self).__name__, self.levels, self.covers)
        self.training = training if training is None or epochs is None else training.lasting(epochs)
        self.learning = None
        self._learned: weakref.ref[nn.Module] | None = None
        self._rates: dict[Tensor, float] = {}
        self._epoch_is_open = False
        self.step, self._steps, self.loss_scale = 0, math.inf, 1.0

    @property
    def about(self) -> About:
        lasting = f" ({self.training.epochs} epochs)" if self.training else ""
        return About(
            self.origin, "weights as they train", self.covers, f"a training of the full network{lasting}"
        )

    @property
    def reads_images(self) -> bool:
        return False

    @property
    def progress(self) -> float:
        """The part of all steps of this fit that has been taken, in [0, 1].

        Raises:
            UserError: the Trainer has no end.
        """
        if math.isinf(self._steps):
            raise UserError(
                f"{type(self).__name__} changes its settings over the whole training, but this Trainer has no end: "
                "give it max_epochs or max_steps."
            )
        return min(1.0, self.step / max(1, self._steps))

    # What a subclass fills in.

    def prepare(self, context: PruningContext) -> None:
        """Before optimizers and DDP are made, and before the weights of a checkpoint are loaded.

        May change values, refuse a network, or add parameters, which ``finish`` has to take away.
        """

    def before_first_step(self, context: PruningContext) -> None:
        """Once, on the training device; not when a fit is resumed."""

    def before_step(self, context: PruningContext) -> None:
        """Gradients are there, unscaled and averaged over ranks: add those of a penalty here."""

    def after_step(self, context: PruningContext, rates: Mapping[Tensor, float]) -> None:
        """The optimizer has moved the parameters, each at its rate in ``rates``."""

    def after_epoch(self, context: PruningContext) -> None:
        """After the last step of an epoch (or of training), before validation."""

    def watch(self, context: PruningContext) -> dict[str, float]:
        """Figures to log after each epoch, as learning/<name>; the same on every rank."""
        return {}

    def finish(self, context: PruningContext) -> None:
        """The fit is over, or was broken off: the network becomes an ordinary one again."""

    # What calls it.

    def begin(self, context: PruningContext) -> None:
        """The next fit is of ``context.model`` and learns. A Trainer of yours needs no such call."""
        self.learning = context

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        network = find_network(pl_module, self.network)
        if self.learning is None and self._is_over(network):
            super().setup(trainer, pl_module, stage)
            return
        refuse_spawn(trainer)
        with kept_randomness():
            on_all_ranks(lambda: self._prepare(trainer, pl_module, network))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.eager and self.learning is not None and self.learning.model._compiled_call_impl is not None:
            self.learning.model._compiled_call_impl = (
                None  # what Module.compile() set; torch has no public inverse
            )
            rank_zero_info(
                f"{type(self).__name__} looks into the network as it runs: it learns without compiling."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.learning is None:
            return
        self.step, self._steps = trainer.global_step, trainer.estimated_stepping_batches
        if self.step == 0:
            self.before_first_step(self.learning)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.learning is None:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.step = trainer.global_step
        self.loss_scale = (1.0 if scaler is None else scaler.get_scale()) / trainer.accumulate_grad_batches

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.learning is None:
            return
        self._rates |= {
            parameter: float(group["lr"]) for group in optimizer.param_groups for parameter in group["params"]
        }
        self.before_step(self.learning)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.learning is None:
            return
        if self._rates:  # no step is taken while gradients are accumulated
            self.after_step(self.learning, self._rates)
            self._rates = {}
        self._epoch_is_open = not trainer.is_last_batch
        if trainer.is_last_batch:
            self.after_epoch(self.learning)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.learning is None:
            return
        if self._epoch_is_open:  # the Trainer's max_steps ended it
            self.after_epoch(self.learning)
            self._epoch_is_open = False
        for name, value in self.watch(self.learning).items():
            pl_module.log(f"learning/{name}", float(value), on_epoch=True, sync_dist=True, batch_size=1)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and self.learning is not None:
            self._learned = weakref.ref(self.learning.model)
            self._end()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if self.learning is not None:
            self._end()

    def _prepare(self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module) -> None:
        if self.learning is None:
            self.begin(self._context(trainer, pl_module, network))
        assert self.learning is not None
        self.prepare(self.learning)

    def _is_over(self, network: nn.Module) -> bool:
        """Whether this network has learned, here or in the program that wrote the plan file."""
        path = self.plan_file
        if path is not None and from_rank_zero(path.is_file):
            return True
        return any(found is not None and found() is network for found in (self._learned, self._pruned))

    def _end(self) -> None:
        context, self.learning = self.learning, None
        self._rates, self._epoch_is_open = {}, False
        assert context is not None
        self.finish(context)
