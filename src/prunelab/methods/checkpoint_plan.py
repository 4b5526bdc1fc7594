"""CheckpointPlan: a pruned LightningModule writes its plan into checkpoints and is pruned before one is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from prunelab.errors import UserError
from prunelab.methods.lightning_adapter import find_network
from prunelab.structure import PruningPlan
from prunelab.structure.surgery.snapshot import Snapshot
from prunelab.training.restored_plan import prune_as

PLAN_KEY = "prunelab_plan"
"""Key of a Lightning checkpoint: the plan as JSON."""


def plan_key(network: str | None) -> str:
    """The key of the plan of the submodule ``network`` (None: the network of the module)."""
    return PLAN_KEY if network is None else f"{PLAN_KEY}[{network}]"


class CheckpointPlan:
    """Wraps ``on_save_checkpoint`` and ``on_load_checkpoint`` of one LightningModule, from ``attach`` to ``detach``.

    Lightning calls both for every checkpoint, also for one with weights alone, and the latter just before it loads the
    weights.

    Args:
        module: the LightningModule.
        network: name of the pruned submodule, see ``find_network``.
        before_pruning: called before a network is pruned by the plan of a checkpoint.
        fallback: the plan for checkpoints without one (None: there is none).
    """

    def __init__(
        self,
        module: Any,
        network: str | None,
        before_pruning: Callable[[], None] = lambda: None,
        fallback: Callable[[], PruningPlan | None] = lambda: None,
    ) -> None:
        self.module = module
        self.key = plan_key(network)
        self.network = lambda: find_network(module, network)
        self.before_pruning = before_pruning
        self.fallback = fallback
        self.snapshot: Snapshot | None = None

    def attach(self) -> None:
        """Wrap the two hooks of the module."""
        save, load = self.module.on_save_checkpoint, self.module.on_load_checkpoint

        def on_save_checkpoint(checkpoint: dict[str, Any]) -> None:
            save(checkpoint)
            plan = getattr(self.network(), "prunelab_plan", None)
            if plan is not None:
                checkpoint[self.key] = plan.to_json()

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            self._follow(checkpoint)
            load(checkpoint)

        self.module.on_save_checkpoint = on_save_checkpoint
        self.module.on_load_checkpoint = on_load_checkpoint

    def detach(self) -> None:
        """Undo ``attach``."""
        self.snapshot = None
        for name in ("on_save_checkpoint", "on_load_checkpoint"):
            vars(self.module).pop(name, None)

    def _follow(self, checkpoint: Mapping[str, Any]) -> None:
        network = self.network()
        done: PruningPlan | None = getattr(network, "prunelab_plan", None)
        plan = PruningPlan.from_json(checkpoint[self.key]) if self.key in checkpoint else None
        if plan is None and not _fits(self.module, checkpoint):
            plan = self.fallback()
            if plan is None and done is not None:
                raise UserError(
                    "The checkpoint contains the full network, but this one is pruned. Load the weights of the full "
                    "network before the fit that prunes it."
                )
        if plan is None or (done is not None and done.digest() == plan.digest()):
            return
        if done is not None and self.snapshot is not None:
            self.snapshot.restore()
        self.before_pruning()
        prune_as(network, plan)


def _fits(module: nn.Module, checkpoint: Mapping[str, Any]) -> bool:
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    saved = checkpoint.get("state_dict", {})
    return all(shapes[name] == saved[name].shape for name in shapes.keys() & saved.keys())


def load_from_checkpoint(
    module_class: type, path: str | Path, network: str | None = None, **arguments: Any
) -> Any:
    """A LightningModule from a checkpoint that was written after ``PruningCallback`` pruned it.

    ``module_class.load_from_checkpoint`` alone would build the full network and fail on the smaller weights::

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
        CheckpointPlan(module, network)._follow(checkpoint)
        module_class.on_load_checkpoint(module, checkpoint)  # type: ignore[attr-defined]

    prunable = type(module_class.__name__, (module_class,), {"on_load_checkpoint": on_load_checkpoint})
    module = prunable.load_from_checkpoint(path, weights_only=True, **arguments)  # type: ignore[attr-defined]
    module.__class__ = module_class
    return module
