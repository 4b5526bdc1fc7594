"""Plans in Lightning checkpoints: a pruned module saves its plan, and is pruned before a checkpoint is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from prunelab.errors import UserError
from prunelab.methods.lightning_adapter import find_network
from prunelab.methods.plan_file import read_plan
from prunelab.structure.plan_steps import Plan, plan_from_json
from prunelab.training.restored_plan import prune_as

if TYPE_CHECKING:
    from prunelab.methods.learning.learning_fit import LearningFit
    from prunelab.structure.surgery.snapshot import Snapshot

PLAN_KEY = "prunelab_plan"
"""Key of a Lightning checkpoint: the plan as JSON."""

_ATTRIBUTE = "_prunelab_checkpoint_plans"


class CheckpointPlan:
    """The plan of one network of a LightningModule, in the checkpoints of this module.

    Lightning calls ``on_save_checkpoint`` and ``on_load_checkpoint`` of a module for every checkpoint, also for
    one with weights alone, and the latter just before it loads the weights. ``follow_checkpoints`` adds to both.

    Args:
        network: name of the pruned submodule, see ``find_network``.
        plan_file: the plan for checkpoints without one (None: there is none).

    Attributes:
        snapshot: the full network, while another plan may still replace the one that was applied.
        learning: the learning fit that was prepared, which ends if the plan of a checkpoint is applied.
        followed: whether the plan of a checkpoint was applied.
    """

    def __init__(self, network: str | None = None, plan_file: Path | None = None) -> None:
        self.network = network
        self.plan_file = plan_file
        self.snapshot: Snapshot | None = None
        self.learning: LearningFit | None = None
        self.followed = False

    @property
    def key(self) -> str:
        """The key in the checkpoint; different for each pruned network of a module."""
        return PLAN_KEY if self.network is None else f"{PLAN_KEY}[{self.network}]"

    def save(self, module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the plan of the network, if it is pruned."""
        plan = getattr(find_network(module, self.network), "prunelab_plan", None)
        if plan is not None:
            checkpoint[self.key] = plan.to_json()

    def follow(self, module: Any, checkpoint: Mapping[str, Any]) -> None:
        """Prune the network like the one that was saved.

        Raises:
            UserError: the checkpoint is of the full network and this one is pruned; the plan does not fit.
        """
        network = find_network(module, self.network)
        done: Plan | None = getattr(network, "prunelab_plan", None)
        plan: Plan | None = plan_from_json(checkpoint[self.key]) if self.key in checkpoint else None
        if plan is None and not _fits(module, checkpoint):
            plan = None if self.plan_file is None else read_plan(self.plan_file)
            if plan is None and done is not None:
                raise UserError(
                    "The checkpoint contains the full network, but this one is pruned. Load the weights of the full "
                    "network before the fit that prunes it."
                )
        if plan is None:
            return
        self.followed = True
        if self.learning is not None:
            self.learning.detach()
            self.learning = None
        if done is not None and done.digest() == plan.digest():
            return
        if done is not None and self.snapshot is not None:
            self.snapshot.restore()
        prune_as(network, plan)


class _CheckpointPlans:
    """The hooks of one module: those of its class, and the plans of its pruned networks by key."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.plans: dict[str, CheckpointPlan] = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        type(self.module).on_save_checkpoint(self.module, checkpoint)
        for plan in self.plans.values():
            plan.save(self.module, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        for plan in self.plans.values():
            plan.follow(self.module, checkpoint)
        type(self.module).on_load_checkpoint(self.module, checkpoint)


def follow_checkpoints(module: Any, plan: CheckpointPlan) -> None:
    """Save and follow ``plan`` in all checkpoints of ``module`` from now on; replaces an earlier one of its key."""
    plans = vars(module).get(_ATTRIBUTE)
    if plans is None:
        plans = _CheckpointPlans(module)
        vars(module)[_ATTRIBUTE] = plans
        for name in ("on_save_checkpoint", "on_load_checkpoint"):
            vars(module)[name] = getattr(plans, name)
    plans.plans[plan.key] = plan


def _fits(module: nn.Module, checkpoint: Mapping[str, Any]) -> bool:
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    saved = checkpoint.get("state_dict", {})
    return all(shapes[name] == saved[name].shape for name in shapes.keys() & saved.keys())


def load_from_checkpoint(
    module_class: type, path: str | Path, network: str | None = None, **arguments: Any
) -> Any:
    """A LightningModule from a checkpoint that was saved after ``PruningCallback`` pruned it.

    ``module_class.load_from_checkpoint`` builds the full network and fails on the smaller weights::

        module = prunelab.load_from_checkpoint(MyModule, "last.ckpt", lr=0.1)

    Args:
        module_class: class of the LightningModule.
        path: the checkpoint; it is read with ``weights_only=True``, so it cannot run code.
        network: name of the pruned submodule, if the callback was given one.
        arguments: of ``module_class.load_from_checkpoint``: ``map_location``, arguments of the constructor.

    Raises:
        UserError: the plan is of another network.
        FileNotFoundError: there is no such file.
    """

    def on_load_checkpoint(module: Any, checkpoint: dict[str, Any]) -> None:
        CheckpointPlan(network).follow(module, checkpoint)
        module_class.on_load_checkpoint(module, checkpoint)  # type: ignore[attr-defined]

    prunable = type(module_class.__name__, (module_class,), {"on_load_checkpoint": on_load_checkpoint})
    module = prunable.load_from_checkpoint(path, weights_only=True, **arguments)  # type: ignore[attr-defined]
    module.__class__ = module_class
    return module
