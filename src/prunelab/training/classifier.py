"""The LightningModule that trains and tests the networks of a run."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from prunelab.errors import UserError
from prunelab.structure.plan_steps import plan_from_json
from prunelab.training.distillation import Teacher
from prunelab.training.restored_plan import prune_as
from prunelab.training.schedule import make_schedule
from prunelab.training.settings import Training, make_optimizer

_PLAN = "prunelab_plan"  # key of a checkpoint
Batch = tuple[Tensor, Tensor]  # images (N, C, H, W) and classes (N,)


class Classifier(pl.LightningModule):
    """An image classifier: cross-entropy, top-1 and top-5 accuracy, and the schedule of a ``Training``.

    Logs train/loss and train/top1, and loss, top1 and top5 under val/ and test/, once per epoch as means over all
    images and ranks. Accuracies are fractions in [0, 1]; with fewer than five classes top5 includes all of them.

    ``backbone`` may be pruned before a fit or between fits, but not during a fit. A checkpoint contains the plan of a
    pruned backbone (``prunelab_plan``); a Classifier with the full network is pruned by it before the weights are
    loaded. A checkpoint contains no hyperparameters, so it can be loaded with ``weights_only=True``.

    Args:
        backbone: images (N, C, H, W) to logits (N, num_classes).
        num_classes: number of classes.
        training: optimizer, schedule and label smoothing.
        channels_last: use the channels-last memory format for weights and images; faster on GPUs with tensor cores.
        compile: compile the backbone at the start of a fit or test, after pruning; a string is the mode of
            ``torch.compile``, such as "reduce-overhead", which replays kernels as CUDA graphs.
        fused: update all parameters in one kernel per step, see ``make_optimizer``.
        teacher: its outputs are additional targets, if given.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        training: Training,
        channels_last: bool = False,
        compile: bool | str = False,
        fused: bool = False,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        self.training_settings = training
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.compiles = compile
        self.fused = fused
        self.teacher = teacher
        self._train_sums = _TrainSums()
        self.val_top1, self.val_top5 = _accuracy(num_classes, 1), _accuracy(num_classes, 5)
        self.test_top1, self.test_top5 = _accuracy(num_classes, 1), _accuracy(num_classes, 5)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, C, H, W)."""
        logits: Tensor = self.backbone(images.contiguous(memory_format=self.memory_format))
        return logits

    def loss(self, images: Tensor, logits: Tensor, classes: Tensor) -> Tensor:
        """The training loss, a scalar. A subclass can add terms."""
        loss = cross_entropy(logits, classes, label_smoothing=self.training_settings.label_smoothing)
        if self.teacher is None:
            return loss
        return self.teacher.loss(images.contiguous(memory_format=self.memory_format), logits, loss)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, classes = batch
        logits = self(images)
        loss = self.loss(images, logits, classes)
        self._train_sums.add(loss, logits, classes)
        return loss

    def on_train_epoch_start(self) -> None:
        self._train_sums = _TrainSums()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_index: int) -> None:
        """Log the epoch's means after its last step: logging at each step is slow for small networks."""
        if self.trainer.is_last_batch or self.trainer.global_step == self.trainer.max_steps:
            for name, mean in self._train_sums.means().items():
                self._log_epoch(f"train/{name}", mean, self._train_sums.images)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("val", batch, self.val_top1, self.val_top5)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("test", batch, self.test_top1, self.test_top5)

    def configure_model(self) -> None:
        """Set the memory format and compile. Callbacks have pruned the backbone before, in ``setup``."""
        self.backbone.to(memory_format=self.memory_format)
        if self.teacher is not None:
            self.teacher.network.to(memory_format=self.memory_format)
        if self.compiles:
            self.backbone.compile(**({"mode": self.compiles} if isinstance(self.compiles, str) else {}))

    def teardown(self, stage: str) -> None:
        """Restore the eager forward pass: between fits the structure is traced operator by operator."""
        if self.backbone._compiled_call_impl is not None:
            self.backbone._compiled_call_impl = None  # set by Module.compile(), which has no public inverse
            # torch counts the compilations of a class, not of a network: after 8 (the third or fourth training in a
            # process) it would run new ones eagerly. CUDA graphs would also keep their memory.
            torch.compiler.reset()

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and the schedule over the length of this fit, which advances at every optimizer step."""
        total_steps = self.trainer.estimated_stepping_batches
        if math.isinf(total_steps):
            raise UserError(
                "The learning rate cannot be scheduled because the Trainer has no maximum number of epochs: pass "
                f"max_epochs={self.training_settings.epochs}, the epochs of the training settings."
            )
        optimizer = make_optimizer(self.backbone, self.training_settings, self.fused)
        schedule = make_schedule(optimizer, self.training_settings, int(total_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        plan = getattr(self.backbone, "prunelab_plan", None)
        if plan is not None:
            checkpoint[_PLAN] = plan.to_json()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Prune the backbone like the saved one; Lightning loads the weights afterwards."""
        if _PLAN in checkpoint:
            prune_as(self.backbone, plan_from_json(checkpoint[_PLAN]))
        elif hasattr(self.backbone, "prunelab_plan"):
            raise UserError(
                "The checkpoint contains a full network, but this network is pruned. Load it into a full network."
            )

    def _evaluate(self, stage: str, batch: Batch, top1: MulticlassAccuracy, top5: MulticlassAccuracy) -> None:
        images, classes = batch
        logits = self(images)
        top1.update(logits, classes)
        top5.update(logits, classes)
        self._log_epoch(f"{stage}/loss", cross_entropy(logits, classes), len(classes))
        self._log_epoch(f"{stage}/top1", top1, len(classes))
        self._log_epoch(f"{stage}/top5", top5, len(classes))

    def _log_epoch(self, name: str, value: Tensor | MulticlassAccuracy, images: int) -> None:
        """Log the mean over the images of an epoch on all ranks. Metric objects reduce over ranks themselves."""
        self.log(
            name,
            value,
            on_step=False,
            on_epoch=True,
            prog_bar=not name.endswith("top5"),
            sync_dist=isinstance(value, Tensor),
            batch_size=images,
        )


class _TrainSums:
    """Sums of loss and correct predictions over an epoch, accumulated on the device without synchronisation."""

    def __init__(self) -> None:
        self.images = 0
        self._sums: Tensor | None = None  # loss times images; correctly classified images

    def add(self, loss: Tensor, logits: Tensor, classes: Tensor) -> None:
        hits = (logits.detach().argmax(dim=1) == classes).sum()
        wide = torch.float32 if loss.device.type == "mps" else torch.float64
        sums = torch.stack([loss.detach().to(wide) * len(classes), hits.to(wide)])
        self._sums = sums if self._sums is None else self._sums + sums
        self.images += len(classes)

    def means(self) -> dict[str, Tensor]:
        """The mean loss and the top-1 accuracy of the images added so far."""
        if self._sums is None:
            return {}
        loss, top1 = (self._sums / self.images).float()
        return {"loss": loss, "top1": top1}


def _accuracy(num_classes: int, top_k: int) -> MulticlassAccuracy:
    # Validation of the arguments would synchronise with the device in each batch; the loss checks the classes.
    return MulticlassAccuracy(
        num_classes, top_k=min(top_k, num_classes), average="micro", validate_args=False
    )
