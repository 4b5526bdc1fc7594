"""PruningCallback: runs any pruning method inside a Lightning ``Trainer``."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer

from prunelab.distributed.messages import info, show_info
from prunelab.distributed.ranks import from_rank_zero, on_all_ranks, require_same
from prunelab.errors import UserError
from prunelab.methods.calibration import Calibration, Unpack, unpack_batch
from prunelab.methods.checkpoint_plan import CheckpointPlan, follow_checkpoints
from prunelab.methods.context import CPU, Loss, PruningContext
from prunelab.methods.latency_budget import decide
from prunelab.methods.learning.learning_fit import LearningFit
from prunelab.methods.learning.method import LearningMethod
from prunelab.methods.lightning_adapter import (
    accepted_by_both_packages,
    calibration_loader,
    made_network,
    reject_copies,
    reject_spawn,
    reject_stale_optimizers,
    scoring_device,
    shows_progress,
    unpruned_networks,
    validation_loader,
)
from prunelab.methods.method import PruningMethod
from prunelab.methods.module_loss import ModuleLoss
from prunelab.methods.plan_file import read_plan, require_fit, write_plan
from prunelab.methods.untouched import kept_randomness
from prunelab.structure import PruningPlan, apply
from prunelab.structure.surgery.snapshot import Snapshot


class PruningCallback(pl.Callback):
    """Prunes the network of a LightningModule once, in ``setup`` of the first fit.

    That is before DDP wraps the network and before optimizers are made, so that both handle the smaller network
    only. The fit that follows is the recovery::

        method = prunelab.ImportanceMethod(prunelab.Taylor(), prunelab.Budget(flops=0.5))
        trainer = pl.Trainer(callbacks=[prunelab.PruningCallback(method)])
        trainer.fit(module, datamodule)

    A ``LearningMethod`` learns during the first fit and prunes before the second one.

    Checkpoints contain the plan: ``fit``, ``validate``, ``test`` and ``predict`` with ``ckpt_path=`` work in a new
    process whose module has the full network, and so does ``prunelab.load_from_checkpoint``.

    Args:
        method: decides what to keep.
        network: name of the submodule to prune. By default the LightningModule itself if it defines ``forward``, else
            its only child with parameters.
        plan_file: if this file exists the plan is read from it, else it is written there.
        example_input: the input of one forward pass. By default the ``example_input_array`` of the module, else an
            image of the calibration loader.
        calibration: batches of training images for the method, the same on every rank. By default those of
            ``calibration_dataloader(images)`` of the data module if it has one, else of the train dataloader.
        validation: batches held out of training, the same on every rank, for methods that compare networks by
            accuracy. By default those of ``validation_dataloader(images)`` of the data module if it has one, else of
            the val dataloader.
        unpack: batch -> (images, targets). By default tensors, tuples, lists and dicts with customary keys.
        loss: (outputs, targets) -> mean loss, for criteria that read gradients. By default the loss that
            ``training_step`` returns.

    Attributes:
        plan: the decision; None before ``setup``.

    Example:
        >>> method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(flops=0.5))
        >>> callback = prunelab.PruningCallback(method, plan_file="plan.json")
        >>> callback.plan is None
        True
    """

    plan: PruningPlan | None

    def __init__(
        self,
        method: PruningMethod,
        network: str | None = None,
        plan_file: str | Path | None = None,
        example_input: Any = None,
        calibration: Iterable[Any] | None = None,
        validation: Iterable[Any] | None = None,
        unpack: Unpack = unpack_batch,
        loss: Loss | None = None,
    ) -> None:
        super().__init__()
        self.__class__ = accepted_by_both_packages(type(self))
        if not isinstance(method, PruningMethod):
            raise UserError(
                f"method={method!r} is not a pruning method: give for example "
                "prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(flops=0.5))."
            )
        self.method = method
        self.network = network
        self.plan_file = None if plan_file is None else Path(plan_file)
        self.example_input = example_input
        self.calibration = calibration
        self.validation = validation
        self.unpack = unpack
        self.loss = loss
        self.plan = None
        self._learning = LearningFit(method, unpack) if isinstance(method, LearningMethod) else None
        self._pruned: weakref.ref[nn.Module] | None = None
        self._learned: weakref.ref[nn.Module] | None = None
        self._checkpoints = CheckpointPlan()

    @property
    def state_key(self) -> str:
        """The key of the state in a Lightning checkpoint; different for each pruned network of a module."""
        return "PruningCallback" if self.network is None else f"PruningCallback[{self.network}]"

    # Decide and prune -----------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Decide on every rank, require equal plans, and prune. Happens once for each network.

        Raises:
            UserError: on every rank, if any rank fails or the plans differ.
        """
        show_info()
        self._checkpoints = CheckpointPlan(self.network, self.plan_file)
        follow_checkpoints(pl_module, self._checkpoints)
        if stage != "fit":
            return
        network = made_network(pl_module, self.network)
        if self._is_pruned(network):
            return
        reject_spawn(trainer)
        reject_copies(trainer, self, pl_module, network)
        with kept_randomness():
            if self._learning is not None and not self._has_learned(network):
                on_all_ranks(lambda: self._start_learning(trainer, pl_module, network))
            else:
                self._prune(trainer, pl_module, network)

    def _is_pruned(self, network: nn.Module) -> bool:
        return self._pruned is not None and self._pruned() is network

    def _prune(self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module) -> None:
        self._pruned = weakref.ref(network)
        path = self.plan_file
        stored = None if path is None else from_rank_zero(lambda: read_plan(path))
        already = getattr(network, "prunelab_plan", None)
        if stored is not None and already is not None and stored.digest() == already.digest():
            self.plan = stored
            return
        context = on_all_ranks(lambda: self._context(trainer, pl_module, network))
        plan = self._agreed_plan(context, stored)
        self.plan = plan
        if already is None or already.digest() != plan.digest():
            on_all_ranks(lambda: self.method.reconstruct(context, plan))
            self._checkpoints.snapshot = Snapshot(network)
            apply(network, plan)
            unused = context.graph.unused_parameters
            info(_effect(context, plan) + unpruned_networks(pl_module, network, unused))

    def _agreed_plan(self, context: PruningContext, stored: PruningPlan | None) -> PruningPlan:
        path = self.plan_file
        plan = on_all_ranks(lambda: self._plan(context, stored))
        require_same(
            plan.digest(),
            "The ranks decided different plans. They must start from the same weights and read the same "
            "calibration loader: load one checkpoint, or call seed_everything before the network is made.",
        )
        if path is not None and stored is None:
            from_rank_zero(lambda: write_plan(plan, path))
        return plan

    def _plan(self, context: PruningContext, stored: PruningPlan | None) -> PruningPlan:
        if stored is None:
            return decide(self.method, context)[0]
        assert self.plan_file is not None
        require_fit(stored, self.plan_file, context.graph, self.method.budget)
        info(f"The pruning plan is read from {self.plan_file}; delete the file to decide again.")
        return stored

    def _context(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module
    ) -> PruningContext:
        example = self.example_input if self.example_input is not None else pl_module.example_input_array
        loader = self.calibration
        if loader is None and (self.method.reads_images or example is None):
            loader = calibration_loader(trainer, self.method.images)
        if example is None:
            example = self._first_image(loader)
        loss: dict[str, Any] = (
            {"batch_loss": ModuleLoss(pl_module, network, self.unpack)}
            if self.loss is None
            else {"loss": self.loss}
        )
        return self.method.context(
            network,
            example,
            loader,
            device=scoring_device(trainer),
            progress=shows_progress(trainer),
            validation=self._validation(trainer),
            unpack=self.unpack,
            **loss,
        )

    def _validation(self, trainer: pl.Trainer) -> Iterable[Any] | None:
        if self.validation is None and self.method.reads_validation:
            return validation_loader(trainer, self.method.validation_images)
        return self.validation

    def _first_image(self, loader: Iterable[Any] | None) -> torch.Tensor:
        assert loader is not None
        for images, _ in Calibration(loader, 1, self.unpack).batches(CPU):
            return images
        raise UserError(
            "The calibration loader is empty, so the input shape of the network is unknown. Give example_input=."
        )

    # State of a method that learns -------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The state of a method that is learning."""
        if self._learning is None or not self._learning.active:
            return {}
        return {"method": self._learning.method.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._learning is not None and self._learning.active and "method" in state_dict:
            self._learning.method.load_state_dict(state_dict["method"])

    # Learning -------------------------------------------------------------------------------------------

    def _has_learned(self, network: nn.Module) -> bool:
        """Whether the method has learned on this network, here or in the process that wrote the plan file."""
        path, learning = self.plan_file, self._learning
        assert learning is not None
        if learning.active:
            return False
        if path is not None and from_rank_zero(path.is_file):
            return True
        return self._learned is not None and self._learned() is network

    def _start_learning(self, trainer: pl.Trainer, pl_module: pl.LightningModule, network: nn.Module) -> None:
        learning = self._learning
        assert learning is not None
        if not learning.active:
            learning.method.begin(self._context(trainer, pl_module, network))
        learning.attach(pl_module)
        self._checkpoints.learning = learning

    def _follow(self, network: nn.Module) -> None:
        """The plan of a checkpoint has replaced what this process decided."""
        self.plan = getattr(network, "prunelab_plan", None)
        self._pruned = weakref.ref(network)

    def _learns(self) -> LearningFit | None:
        return self._learning if self._learning is not None and self._learning.active else None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network = made_network(pl_module, self.network)
        self._checkpoints.snapshot = self._checkpoints.learning = (
            None  # frees the tensors of the full network
        )
        if self._checkpoints.followed:
            self._follow(network)
        if self._is_pruned(network):
            reject_stale_optimizers(trainer, pl_module)
        elif self._pruned is not None and self._learns() is None:
            raise UserError(
                f"configure_model of {type(pl_module).__name__} made a new network after the first one was pruned. "
                "Lightning calls it several times: return at once if the network is there already."
            )
        if (learning := self._learns()) is not None:
            learning.on_fit_start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (learning := self._learns()) is not None:
            learning.on_train_start(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if (learning := self._learns()) is not None:
            learning.on_train_batch_start(trainer)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        if (learning := self._learns()) is not None:
            learning.on_before_optimizer_step(optimizer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if (learning := self._learns()) is not None:
            learning.on_train_batch_end(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (learning := self._learns()) is not None:
            learning.on_train_epoch_end(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and (learning := self._learns()) is not None:
            self._learned = weakref.ref(made_network(pl_module, self.network))
            learning.detach()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if (learning := self._learns()) is not None:
            learning.detach()


def _effect(context: PruningContext, plan: PruningPlan) -> str:
    """The effect of ``plan``, in one line."""
    cost = context.graph.cost
    pairs = ((cost.flops(), cost.flops(plan), "FLOPs"), (cost.params(), cost.params(plan), "parameters"))
    parts = [f"{before:,.0f} -> {after:,.0f} {what} ({after / before:.1%})" for before, after, what in pairs]
    dropped = f", without {', '.join(plan.dropped_blocks)}" if plan.dropped_blocks else ""
    return f"Pruned {context.name}: {', '.join(parts)}{dropped}."
